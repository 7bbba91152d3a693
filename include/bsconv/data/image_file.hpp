// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>  // jpeglib.h uses FILE without including it
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <ios>
#include <string>
#include <system_error>
#include <vector>

#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <jpeglib.h>
#include <png.h>
#include <torch/types.h>

// This header needs libpng and libjpeg-turbo, so it is not part of <bsconv/data.hpp>.

namespace bsconv::data {

namespace detail {

/// Images with more pixels than this are refused before memory is taken for them.
inline constexpr uint64_t max_image_pixels = uint64_t{1} << 28U;

inline void check_image_size(uint64_t width, uint64_t height, const std::string& origin) {
  TORCH_CHECK(width > 0 && height > 0 && width <= max_image_pixels / height, origin, " is ", width,
              " x ", height, " pixels; from 1 to ", max_image_pixels, " are allowed");
}

/// [H, W, 3] bytes to [3, H, W].
inline torch::Tensor planes(const torch::Tensor& interleaved) {
  return interleaved.permute({2, 0, 1}).contiguous();
}

inline torch::Tensor decode_png(const std::vector<uint8_t>& bytes, const std::string& origin) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  struct Free {
    png_image* image;
    ~Free() { png_image_free(image); }
  } const guard{&image};
  TORCH_CHECK(png_image_begin_read_from_memory(&image, bytes.data(), bytes.size()) != 0, origin,
              " is not a readable PNG: ", static_cast<const char*>(image.message));
  check_image_size(image.width, image.height, origin);
  // Palettes, gray and 16 bits become 8-bit RGB; what is transparent shows a white ground.
  image.format = PNG_FORMAT_RGB;
  const png_color white{255, 255, 255};
  auto result = torch::empty(
      {static_cast<int64_t>(image.height), static_cast<int64_t>(image.width), 3}, torch::kByte);
  TORCH_CHECK(png_image_finish_read(&image, &white, result.data_ptr<uint8_t>(), 0, nullptr) != 0,
              origin, " is not a readable PNG: ", static_cast<const char*>(image.message));
  return planes(result);
}

/// libjpeg's error handler: the message is kept and control returns to the decoder.
struct JpegError {
  jpeg_error_mgr manager;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];

  [[noreturn]] static void exit(j_common_ptr info) {
    auto* self = reinterpret_cast<JpegError*>(info->err);
    info->err->format_message(info, self->message);
    std::longjmp(self->jump, 1);
  }

  // A warning means damaged data, such as a file cut short.
  static void emit(j_common_ptr info, int level) {
    if (level < 0) {
      exit(info);
    }
  }
};

/// Decodes to [H, W, channels], channels 3 (RGB) or 4 (CMYK as stored). No object with a destructor
/// may live in this function: libjpeg leaves it by longjmp.
inline bool decode_jpeg_rows(const std::vector<uint8_t>& bytes, JpegError& error,
                             jpeg_decompress_struct& info, torch::Tensor& result,
                             std::vector<uint8_t*>& rows) {
  if (setjmp(error.jump) != 0) {
    return false;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, bytes.data(), bytes.size());
  jpeg_read_header(&info, TRUE);
  const bool cmyk = info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK;
  info.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
  if (static_cast<uint64_t>(info.image_width) * info.image_height > max_image_pixels) {
    std::snprintf(error.message, sizeof(error.message), "it has %u x %u pixels, too many",
                  info.image_width, info.image_height);
    return false;
  }
  jpeg_start_decompress(&info);
  const int64_t channels = info.output_components;
  result = torch::empty({info.output_height, info.output_width, channels}, torch::kByte);
  rows.resize(info.output_height);
  for (std::size_t row = 0; row < rows.size(); ++row) {
    rows[row] =
        result.data_ptr<uint8_t>() + static_cast<int64_t>(row) * info.output_width * channels;
  }
  while (info.output_scanline < info.output_height) {
    jpeg_read_scanlines(&info, rows.data() + info.output_scanline,
                        info.output_height - info.output_scanline);
  }
  jpeg_finish_decompress(&info);
  return true;
}

inline torch::Tensor decode_jpeg(const std::vector<uint8_t>& bytes, const std::string& origin) {
  JpegError error{};
  jpeg_decompress_struct info{};
  info.err = jpeg_std_error(&error.manager);
  error.manager.error_exit = &JpegError::exit;
  error.manager.emit_message = &JpegError::emit;
  torch::Tensor result;
  std::vector<uint8_t*> rows;
  const bool decoded = decode_jpeg_rows(bytes, error, info, result, rows);
  const bool adobe = info.saw_Adobe_marker != 0;
  jpeg_destroy_decompress(&info);
  TORCH_CHECK(decoded, origin,
              " is not a readable JPEG: ", static_cast<const char*>(error.message));
  if (result.size(2) == 4) {
    // Adobe writes CMYK inverted; then each byte is already the light that is left.
    auto light = result.to(torch::kFloat);
    if (!adobe) {
      light = 255 - light;
    }
    result = (light.slice(2, 0, 3) * light.slice(2, 3, 4) / 255).round().to(torch::kByte);
  }
  return planes(result);
}

