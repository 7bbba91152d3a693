// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <ostream>
#include <sstream>
#include <string>
#include <utility>

#include <torch/types.h>

#include <bsconv/data/image_size.hpp>
#include <bsconv/data/transform.hpp>
#include <bsconv/util/split_mix.hpp>

namespace bsconv::data {

/// A short stream of random numbers (SplitMix64) that costs nothing to begin, so that each image
/// can have its own.
class ImageRandom {
 public:
  /// Equal seeds give equal numbers.
  explicit ImageRandom(uint64_t seed) : state_(seed) {}

  /// A number in [0, 1).
  double uniform() {
    state_ += bsconv::detail::split_mix_step;
    return static_cast<double>(bsconv::detail::split_mix(state_) >> 11U) * 0x1.0p-53;
  }
  /// A number in [`low`, `high`).
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// An integer in 0..`limit` - 1.
  int64_t below(int64_t limit) {
    return std::min(static_cast<int64_t>(uniform() * static_cast<double>(limit)), limit - 1);
  }

 private:
  uint64_t state_;
};

/// How one image becomes one of the batch's size: `region` of the original is scaled to `resized`;
/// the window of the geometry's size at (`top`, `left`) of that is the result, zero where it leaves
/// the scaled image and mirrored on request.
struct ImagePlan {
  /// First row of the region.
  int64_t region_top = 0;
  /// First column of the region.
  int64_t region_left = 0;
  /// Size of the region.
  ImageSize region;
  /// What the region is scaled to.
  ImageSize resized;
  /// First row of the window.
  int64_t top = 0;
  /// First column of the window.
  int64_t left = 0;
  /// Whether the window is mirrored left to right.
  bool mirrored = false;
};

/// Bounds of a random rectangle; the defaults are those of torchvision's `RandomResizedCrop`.
struct ResizedCropRange {
  /// Smallest and largest share of the image's area. Default: 0.08 to 1.
  std::array<double, 2> scale = {0.08, 1.0};
  /// Smallest and largest ratio of width to height, or, in `RandomErasing`, of height to width.
  /// Default: 3/4 to 4/3.
  std::array<double, 2> ratio = {3.0 / 4.0, 4.0 / 3.0};

  /// Throws, naming `owner`, unless both are ordered and in their range.
  void check(const char* owner) const {
    TORCH_CHECK(0 < scale[0] && scale[0] <= scale[1] && scale[1] <= 1, owner,
                ": the scale must lie in 0..1 in rising order, got ", scale[0], " to ", scale[1]);
    TORCH_CHECK(0 < ratio[0] && ratio[0] <= ratio[1] && std::isfinite(ratio[1]), owner,
                ": the ratio must be positive in rising order, got ", ratio[0], " to ", ratio[1]);
  }
};

/// Draws a region of an image as torchvision's `RandomResizedCrop` does: ten attempts at a share of
/// the area and a ratio, then the largest region in the middle with an allowed ratio.
inline ImagePlan draw_resized_crop(ImageSize original, const ResizedCropRange& range,
                                   ImageRandom& random) {
  const auto height = static_cast<double>(original.height);
  const auto width = static_cast<double>(original.width);
  ImagePlan plan;
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double area = height * width * random.uniform(range.scale[0], range.scale[1]);
    const double ratio =
        std::exp(random.uniform(std::log(range.ratio[0]), std::log(range.ratio[1])));
    plan.region = {std::lrint(std::sqrt(area / ratio)), std::lrint(std::sqrt(area * ratio))};
    if (plan.region.height > 0 && plan.region.height <= original.height && plan.region.width > 0 &&
        plan.region.width <= original.width) {
      plan.region_top = random.below(original.height - plan.region.height + 1);
      plan.region_left = random.below(original.width - plan.region.width + 1);
      return plan;
    }
  }
  plan.region = original;
  if (width / height < range.ratio[0]) {
    plan.region.height = std::max<int64_t>(std::lrint(width / range.ratio[0]), 1);
  } else if (width / height > range.ratio[1]) {
    plan.region.width = std::max<int64_t>(std::lrint(height * range.ratio[1]), 1);
  }
  plan.region_top = (original.height - plan.region.height) / 2;
  plan.region_left = (original.width - plan.region.width) / 2;
  return plan;
}

/// What images are scaled to before a crop: a size, or a length of the shorter side.
class ResizeRule {
 public:
  /// Exactly `size`; the ratio of the sides is not kept.
  ResizeRule(ImageSize size) : size_(size) {  // NOLINT(google-explicit-constructor)
    size.check("the size to resize to");
  }
  /// Exactly `side` x `side`.
  ResizeRule(int64_t side)  // NOLINT(google-explicit-constructor)
      : ResizeRule(ImageSize(side)) {}
  /// Exactly `height` x `width`.
  ResizeRule(int64_t height, int64_t width) : ResizeRule(ImageSize(height, width)) {}
  /// The shorter side becomes `length`, the other follows, as torchvision's `Resize(length)`.
  static ResizeRule shorter_side(int64_t length) {
    ResizeRule rule(length);
    rule.shorter_ = true;
    return rule;
  }

  /// What an image of the given size becomes.
  ImageSize of(ImageSize original) const {
    if (!shorter_) {
      return size_;
    }
    const int64_t length = size_.height;
    return original.height <= original.width
               ? ImageSize(length, length * original.width / original.height)
               : ImageSize(length * original.height / original.width, length);
  }
  /// Writes "256" or "shorter side 256".
  friend std::ostream& operator<<(std::ostream& stream, const ResizeRule& rule) {
    return stream << (rule.shorter_ ? "shorter side " : "") << rule.size_;
  }

