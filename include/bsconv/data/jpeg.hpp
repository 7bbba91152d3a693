// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>  // jpeglib.h uses FILE without including it
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <jerror.h>
#include <jpeglib.h>
#include <torch/types.h>

#include <bsconv/data/image_size.hpp>

// This header needs libjpeg-turbo, so it is not part of <bsconv/data.hpp>.

namespace bsconv::data::detail {

/// Images with more pixels than this are refused before memory is taken for them.
inline constexpr uint64_t max_image_pixels = uint64_t{1} << 28U;

/// Throws unless an image of `width` x `height` may be told by `bytes` bytes, each of which stands
/// for at most `pixels_per_byte` pixels.
inline void check_image_size(uint64_t width, uint64_t height, uint64_t bytes,
                             uint64_t pixels_per_byte, const std::string& origin) {
  TORCH_CHECK(width > 0 && height > 0 && width <= max_image_pixels / height, origin, " is ", width,
              " x ", height, " pixels; from 1 to ", max_image_pixels, " are allowed");
  TORCH_CHECK(width * height / pixels_per_byte <= bytes, origin, " is ", width, " x ", height,
              " pixels, which ", bytes, " bytes cannot tell; is it cut short?");
}

/// A rectangle of an image.
struct ImageRegion {
  int64_t top = 0;
  int64_t left = 0;
  ImageSize size;
};

/// What is wanted of an image: a region, and how many pixels of it are enough. A JPEG is decoded to
/// a half, a quarter or an eighth where at least as many are left, as PIL's `draft` does.
struct DecodeRequest {
  ImageRegion region;
  /// 0: all pixels.
  ImageSize enough;
};

/// Decodes one JPEG, only as much of it as is wanted. libjpeg leaves the functions that call it by
/// longjmp on an error, so they hold no object with a destructor.
class JpegDecoder {
 public:
  /// Reads the header. `bytes` must outlive this object. Throws `c10::Error` that starts with
  /// `origin`.
  JpegDecoder(const std::vector<uint8_t>& bytes, std::string origin) : origin_(std::move(origin)) {
    info_.err = jpeg_std_error(&error_.manager);
    error_.manager.error_exit = &Error::exit;
    error_.manager.emit_message = &Error::emit;
    if (!read_header(bytes)) {
      fail();
    }
    // A Huffman code spends a bit or more on a block of 8 x 8 samples, of up to 4 pixels each.
    const uint64_t pixels_per_byte = info_.arith_code != 0 ? max_image_pixels : 8 * 64 * 4;
    check_image_size(info_.image_width, info_.image_height, bytes.size(), pixels_per_byte, origin_);
  }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;
  ~JpegDecoder() = default;

  /// The size of the whole image.
  ImageSize size() const {
    return {static_cast<int64_t>(info_.image_height), static_cast<int64_t>(info_.image_width)};
  }

  /// Decodes the region to uint8 RGB [H, W, 3]. Call it once.
  torch::Tensor decode(const DecodeRequest& request) {
    int64_t divisor = 8;
    const auto& region = request.region;
    while (divisor > 1 && (request.enough == ImageSize(0) ||
                           region.size.height < request.enough.height * divisor ||
                           region.size.width < request.enough.width * divisor)) {
      divisor /= 2;
    }
    info_.scale_num = 1;
    info_.scale_denom = static_cast<unsigned>(divisor);
    const bool cmyk = info_.jpeg_color_space == JCS_CMYK || info_.jpeg_color_space == JCS_YCCK;
    info_.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_calc_output_dimensions(&info_);
    const int64_t channels = cmyk ? 4 : 3;
    const auto whole_height = static_cast<int64_t>(info_.output_height);
    const auto whole_width = static_cast<int64_t>(info_.output_width);
    const int64_t top = std::min(region.top / divisor, whole_height - 1);
    const int64_t left = std::min(region.left / divisor, whole_width - 1);
    const int64_t bottom = std::min(
        std::max((region.top + region.size.height + divisor - 1) / divisor, top + 1), whole_height);
    const int64_t right = std::min(
        std::max((region.left + region.size.width + divisor - 1) / divisor, left + 1), whole_width);
    auto result = torch::empty({bottom - top, right - left, channels}, torch::kByte);
    std::vector<uint8_t> row(static_cast<std::size_t>(whole_width * channels));
    const Rows rows{top, left, bottom, right, channels, row.data(), result.data_ptr<uint8_t>()};
    if (!read_rows(rows)) {
      fail();
    }
    if (!cmyk) {
      return result;
    }
    // Adobe writes CMYK inverted; then each byte is already the light that is left.
    auto light = result.to(torch::kFloat);
    if (info_.saw_Adobe_marker == 0) {
      light = 255 - light;
    }
    return (light.slice(2, 0, 3) * light.slice(2, 3, 4) / 255).round().to(torch::kByte);
  }

