// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>

#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <torch/types.h>

#include <bsconv/data/image_size.hpp>

namespace bsconv::data {

/// Scales uint8 images [N, C, H, W] to `height` x `width` bilinearly with antialiasing, as PIL
/// does, on any device.
inline torch::Tensor resize_image(const torch::Tensor& images, int64_t height, int64_t width) {
  TORCH_CHECK(images.defined() && images.dim() == 4 && height > 0 && width > 0,
              "resizing takes images [N, C, H, W] and a positive size, got ",
              images.defined() ? c10::str(images.sizes()) : "an undefined tensor", " and ", height,
              " x ", width);
  if (images.size(2) == height && images.size(3) == width) {
    return images;
  }
  if (images.is_cpu() && images.scalar_type() == torch::kByte) {
    return at::_upsample_bilinear2d_aa(images, {height, width}, /*align_corners=*/false);
  }
  return at::_upsample_bilinear2d_aa(images.to(torch::kFloat), {height, width},
                                     /*align_corners=*/false)
      .round()
      .clamp(0, 255)
      .to(torch::kByte);
}

}  // namespace bsconv::data
