// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ostream>

#include <torch/arg.h>
#include <torch/types.h>

#include <bsconv/data/transform.hpp>

namespace bsconv::data {

namespace detail {

/// Throws unless `images` is uint8 RGB [N, 3, H, W] and `factors` has one number an image.
inline void check_color(const torch::Tensor& images, const torch::Tensor& factors) {
  check_batch(images);
  TORCH_CHECK(images.scalar_type() == torch::kByte && images.size(1) == 3,
              "color is changed in uint8 images [N, 3, H, W], got ", images.scalar_type(), " ",
              images.sizes());
  TORCH_CHECK(factors.defined() && factors.dim() == 1 && factors.size(0) == images.size(0),
              "there must be one factor for each of the ", images.size(0), " images");
}

/// Factors [N] as float [N, 1, 1, 1] beside the images.
inline torch::Tensor per_image(const torch::Tensor& factors, const torch::Tensor& images) {
  return factors.to(images.device(), torch::kFloat).view({-1, 1, 1, 1});
}

/// factor * images + (1 - factor) * other, cut to bytes as torchvision does.
inline torch::Tensor blend(const torch::Tensor& images, const torch::Tensor& other,
                           const torch::Tensor& factors) {
  const auto factor = per_image(factors, images);
  return (images * factor + other * (1 - factor)).clamp_(0, 255).to(torch::kByte);
}

/// The gray of each pixel, whole numbers as float [N, 1, H, W] (ITU-R BT.601 luma).
inline torch::Tensor luma(const torch::Tensor& images) {
  return (images.narrow(1, 0, 1) * 0.2989 + images.narrow(1, 1, 1) * 0.587 +
          images.narrow(1, 2, 1) * 0.114)
      .floor_();
}

}  // namespace detail

/// Each uint8 image [3, H, W] of `images` times its factor (from 0) of `factors` [N]; torchvision's
/// `adjust_brightness`.
inline torch::Tensor adjust_brightness(const torch::Tensor& images, const torch::Tensor& factors) {
  detail::check_color(images, factors);
  return (images * detail::per_image(factors, images)).clamp_(0, 255).to(torch::kByte);
}

/// Blends each image with its mean gray: 0 is gray, 1 the image itself; torchvision's
/// `adjust_contrast`. As `adjust_brightness` otherwise.
inline torch::Tensor adjust_contrast(const torch::Tensor& images, const torch::Tensor& factors) {
  detail::check_color(images, factors);
  return detail::blend(images, detail::luma(images).mean({1, 2, 3}, /*keepdim=*/true), factors);
}

/// Blends each image with its gray version: 0 is gray, 1 the image itself; torchvision's
/// `adjust_saturation`. As `adjust_brightness` otherwise.
inline torch::Tensor adjust_saturation(const torch::Tensor& images, const torch::Tensor& factors) {
  detail::check_color(images, factors);
  return detail::blend(images, detail::luma(images), factors);
}

/// Turns the hue of each image by its part of the color circle, -0.5 to 0.5; torchvision's
/// `adjust_hue`. As `adjust_brightness` otherwise.
inline torch::Tensor adjust_hue(const torch::Tensor& images, const torch::Tensor& shifts) {
  detail::check_color(images, shifts);
  const auto rgb = images.to(torch::kFloat).div_(255);
  const auto red = rgb.narrow(1, 0, 1);
  const auto green = rgb.narrow(1, 1, 1);
  const auto blue = rgb.narrow(1, 2, 1);
  const auto value = rgb.amax({1}, /*keepdim=*/true);
  const auto range = value - rgb.amin({1}, /*keepdim=*/true);
  const auto divisor = torch::where(range == 0, 1.0, range);
  // The color circle has six parts; which of them depends on the strongest channel.
  const auto part = torch::where(
      value == red, (green - blue) / divisor,
      torch::where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor));
  const auto hue = (part / 6 + 1 + detail::per_image(shifts, images)) * 6;
  const auto channel = [&](double offset) {
    const auto distance = (hue + offset).remainder(6);
    return value - range * torch::minimum(distance, 4 - distance).clamp(0, 1);
  };
  // torchvision's own scale from 0..1 to bytes.
  return torch::cat({channel(5), channel(3), channel(1)}, 1).mul_(255.999).to(torch::kByte);
}

/// Options of `ColorJitter`.
struct ColorJitterOptions {
  /// Brightness is multiplied by 1 - brightness to 1 + brightness, at least 0. Default: 0.
  TORCH_ARG(double, brightness) = 0;
  /// Likewise contrast. Default: 0.
  TORCH_ARG(double, contrast) = 0;
  /// Likewise saturation. Default: 0.
  TORCH_ARG(double, saturation) = 0;
  /// Hue turns by -hue to hue of the color circle, at most 0.5. Default: 0.
  TORCH_ARG(double, hue) = 0;
};

/// Changes brightness, contrast, saturation and hue of each image by factors drawn for it, in an
/// order drawn for the batch, as torchvision's `ColorJitter` does for each image.
class ColorJitter : public Transform {
 public:
  /// Throws if a range is negative or the hue's is above 0.5.
  explicit ColorJitter(ColorJitterOptions options) : options_(options) {
    for (const double range : {options.brightness(), options.contrast(), options.saturation()}) {
      TORCH_CHECK(range >= 0, "ColorJitter: a range must not be negative, got ", range);
    }
    TORCH_CHECK(options.hue() >= 0 && options.hue() <= 0.5,
                "ColorJitter: the hue must lie in 0..0.5, got ", options.hue());
  }

  torch::Tensor apply(const torch::Tensor& images, torch::Generator& generator) const override {
    detail::check_batch(images, generator);
    using Adjust = torch::Tensor (*)(const torch::Tensor&, const torch::Tensor&);
    struct Step {
      Adjust adjust;
      double low;
      double high;
    };
    const auto around_one = [](Adjust adjust, double range) {
      return Step{adjust, std::max(0.0, 1 - range), 1 + range};
    };
    const std::array<Step, 4> steps = {around_one(adjust_brightness, options_.brightness()),
                                       around_one(adjust_contrast, options_.contrast()),
                                       around_one(adjust_saturation, options_.saturation()),
                                       Step{adjust_hue, -options_.hue(), options_.hue()}};
    const auto order = torch::randperm(4, generator, torch::kLong);
    torch::Tensor result = images;
    for (int64_t i = 0; i < 4; ++i) {
      const auto& step = steps[static_cast<std::size_t>(order.const_data_ptr<int64_t>()[i])];
      if (step.low < step.high) {
        const auto drawn = torch::rand({images.size(0)}, generator, torch::kDouble);
        result = step.adjust(result, step.low + (step.high - step.low) * drawn);
      }
    }
    return result;
  }

  void pretty_print(std::ostream& stream) const override {
    stream << "ColorJitter(brightness=" << options_.brightness()
           << ", contrast=" << options_.contrast() << ", saturation=" << options_.saturation()
           << ", hue=" << options_.hue() << ')';
  }

 private:
  ColorJitterOptions options_;
};

}  // namespace bsconv::data
