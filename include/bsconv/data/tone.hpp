// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>

#include <ATen/ops/conv2d.h>
#include <torch/types.h>

#include <bsconv/data/color.hpp>
#include <bsconv/data/transform.hpp>

namespace bsconv::data {

namespace detail {

inline void check_bytes(const torch::Tensor& images) {
  check_batch(images);
  TORCH_CHECK(images.scalar_type() == torch::kByte, "images must be uint8, got ",
              images.scalar_type());
}

}  // namespace detail

/// Keeps the highest bits (0 to 8, `bits` [N]) of each uint8 image; torchvision's `posterize`.
inline torch::Tensor posterize(const torch::Tensor& images, const torch::Tensor& bits) {
  detail::check_color(images, bits);
  const auto step = torch::pow(2, 8 - bits.to(images.device(), torch::kFloat)).view({-1, 1, 1, 1});
  return (images.to(torch::kFloat).div_(step).floor_() * step).to(torch::kByte);
}

/// Inverts the values of each uint8 image that are not below its threshold (`thresholds` [N]);
/// torchvision's `solarize`.
inline torch::Tensor solarize(const torch::Tensor& images, const torch::Tensor& thresholds) {
  detail::check_color(images, thresholds);
  return torch::where(images >= detail::per_image(thresholds, images), 255 - images, images);
}

/// Stretches each channel of each uint8 image to the values 0 to 255; torchvision's
/// `autocontrast`.
inline torch::Tensor autocontrast(const torch::Tensor& images) {
  detail::check_bytes(images);
  const auto values = images.to(torch::kFloat);
  const auto low = values.amin({2, 3}, /*keepdim=*/true);
  const auto range = values.amax({2, 3}, /*keepdim=*/true) - low;
  const auto stretched = (values - low) / torch::where(range == 0, 1.0, range / 255.0);
  return torch::where(range == 0, values, stretched).clamp_(0, 255).to(torch::kByte);
}

/// Makes the values of each channel of each uint8 image about equally frequent; torchvision's
/// `equalize`.
inline torch::Tensor equalize(const torch::Tensor& images) {
  detail::check_bytes(images);
  const int64_t planes = images.size(0) * images.size(1);
  const auto values = images.reshape({planes, -1}).to(torch::kLong);
  const auto counts = torch::zeros({planes, 256}, values.options())
                          .scatter_add_(1, values, torch::ones_like(values));
  // How often the highest value that occurs does.
  const auto places = torch::arange(256, values.options());
  const auto highest = torch::where(counts > 0, places, 0).amax({1}, /*keepdim=*/true);
  const auto step = (counts.sum(1, /*keepdim=*/true) - counts.gather(1, highest))
                        .div(255, /*rounding_mode=*/"floor");
  const auto table = (counts.cumsum(1) - counts + step.div(2, "floor"))
                         .div(step.clamp_min(1), "floor")
                         .clamp_(0, 255);
  return torch::where(step == 0, places, table).gather(1, values).to(torch::kByte).view_as(images);
}

/// Blends each image with a softened version (3 x 3, the middle weighs 5 of 13): 0 is soft, 1 the
/// image itself, 2 sharper; torchvision's `adjust_sharpness`.
inline torch::Tensor adjust_sharpness(const torch::Tensor& images, const torch::Tensor& factors) {
  detail::check_color(images, factors);
  if (images.size(2) <= 2 || images.size(3) <= 2) {
    return images;
  }
  auto kernel = torch::full({1, 1, 3, 3}, 1.0 / 13.0);
  kernel[0][0][1][1] = 5.0 / 13.0;
  const auto values = images.to(torch::kFloat);
  auto soft = values.clone();
  soft.slice(2, 1, -1).slice(3, 1, -1).copy_(
      at::conv2d(values.reshape({-1, 1, images.size(2), images.size(3)}),
                 kernel.to(images.device()))
          .round_()
          .view({images.size(0), images.size(1), images.size(2) - 2, images.size(3) - 2}));
  return detail::blend(images, soft, factors);
}

}  // namespace bsconv::data