/// A number of a PNM header; skips white space and comments before it.
inline uint64_t read_pnm_number(const std::vector<uint8_t>& bytes, std::size_t& next,
                                const std::string& origin) {
  const auto is_space = [](uint8_t byte) { return byte == ' ' || (byte >= 9 && byte <= 13); };
  while (next < bytes.size() && (is_space(bytes[next]) || bytes[next] == '#')) {
    if (bytes[next] == '#') {
      while (next < bytes.size() && bytes[next] != '\n') {
        ++next;
      }
    } else {
      ++next;
    }
  }
  uint64_t value = 0;
  std::size_t digits = 0;
  for (; next < bytes.size() && bytes[next] >= '0' && bytes[next] <= '9'; ++next, ++digits) {
    value = value * 10 + (bytes[next] - '0');
    TORCH_CHECK(value <= max_image_pixels, origin, ": a number in the header is too large");
  }
  TORCH_CHECK(digits > 0, origin, ": the PPM header ends early or has no number at byte ", next);
  return value;
}

/// Binary gray (P5) and color (P6) with 8 bits a value.
inline torch::Tensor decode_pnm(const std::vector<uint8_t>& bytes, const std::string& origin) {
  const int64_t channels = bytes[1] == '5' ? 1 : 3;
  std::size_t next = 2;
  const auto width = read_pnm_number(bytes, next, origin);
  const auto height = read_pnm_number(bytes, next, origin);
  const auto largest = read_pnm_number(bytes, next, origin);
  check_image_size(width, height, origin);
  TORCH_CHECK(largest >= 1 && largest <= 255, origin, " has values up to ", largest,
              "; 1 to 255 are supported");
  ++next;
  const auto needed = width * height * static_cast<uint64_t>(channels);
  TORCH_CHECK(bytes.size() >= next && bytes.size() - next >= needed, origin,
              " is cut short: ", bytes.size(), " bytes, needs ", next + needed);
  auto result = torch::empty({static_cast<int64_t>(height), static_cast<int64_t>(width), channels},
                             torch::kByte);
  std::memcpy(result.data_ptr(), bytes.data() + next, needed);
  if (largest != 255) {
    const double scale = 255.0 / static_cast<double>(largest);
    result = (result.to(torch::kFloat) * scale).round().clamp(0, 255).to(torch::kByte);
  }
  return planes(result.expand({-1, -1, 3}));
}

}  // namespace detail

/// Decodes a PNG, JPEG or binary PPM/PGM image, told apart by content, to uint8 RGB [3, H, W].
///
/// Gray, palette, 16-bit, transparent (on white) and CMYK images are converted. Throws `c10::Error`
/// that starts with `origin` if the bytes are none of these, damaged, cut short or too large.
inline torch::Tensor decode_image(const std::vector<uint8_t>& bytes, const std::string& origin) {
  const auto starts_with = [&bytes](std::initializer_list<uint8_t> magic) {
    return bytes.size() >= magic.size() && std::equal(magic.begin(), magic.end(), bytes.begin());
  };
  if (starts_with({0x89, 'P', 'N', 'G'})) {
    return detail::decode_png(bytes, origin);
  }
  if (starts_with({0xff, 0xd8, 0xff})) {
    return detail::decode_jpeg(bytes, origin);
  }
  if (starts_with({'P', '5'}) || starts_with({'P', '6'})) {
    return detail::decode_pnm(bytes, origin);
  }
  TORCH_CHECK(false, origin, " is neither PNG, JPEG nor binary PPM");
}

/// Reads an image file to uint8 RGB [3, H, W]; see `decode_image`. Throws `c10::Error` with the
/// path.
inline torch::Tensor read_image(const std::filesystem::path& path) {
  const std::string origin = "image '" + path.native() + "'";
  std::error_code error;
  TORCH_CHECK(std::filesystem::exists(path, error), origin, " does not exist");
  TORCH_CHECK(std::filesystem::is_regular_file(path, error), origin, " is not a regular file");
  const auto size = std::filesystem::file_size(path, error);
  TORCH_CHECK(!error, origin, " cannot be read: ", error.message());
  std::ifstream file(path, std::ios::binary);
  std::vector<uint8_t> bytes(size);
  TORCH_CHECK(file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size)),
              origin, " cannot be read");
  return decode_image(bytes, origin);
}

/// Scales uint8 images [N, C, H, W] to `height` x `width` bilinearly with antialiasing, as PIL
/// does.
inline torch::Tensor resize_image(const torch::Tensor& images, int64_t height, int64_t width) {
  TORCH_CHECK(images.defined() && images.dim() == 4 && height > 0 && width > 0,
              "resizing takes images [N, C, H, W] and a positive size, got ",
              images.defined() ? c10::str(images.sizes()) : "an undefined tensor", " and ", height,
              " x ", width);
  return at::_upsample_bilinear2d_aa(images.to(torch::kFloat), {height, width},
                                     /*align_corners=*/false)
      .round()
      .clamp(0, 255)
      .to(torch::kByte);
}

}  // namespace bsconv::data
