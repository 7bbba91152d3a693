// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <ostream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/_standard_gamma.h>
#include <c10/util/Exception.h>
#include <torch/types.h>

#include <bsconv/data/batch_source.hpp>
#include <bsconv/util/text.hpp>

namespace bsconv::data {

/// Mixes the images of a batch with each other, and their labels with them: `Batch::targets` of the
/// result holds what to train on, `Batch::labels` stays.
class Mixing {
 public:
  /// From a batch with float images, the number of classes and the CPU's generator.
  using Function = std::function<Batch(const Batch&, int64_t, torch::Generator&)>;

  /// Does nothing.
  Mixing() = default;
  /// `function`, printed as `name`.
  Mixing(std::string name, Function function)
      : name_(std::move(name)), function_(std::move(function)) {}

  /// The mixed batch.
  Batch operator()(const Batch& batch, int64_t num_classes, torch::Generator& generator) const {
    return function_ ? function_(batch, num_classes, generator) : batch;
  }
  /// Whether there is anything to do.
  explicit operator bool() const noexcept { return static_cast<bool>(function_); }
  /// Name and settings.
  const std::string& name() const noexcept { return name_; }

 private:
  std::string name_ = "none";
  Function function_;
};

/// Writes name and settings, such as `Mixup(alpha=0.2)`.
inline std::ostream& operator<<(std::ostream& stream, const Mixing& mixing) {
  return stream << mixing.name();
}

namespace detail {

/// A number from Beta(alpha, alpha).
inline double draw_beta(double alpha, torch::Generator& generator) {
  const auto gamma = at::_standard_gamma(torch::full({2}, alpha, torch::kDouble), generator);
  const double first = gamma[0].item<double>();
  const double sum = first + gamma[1].item<double>();
  // Both underflow to 0 where alpha is tiny; then the share is all or nothing anyway.
  return sum > 0 ? first / sum : 1.0;
}

inline int64_t draw_below(int64_t limit, torch::Generator& generator) {
  return torch::randint(0, limit, {1}, generator, torch::kLong).item<int64_t>();
}

inline void check_alpha(const char* name, double alpha) {
  TORCH_CHECK(std::isfinite(alpha) && alpha > 0, name, ": alpha must be positive, got ", alpha);
}

/// `share` of each label and the rest of the previous image's, float [N, classes].
inline torch::Tensor mixed_targets(const Batch& batch, int64_t num_classes, double share) {
  TORCH_CHECK(batch.images.defined() && batch.images.dim() == 4 && batch.labels.defined() &&
                  batch.labels.dim() == 1 && batch.images.size(0) == batch.labels.size(0),
              "mixing needs images [N, C, H, W] and labels [N]");
  const auto own = batch.targets.defined()
                       ? batch.targets
                       : torch::one_hot(batch.labels, num_classes).to(torch::kFloat);
  return own * share + own.roll(1, 0) * (1 - share);
}

}  // namespace detail

/// Each image times `share` plus the one before it in the batch times 1 - `share`.
inline Batch blend_images(const Batch& batch, int64_t num_classes, double share) {
  auto targets = detail::mixed_targets(batch, num_classes, share);
  return {batch.images * share + batch.images.roll(1, 0) * (1 - share), batch.labels,
          std::move(targets)};
}

/// Rows `top` to `bottom` and columns `left` to `right`, the ends excluded, of each image come from
/// the one before it in the batch; the targets follow the area.
inline Batch paste_images(const Batch& batch, int64_t num_classes, int64_t top, int64_t left,
                          int64_t bottom, int64_t right) {
  const auto height = static_cast<double>(batch.images.size(2));
  const auto width = static_cast<double>(batch.images.size(3));
  const auto pasted = static_cast<double>(bottom - top) * static_cast<double>(right - left);
  auto targets = detail::mixed_targets(batch, num_classes, 1 - pasted / (height * width));
  auto images = batch.images.clone();
  images.slice(2, top, bottom)
      .slice(3, left, right)
      .copy_(batch.images.roll(1, 0).slice(2, top, bottom).slice(3, left, right));
  return {std::move(images), batch.labels, std::move(targets)};
}

/// Mixup: images and labels blended with a share from Beta(alpha, alpha), drawn once a batch, as
/// torchvision's `v2.MixUp`. Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization",
/// ICLR 2018.
inline Mixing mixup(double alpha = 0.2) {
  detail::check_alpha("mixup", alpha);
  std::ostringstream name;
  name << "Mixup(alpha=" << alpha << ')';
  return {name.str(), [alpha](const Batch& batch, int64_t num_classes, torch::Generator& random) {
            return blend_images(batch, num_classes, detail::draw_beta(alpha, random));
          }};
}

/// CutMix: a box of each image comes from another, of an area from Beta(alpha, alpha), drawn once a
/// batch, as torchvision's `v2.CutMix`. Source: Yun et al., "CutMix: Regularization Strategy to
/// Train Strong Classifiers with Localizable Features", ICCV 2019.
inline Mixing cutmix(double alpha = 1.0) {
  detail::check_alpha("cutmix", alpha);
  std::ostringstream name;
  name << "CutMix(alpha=" << alpha << ')';
  return {name.str(), [alpha](const Batch& batch, int64_t num_classes, torch::Generator& random) {
            const int64_t height = batch.images.size(2);
            const int64_t width = batch.images.size(3);
            const double half = 0.5 * std::sqrt(1 - detail::draw_beta(alpha, random));
            const int64_t x = detail::draw_below(width, random);
            const int64_t y = detail::draw_below(height, random);
            const auto reach_x = static_cast<int64_t>(half * static_cast<double>(width));
            const auto reach_y = static_cast<int64_t>(half * static_cast<double>(height));
            return paste_images(batch, num_classes, std::max<int64_t>(y - reach_y, 0),
                                std::max<int64_t>(x - reach_x, 0), std::min(y + reach_y, height),
                                std::min(x + reach_x, width));
          }};
}

/// One of `choices` for each batch, each as likely as the others.
inline Mixing choose_mixing(std::vector<Mixing> choices) {
  TORCH_CHECK(!choices.empty(), "choose_mixing needs something to choose from");
  std::vector<std::string> names;
  for (const auto& choice : choices) {
    names.push_back(choice.name());
  }
  std::string name = "Choice(";
  name += bsconv::detail::join(names, ", ");
  name += ')';
  return {name, [choices = std::move(choices)](const Batch& batch, int64_t num_classes,
                                               torch::Generator& random) {
            const auto chosen = detail::draw_below(static_cast<int64_t>(choices.size()), random);
            return choices[static_cast<std::size_t>(chosen)](batch, num_classes, random);
          }};
}

}  // namespace bsconv::data
