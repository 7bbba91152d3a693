// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <png.h>
#include <torch/types.h>

#include <bsconv/data/file_bytes.hpp>
#include <bsconv/data/image_size.hpp>
#include <bsconv/data/jpeg.hpp>
#include <bsconv/data/resize.hpp>

// This header needs libpng and libjpeg-turbo, so it is not part of <bsconv/data.hpp>.

namespace bsconv::data {

namespace detail {

/// The bytes of a PNG without what tells its color space. libpng would convert from that; Pillow
/// and torchvision, whose images models are trained on, take the values as they are.
inline std::vector<uint8_t> without_color_space(const std::vector<uint8_t>& png) {
  constexpr std::array<std::string_view, 4> left_out = {"gAMA", "cHRM", "sRGB", "iCCP"};
  constexpr std::size_t signature = 8;
  // The length of a chunk's data, its type and its checksum.
  constexpr std::size_t frame = 12;
  std::size_t next = std::min(signature, png.size());
  std::vector<uint8_t> kept(png.begin(), png.begin() + static_cast<std::ptrdiff_t>(next));
  kept.reserve(png.size());
  const auto keep = [&](std::size_t size) {
    const auto begin = png.begin() + static_cast<std::ptrdiff_t>(next);
    kept.insert(kept.end(), begin, begin + static_cast<std::ptrdiff_t>(size));
  };
  while (png.size() - next >= frame) {
    const std::size_t size = frame + std::size_t{png_get_uint_32(png.data() + next)};
    if (size > png.size() - next) {
      break;
    }
    const std::string_view type(reinterpret_cast<const char*>(png.data()) + next + 4, 4);
    if (std::find(left_out.begin(), left_out.end(), type) == left_out.end()) {
      keep(size);
    }
    next += size;
  }
  keep(png.size() - next);
  return kept;
}

/// Decodes to [H, W, 3].
inline torch::Tensor decode_png(const std::vector<uint8_t>& file, const std::string& origin) {
  const auto bytes = without_color_space(file);
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  struct Free {
    png_image* image;
    ~Free() { png_image_free(image); }
  } const guard{&image};
  TORCH_CHECK(png_image_begin_read_from_memory(&image, bytes.data(), bytes.size()) != 0, origin,
              " is not a readable PNG: ", static_cast<const char*>(image.message));
  // Deflate makes at most 1,032 bytes of one, each with at most 8 pixels.
  check_image_size(image.width, image.height, bytes.size(), 1032 * 8, origin);
  // Else 16 bits would be taken for linear light.
  image.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;
  // Palettes, gray and 16 bits become 8-bit RGB; what is transparent shows a white ground.
  image.format = PNG_FORMAT_RGB;
  const png_color white{255, 255, 255};
  auto result = torch::empty(
      {static_cast<int64_t>(image.height), static_cast<int64_t>(image.width), 3}, torch::kByte);
  TORCH_CHECK(png_image_finish_read(&image, &white, result.data_ptr<uint8_t>(), 0, nullptr) != 0,
              origin, " is not a readable PNG: ", static_cast<const char*>(image.message));
  return result;
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

/// Decodes binary gray (P5) and color (P6) with 8 bits a value to [H, W, 3].
inline torch::Tensor decode_pnm(const std::vector<uint8_t>& bytes, const std::string& origin) {
  const int64_t channels = bytes[1] == '5' ? 1 : 3;
  std::size_t next = 2;
  const auto width = read_pnm_number(bytes, next, origin);
  const auto height = read_pnm_number(bytes, next, origin);
  const auto largest = read_pnm_number(bytes, next, origin);
  check_image_size(width, height, bytes.size(), 1, origin);
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
  return result.expand({-1, -1, 3}).contiguous();
}

/// The part of an image that is wanted, given the image's size.
using RegionChooser = std::function<DecodeRequest(ImageSize)>;

/// Decodes a PNG, JPEG or binary PPM/PGM image, told apart by content, to [H, W, 3]: what `choose`
/// asks for, or all of it. A JPEG may come out smaller by 2, 4 or 8; see `DecodeRequest`.
inline torch::Tensor decode_pixels(const std::vector<uint8_t>& bytes, const std::string& origin,
                                   const RegionChooser& choose = nullptr) {
  const auto starts_with = [&bytes](std::initializer_list<uint8_t> magic) {
    return bytes.size() >= magic.size() && std::equal(magic.begin(), magic.end(), bytes.begin());
  };
  if (starts_with({0xff, 0xd8, 0xff})) {
    JpegDecoder decoder(bytes, origin);
    return decoder.decode(choose ? choose(decoder.size())
                                 : DecodeRequest{{0, 0, decoder.size()}, ImageSize(0)});
  }
  torch::Tensor result;
  if (starts_with({0x89, 'P', 'N', 'G'})) {
    result = decode_png(bytes, origin);
  } else if (starts_with({'P', '5'}) || starts_with({'P', '6'})) {
    result = decode_pnm(bytes, origin);
  } else {
    TORCH_CHECK(false, origin, " is neither PNG, JPEG nor binary PPM");
  }
  if (!choose) {
    return result;
  }
  const auto region = choose({result.size(0), result.size(1)}).region;
  return result.slice(0, region.top, region.top + region.size.height)
      .slice(1, region.left, region.left + region.size.width);
}

}  // namespace detail

/// Decodes a PNG, JPEG or binary PPM/PGM image, told apart by content, to uint8 RGB [3, H, W].
///
/// Gray, palette, 16-bit, transparent (on white) and CMYK images are converted. Gamma and color
/// profiles change nothing, as with Pillow and torchvision. Throws `c10::Error` that starts with
/// `origin` if the bytes are none of these, damaged, cut short or too large.
inline torch::Tensor decode_image(const std::vector<uint8_t>& bytes, const std::string& origin) {
  return detail::decode_pixels(bytes, origin).permute({2, 0, 1}).contiguous();
}

namespace detail {

/// What messages call an image file.
inline std::string image_origin(const std::filesystem::path& path) {
  std::string origin = "image '";
  origin += path.native() + "'";
  return origin;
}

}  // namespace detail

/// Reads an image file to uint8 RGB [3, H, W]; see `decode_image`. Throws `c10::Error` with the
/// path.
inline torch::Tensor read_image(const std::filesystem::path& path) {
  const auto origin = detail::image_origin(path);
  return decode_image(detail::read_bytes(path, origin), origin);
}

}  // namespace bsconv::data
