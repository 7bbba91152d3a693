// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <concepts>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <memory>
#include <ostream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <torch/types.h>

namespace bsconv::data {

/// One change of a batch of images, such as a random crop.
///
/// It draws only from the generator it is given, so equal seeds give equal images. The generator is
/// the CPU's wherever the images lie: what is drawn does not depend on the device.
class Transform {
 public:
  virtual ~Transform() = default;

  /// The changed images; `images` [N, C, H, W] stays as it is.
  virtual torch::Tensor apply(const torch::Tensor& images, torch::Generator& generator) const = 0;
  /// Writes name and settings, such as `RandomCrop(size=32, padding=4)`.
  virtual void pretty_print(std::ostream& stream) const = 0;
};

class Augmentation;

namespace detail {

inline void check_batch(const torch::Tensor& images) {
  TORCH_CHECK(images.defined() && images.dim() == 4, "images must be a tensor [N, C, H, W], got ",
              images.defined() ? c10::str(images.sizes()) : "an undefined tensor");
}

inline void check_batch(const torch::Tensor& images, const torch::Generator& generator) {
  check_batch(images);
  TORCH_CHECK(generator.defined() && generator.device().is_cpu(),
              "augmentation needs a generator of the CPU, got ",
              generator.defined() ? generator.device().str() : "an undefined one");
}

inline void check_probability(double probability) {
  TORCH_CHECK(probability >= 0 && probability <= 1, "probability must lie in 0..1, got ",
              probability);
}

/// A user's own function.
class FunctionTransform : public Transform {
 public:
  using Function = std::function<torch::Tensor(const torch::Tensor&, torch::Generator&)>;

  FunctionTransform(std::string name, Function function)
      : name_(std::move(name)), function_(std::move(function)) {
    TORCH_CHECK(function_, "the transform '", name_, "' has no function");
  }
  torch::Tensor apply(const torch::Tensor& images, torch::Generator& generator) const override {
    return function_(images, generator);
  }
  void pretty_print(std::ostream& stream) const override { stream << name_; }

 private:
  std::string name_;
  Function function_;
};

template <class T>
concept TransformLike = std::derived_from<std::remove_cvref_t<T>, Transform>;

template <class F>
concept TransformFunction =
    !std::same_as<std::remove_cvref_t<F>, Augmentation> && !TransformLike<F> &&
    std::is_invocable_r_v<torch::Tensor, const std::remove_cvref_t<F>&, const torch::Tensor&,
                          torch::Generator&>;

}  // namespace detail

/// Transforms that run one after the other on a batch of images while it is still uint8, which
/// loaders expect back.
///
///     bsconv::data::Augmentation augmentation{
///         bsconv::data::RandomCrop(32, 4), bsconv::data::RandomHorizontalFlip(),
///         [](const torch::Tensor& images, torch::Generator&) { return 255 - images; }};
///     std::cout << augmentation;  // RandomCrop(size=32, padding=4), RandomHorizontalFlip(…), …
class Augmentation {
 public:
  /// Does nothing.
  Augmentation() = default;
  /// Does nothing.
  Augmentation(std::nullptr_t) {}  // NOLINT(google-explicit-constructor)
  /// A single transform.
  template <detail::TransformLike T>
  Augmentation(T&& transform)  // NOLINT(google-*,bugprone-*)
      : transforms_{std::make_shared<std::remove_cvref_t<T>>(std::forward<T>(transform))} {}
  /// A function of one's own from images [N, C, H, W] and a generator to images.
  template <detail::TransformFunction F>
  Augmentation(F&& function)  // NOLINT(google-*,bugprone-*)
      : Augmentation("Function()", std::forward<F>(function)) {}
  /// The same, printed as `name`.
  Augmentation(std::string name,
               std::function<torch::Tensor(const torch::Tensor&, torch::Generator&)> function)
      : transforms_{
            std::make_shared<detail::FunctionTransform>(std::move(name), std::move(function))} {}
  /// All of `parts`, in this order.
  Augmentation(std::initializer_list<Augmentation> parts) {
    for (const auto& part : parts) {
      then(part);
    }
  }

  /// Adds what `next` does to the end.
  Augmentation& then(const Augmentation& next) {
    const auto added = next.transforms_;
    transforms_.insert(transforms_.end(), added.begin(), added.end());
    return *this;
  }

  /// What it does from transform `first` on.
  Augmentation from(std::size_t first) const {
    Augmentation result;
    for (std::size_t i = first; i < transforms_.size(); ++i) {
      result.transforms_.push_back(transforms_[i]);
    }
    return result;
  }

  /// The changed images.
  torch::Tensor operator()(const torch::Tensor& images, torch::Generator& generator) const {
    torch::Tensor result = images;
    for (const auto& transform : transforms_) {
      result = transform->apply(result, generator);
    }
    return result;
  }

  /// Whether there is anything to do.
  explicit operator bool() const noexcept { return !transforms_.empty(); }
  /// The transforms, in order.
  const std::vector<std::shared_ptr<const Transform>>& transforms() const noexcept {
    return transforms_;
  }

 private:
  std::vector<std::shared_ptr<const Transform>> transforms_;
};

/// Writes the transforms, separated by commas; "none" if there are none.
inline std::ostream& operator<<(std::ostream& stream, const Augmentation& augmentation) {
  const char* separator = "";
  for (const auto& transform : augmentation.transforms()) {
    stream << separator;
    transform->pretty_print(stream);
    separator = ", ";
  }
  return augmentation ? stream : stream << "none";
}

}  // namespace bsconv::data
