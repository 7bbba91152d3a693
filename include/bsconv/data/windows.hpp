// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include <ATen/ops/empty.h>
#include <torch/types.h>

#include <bsconv/data/image_size.hpp>

namespace bsconv::data::detail {

/// Byte values on the scale from 0 to 1: value / 255.
inline constexpr std::array<float, 256> unit_values = [] {
  std::array<float, 256> values{};
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(i) / 255.0F;
  }
  return values;
}();

/// Images cut out of others: window i of the result lies at (top[i], left[i]) of image `source[i]`,
/// is zero where it leaves the image, and is mirrored left to right where `mirrored[i]`.
struct Windows {
  /// Undefined: image i itself. Otherwise int64 [N] on the CPU.
  torch::Tensor source;
  /// Undefined: 0. Otherwise int64 [N] on the CPU.
  torch::Tensor top;
  /// As `top`.
  torch::Tensor left;
  /// Undefined: none. Otherwise bool [N] on the CPU.
  torch::Tensor mirrored;
  /// Size of each window.
  ImageSize size;
};

/// One row of a window: `width` values `target_step` apart from `target` on, out of a row of
/// `row_width` values `row_step` apart; a null row is zero.
template <typename Out>
void copy_window_row(const uint8_t* row, int64_t row_width, int64_t row_step, int64_t left,
                     int64_t width, bool mirrored, Out* target, int64_t target_step) {
  // The part of the window that lies inside the row.
  const int64_t begin = std::clamp<int64_t>(-left, 0, width);
  const int64_t end = row == nullptr ? begin : std::clamp<int64_t>(row_width - left, begin, width);
  if constexpr (std::is_same_v<Out, uint8_t>) {
    if (row_step == 1 && target_step == 1 && !mirrored) {
      std::memset(target, 0, static_cast<std::size_t>(begin));
      if (end > begin) {
        std::memcpy(target + begin, row + left + begin, static_cast<std::size_t>(end - begin));
      }
      std::memset(target + end, 0, static_cast<std::size_t>(width - end));
      return;
    }
  }
  const int64_t stride = mirrored ? -target_step : target_step;
  Out* next = mirrored ? target + (width - 1) * target_step : target;
  for (int64_t x = 0; x < begin; ++x, next += stride) {
    *next = 0;
  }
  for (int64_t x = begin; x < end; ++x, next += stride) {
    const uint8_t value = row[(left + x) * row_step];
    if constexpr (std::is_same_v<Out, uint8_t>) {
      *next = value;
    } else {
      *next = unit_values[value];
    }
  }
  for (int64_t x = end; x < width; ++x, next += stride) {
    *next = 0;
  }
}

/// Cuts the window at (`top`, `left`) out of `image` and writes it to `result`; both [C, H, W] of
/// any strides on the CPU, `image` uint8 and `result` of type `Out`: uint8_t for the values as they
/// are, float for values from 0 to 1.
template <typename Out>
void copy_window(const torch::Tensor& image, int64_t top, int64_t left, bool mirrored,
                 const torch::Tensor& result) {
  const int64_t height = image.size(1);
  const uint8_t* pixels = image.const_data_ptr<uint8_t>();
  Out* const out = result.mutable_data_ptr<Out>();
  for (int64_t channel = 0; channel < result.size(0); ++channel) {
    const uint8_t* plane = pixels + channel * image.stride(0);
    for (int64_t row = 0; row < result.size(1); ++row) {
      const int64_t y = top + row;
      copy_window_row(y >= 0 && y < height ? plane + y * image.stride(1) : nullptr, image.size(2),
                      image.stride(2), left, result.size(2), mirrored,
                      out + channel * result.stride(0) + row * result.stride(1), result.stride(2));
    }
  }
}

/// Cuts `windows` out of `images`, uint8 [M, C, H, W] on the CPU, in one pass; see `copy_window`.
template <typename Out>
torch::Tensor copy_windows(const torch::Tensor& images, const Windows& windows,
                           torch::MemoryFormat format = torch::MemoryFormat::Contiguous) {
  const int64_t count = windows.source.defined() ? windows.source.size(0) : images.size(0);
  auto result =
      at::empty({count, images.size(1), windows.size.height, windows.size.width},
                torch::TensorOptions(c10::CppTypeToScalarType<Out>::value).memory_format(format));
  const auto values = [](const torch::Tensor& tensor) {
    return tensor.defined() ? tensor.contiguous() : tensor;
  };
  const torch::Tensor source = values(windows.source);
  const torch::Tensor top = values(windows.top);
  const torch::Tensor left = values(windows.left);
  const torch::Tensor mirrored = values(windows.mirrored);
  const auto at = [](const torch::Tensor& tensor, int64_t i, int64_t otherwise) {
    return tensor.defined() ? tensor.const_data_ptr<int64_t>()[i] : otherwise;
  };
  for (int64_t i = 0; i < count; ++i) {
    copy_window<Out>(images[at(source, i, i)], at(top, i, 0), at(left, i, 0),
                     mirrored.defined() && mirrored.const_data_ptr<bool>()[i], result[i]);
  }
  return result;
}

}  // namespace bsconv::data::detail