 private:
  ImageSize size_;
  bool shorter_ = false;
};

namespace detail {

/// The first of `inner` in the middle of `outer`, as torchvision's `center_crop` rounds it.
inline int64_t centered(int64_t outer, int64_t inner) {
  return outer >= inner ? std::lrint(static_cast<double>(outer - inner) / 2.0)
                        : -((inner - outer) / 2);
}

}  // namespace detail

/// How images of any size become images of one size while they are read.
class ImageGeometry {
 public:
  /// Plans for an image of the given size.
  using Planner = std::function<ImagePlan(ImageSize, ImageRandom&)>;

  /// Images of `size` by a rule of one's own, printed as `name`.
  ImageGeometry(std::string name, ImageSize size, Planner planner)
      : name_(std::move(name)), size_(size), planner_(std::move(planner)) {
    size.check("the size of the images");
    TORCH_CHECK(planner_, "the geometry '", name_, "' has no function");
  }

  /// Scaled to `size`.
  static ImageGeometry resize(ImageSize size) {
    std::ostringstream name;
    name << "Resize(" << size << ')';
    return {name.str(), size,
            [size](ImageSize original, ImageRandom&) { return whole(original, size); }};
  }

  /// A region of random place, area and ratio, scaled to `size`: torchvision's
  /// `RandomResizedCrop(size, scale, ratio)`.
  static ImageGeometry random_resized_crop(ImageSize size, ResizedCropRange range = {}) {
    range.check("RandomResizedCrop");
    std::ostringstream name;
    name << "RandomResizedCrop(" << size << ", scale=" << range.scale[0] << ".." << range.scale[1]
         << ", ratio=" << range.ratio[0] << ".." << range.ratio[1] << ')';
    return {name.str(), size, [size, range](ImageSize original, ImageRandom& random) {
              auto plan = draw_resized_crop(original, range, random);
              plan.resized = size;
              return plan;
            }};
  }

  /// Scaled by `rule`, then the middle: torchvision's `Resize` and `CenterCrop(size)`.
  static ImageGeometry center_crop(ResizeRule rule, ImageSize size) {
    std::ostringstream name;
    name << "Resize(" << rule << "), CenterCrop(" << size << ')';
    return {name.str(), size, [rule, size](ImageSize original, ImageRandom&) {
              auto plan = whole(original, rule.of(original));
              plan.top = detail::centered(plan.resized.height, size.height);
              plan.left = detail::centered(plan.resized.width, size.width);
              return plan;
            }};
  }

  /// Scaled by `rule`, then a window at a random place: torchvision's `Resize` and
  /// `RandomCrop(size)`. Throws, when an image is read, if it is then smaller than the window.
  static ImageGeometry random_crop(ResizeRule rule, ImageSize size) {
    std::ostringstream name;
    name << "Resize(" << rule << "), RandomCrop(" << size << ')';
    return {name.str(), size, [rule, size](ImageSize original, ImageRandom& random) {
              auto plan = whole(original, rule.of(original));
              TORCH_CHECK(plan.resized.height >= size.height && plan.resized.width >= size.width,
                          "cannot cut ", size.height, " x ", size.width, " pixels out of ",
                          plan.resized.height, " x ", plan.resized.width);
              plan.top = random.below(plan.resized.height - size.height + 1);
              plan.left = random.below(plan.resized.width - size.width + 1);
              return plan;
            }};
  }

  /// Mirrors images left to right with a probability of 0..1. Default: 0.
  ImageGeometry& horizontal_flip(double probability) {
    detail::check_probability(probability);
    flip_probability_ = probability;
    return *this;
  }

  /// The size of every image.
  ImageSize size() const noexcept { return size_; }

  /// The plan for an image of the given size. Throws if the function it was made with wants a
  /// region that is not inside the image, or scales it to nothing.
  ImagePlan plan(ImageSize original, ImageRandom& random) const {
    auto plan = planner_(original, random);
    const auto inside = [](int64_t first, int64_t length, int64_t whole) {
      return length > 0 && length <= whole && first >= 0 && first <= whole - length;
    };
    TORCH_CHECK(inside(plan.region_top, plan.region.height, original.height) &&
                    inside(plan.region_left, plan.region.width, original.width),
                "the geometry '", name_, "' wants ", plan.region, " pixels from row ",
                plan.region_top, " and column ", plan.region_left, " of an image of ", original);
    plan.resized.check("what a region is scaled to");
    plan.mirrored = random.uniform() < flip_probability_;
    return plan;
  }

  /// Writes what is done, such as `RandomResizedCrop(224, …), RandomHorizontalFlip(p=0.5)`.
  friend std::ostream& operator<<(std::ostream& stream, const ImageGeometry& geometry) {
    stream << geometry.name_;
    if (geometry.flip_probability_ > 0) {
      stream << ", RandomHorizontalFlip(p=" << geometry.flip_probability_ << ')';
    }
    return stream;
  }

 private:
  static ImagePlan whole(ImageSize original, ImageSize resized) {
    ImagePlan plan;
    plan.region = original;
    plan.resized = resized;
    return plan;
  }

  std::string name_;
  ImageSize size_;
  Planner planner_;
  double flip_probability_ = 0;
};

}  // namespace bsconv::data