 private:
  /// libjpeg's error handler: the message is kept and control returns to the decoder.
  struct Error {
    jpeg_error_mgr manager;
    std::jmp_buf jump;
    char message[JMSG_LENGTH_MAX];
    const std::vector<uint8_t>* bytes;
    bool in_header;

    [[noreturn]] static void exit(j_common_ptr info) {
      auto* self = reinterpret_cast<Error*>(info->err);
      info->err->format_message(info, self->message);
      std::longjmp(self->jump, 1);
    }

    // A warning means damaged data, such as a file cut short, but where the pixels can't suffer: in
    // front of them, and from zeros between them and the end of the file.
    static void emit(j_common_ptr info, int level) {
      const auto* self = reinterpret_cast<const Error*>(info->err);
      if (level < 0 && !self->in_header && !self->skipped_zeros()) {
        exit(info);
      }
    }

    bool skipped_zeros() const {
      const auto skipped = static_cast<std::size_t>(manager.msg_parm.i[0]);
      constexpr int end_of_image = 0xd9;
      if (manager.msg_code != JWRN_EXTRANEOUS_DATA || manager.msg_parm.i[1] != end_of_image ||
          bytes->size() < skipped + 2) {
        return false;
      }
      const std::array<uint8_t, 2> mark = {0xff, end_of_image};
      const auto end = std::find_end(bytes->begin(), bytes->end(), mark.begin(), mark.end());
      return end != bytes->end() && end - bytes->begin() >= static_cast<std::ptrdiff_t>(skipped) &&
             std::all_of(end - static_cast<std::ptrdiff_t>(skipped), end,
                         [](uint8_t byte) { return byte == 0; });
    }
  };

  /// The part that is wanted, in pixels of the scaled image, and where it goes.
  struct Rows {
    int64_t top;
    int64_t left;
    int64_t bottom;
    int64_t right;
    int64_t channels;
    uint8_t* row;
    uint8_t* result;
  };

  bool read_header(const std::vector<uint8_t>& bytes) {
    if (setjmp(error_.jump) != 0) {
      return false;
    }
    error_.bytes = &bytes;
    error_.in_header = true;
    jpeg_create_decompress(&info_);
    jpeg_mem_src(&info_, bytes.data(), bytes.size());
    jpeg_read_header(&info_, TRUE);
    error_.in_header = false;
    return true;
  }

  bool read_rows(const Rows& rows) {
    if (setjmp(error_.jump) != 0) {
      return false;
    }
    jpeg_start_decompress(&info_);
    // Columns are decoded from block to block. The chroma of the outermost is interpolated with
    // that of the next block, which must therefore be decoded too.
    JDIMENSION first = 0;
    JDIMENSION width = info_.output_width;
    constexpr int64_t margin = 16;
    if (rows.left > margin || rows.right + margin < static_cast<int64_t>(width)) {
      first = static_cast<JDIMENSION>(std::max<int64_t>(rows.left - margin, 0));
      width = static_cast<JDIMENSION>(
          std::min<int64_t>(rows.right + margin, static_cast<int64_t>(width)) - first);
      jpeg_crop_scanline(&info_, &first, &width);
    }
    if (rows.top > 0) {
      jpeg_skip_scanlines(&info_, static_cast<JDIMENSION>(rows.top));
    }
    const auto line_bytes = static_cast<std::size_t>((rows.right - rows.left) * rows.channels);
    const uint8_t* line = rows.row + (rows.left - static_cast<int64_t>(first)) * rows.channels;
    uint8_t* next = rows.result;
    for (int64_t y = rows.top; y < rows.bottom; ++y) {
      uint8_t* target = rows.row;
      jpeg_read_scanlines(&info_, &target, 1);
      std::memcpy(next, line, line_bytes);
      next += line_bytes;
    }
    // The end of a whole image is checked; the rest of a larger one is not even read.
    if (info_.output_scanline == info_.output_height) {
      jpeg_finish_decompress(&info_);
    }
    return true;
  }

  [[noreturn]] void fail() const {
    TORCH_CHECK(false, origin_,
                " is not a readable JPEG: ", static_cast<const char*>(error_.message));
  }

  /// libjpeg's state, which also a constructor that throws gives back.
  struct Info : jpeg_decompress_struct {
    Info() : jpeg_decompress_struct() {}
    Info(const Info&) = delete;
    Info& operator=(const Info&) = delete;
    ~Info() { jpeg_destroy_decompress(this); }
  };

  std::string origin_;
  Error error_{};
  Info info_;
};

}  // namespace bsconv::data::detail
