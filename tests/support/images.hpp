// SPDX-License-Identifier: BSD-3-Clause-Clear
// Image files for tests, written with libjpeg-turbo and libpng.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <vector>

#include <jpeglib.h>
#include <png.h>
#include <torch/types.h>

#include "test_files.hpp"

namespace bsconv_test {

/// How a test's JPEG is encoded.
struct JpegSettings {
  int quality = 95;
  /// How many luma samples share a chroma sample, per row and per column.
  int across = 2;
  int down = 2;
  bool progressive = false;
};

/// `image`, uint8 [3, H, W], as a JPEG.
inline std::vector<uint8_t> encode_jpeg(const torch::Tensor& image, JpegSettings settings = {}) {
  const auto pixels = image.permute({1, 2, 0}).contiguous();
  jpeg_compress_struct info{};
  jpeg_error_mgr error{};
  info.err = jpeg_std_error(&error);
  jpeg_create_compress(&info);
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &buffer, &size);
  info.image_width = static_cast<JDIMENSION>(pixels.size(1));
  info.image_height = static_cast<JDIMENSION>(pixels.size(0));
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, settings.quality, TRUE);
  info.comp_info[0].h_samp_factor = settings.across;
  info.comp_info[0].v_samp_factor = settings.down;
  if (settings.progressive) {
    jpeg_simple_progression(&info);
  }
  jpeg_start_compress(&info, TRUE);
  auto* row = pixels.data_ptr<uint8_t>();
  for (int64_t y = 0; y < pixels.size(0); ++y, row += pixels.size(1) * 3) {
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  std::vector<uint8_t> bytes(buffer, buffer + size);
  jpeg_destroy_compress(&info);
  std::free(buffer);
  return bytes;
}

/// `image`, uint8 [3, H, W], as a PNG.
inline std::vector<uint8_t> encode_png(const torch::Tensor& image) {
  const auto pixels = image.permute({1, 2, 0}).contiguous();
  png_image info{};
  info.version = PNG_IMAGE_VERSION;
  info.width = static_cast<uint32_t>(pixels.size(1));
  info.height = static_cast<uint32_t>(pixels.size(0));
  info.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = 0;
  TORCH_CHECK(png_image_write_to_memory(&info, nullptr, &size, 0, pixels.data_ptr(), 0, nullptr));
  std::vector<uint8_t> bytes(size);
  TORCH_CHECK(
      png_image_write_to_memory(&info, bytes.data(), &size, 0, pixels.data_ptr(), 0, nullptr));
  return bytes;
}

/// Writes bytes to a new file.
inline void write_bytes(const std::filesystem::path& path, const std::vector<uint8_t>& bytes) {
  write_file(path, std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

/// A colorful image with soft structure, uint8 [3, H, W]; another for each `seed`.
inline torch::Tensor soft_image(int64_t height, int64_t width, int64_t seed = 0) {
  const auto y = torch::linspace(0, 6, height).view({1, height, 1});
  const auto x = torch::linspace(0, 7, width).view({1, 1, width});
  const auto shift = torch::arange(3).view({3, 1, 1}) + static_cast<double>(seed);
  const auto wave =
      torch::sin(y + shift) * torch::cos(x * (1 + 0.3 * shift)) + torch::sin(x * y / 3);
  return (wave * 60 + 127).clamp(0, 255).to(torch::kByte);
}

}  // namespace bsconv_test
