// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <torch/types.h>

#include <bsconv/data/image_file.hpp>
#include <bsconv/data/image_geometry.hpp>
#include <bsconv/data/resize.hpp>
#include <bsconv/data/windows.hpp>

// This header needs libpng and libjpeg-turbo, so it is not part of <bsconv/data.hpp>.

namespace bsconv::data {

namespace detail {

/// Throws an error that starts with `origin` if an image of size `original` would become too large.
inline void check_scaled_size(ImageSize scaled, ImageSize original, const std::string& origin) {
  TORCH_CHECK(static_cast<uint64_t>(scaled.width) <=
                  max_image_pixels / static_cast<uint64_t>(scaled.height),
              origin, " of ", original, " pixels would be scaled to ", scaled, "; at most ",
              max_image_pixels, " pixels are allowed");
}

/// Decodes an image to uint8 [3, H, W], of any strides, as `geometry` wants it before its window.
inline std::pair<torch::Tensor, ImagePlan> decode_planned(const std::vector<uint8_t>& bytes,
                                                          const std::string& origin,
                                                          const ImageGeometry& geometry,
                                                          ImageRandom& random) {
  ImagePlan plan;
  auto pixels = decode_pixels(bytes, origin, [&](ImageSize original) {
    plan = geometry.plan(original, random);
    check_scaled_size(plan.resized, original, origin);
    return DecodeRequest{{plan.region_top, plan.region_left, plan.region}, plan.resized};
  });
  // [H, W, 3] is channels_last, which is what LibTorch scales bytes in fastest.
  pixels =
      resize_image(pixels.permute({2, 0, 1}).unsqueeze(0), plan.resized.height, plan.resized.width);
  return {pixels.squeeze(0), plan};
}

}  // namespace detail

/// Reads an image file to uint8 RGB [3, H, W] of the geometry's size, as `FileLoader` does; `seed`
/// is where a geometry's randomness starts from. Throws `c10::Error` with the path; see
/// `decode_image`.
inline torch::Tensor read_image(const std::filesystem::path& path, const ImageGeometry& geometry,
                                uint64_t seed = 0) {
  const auto origin = detail::image_origin(path);
  ImageRandom random(seed);
  const auto [pixels, plan] =
      detail::decode_planned(detail::read_bytes(path, origin), origin, geometry, random);
  const auto [height, width] = geometry.size();
  auto image = torch::empty({3, height, width}, torch::kByte);
  detail::copy_window<uint8_t>(pixels, plan.top, plan.left, plan.mirrored, image);
  return image;
}

}  // namespace bsconv::data
