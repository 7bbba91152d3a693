// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <ostream>

#include <torch/types.h>

namespace bsconv::data {

/// Height and width of an image, in pixels.
struct ImageSize {
  /// A square of `side` x `side`; 0 stands for a size that is not given.
  ImageSize(int64_t side = 0)  // NOLINT(google-explicit-constructor)
      : height(side), width(side) {}
  /// `height` x `width`.
  ImageSize(int64_t height, int64_t width) : height(height), width(width) {}

  /// Rows.
  int64_t height;
  /// Columns.
  int64_t width;

  /// Throws, naming `what`, unless both are positive.
  void check(const char* what) const {
    TORCH_CHECK(height > 0 && width > 0, what, " must be positive, got ", height, " x ", width);
  }
  /// Whether both are equal.
  bool operator==(const ImageSize&) const = default;
};

/// Writes "224", or "224x320" if it is no square.
inline std::ostream& operator<<(std::ostream& stream, const ImageSize& size) {
  stream << size.height;
  return size.height == size.width ? stream : stream << 'x' << size.width;
}

}  // namespace bsconv::data
