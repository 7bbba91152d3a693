// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/images.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace bsconv::detail {

/// What a block's depthwise convolution reads, kept for the backward pass: planes
/// `[N, vectors, H, W, width]`.
class HiddenImages {
 public:
  /// With fewer input channels it takes less time to make them anew than to write and read them.
  static constexpr int64_t fewest_channels = 48;

  /// A tensor for what becomes of `input`; uninitialized.
  static torch::Tensor empty(const PixelTensor& input, int64_t vectors, int64_t width) {
    return torch::empty({input.images, vectors, input.height, input.width, width}, torch::kFloat);
  }

  HiddenImages() = default;
  /// Refers to such a tensor, or to none if it is undefined.
  explicit HiddenImages(const torch::Tensor& tensor) {
    if (tensor.defined()) {
      data_ = static_cast<float*>(tensor.mutable_data_ptr());
      vectors_ = tensor.size(1);
      height_ = tensor.size(2);
      row_ = tensor.size(3) * tensor.size(4);
    }
  }

  /// Whether there is a tensor.
  bool defined() const { return data_ != nullptr; }
  /// From a row to the next.
  int64_t row() const { return row_; }
  /// From a vector's plane to the next.
  int64_t plane() const { return height_ * row_; }
  /// The first pixel of a row of an image.
  float* at(int64_t image, int64_t row = 0) const {
    return data_ + image * vectors_ * plane() + row * row_;
  }

  /// Copies `rows` rows of an image from `first` on out of other planes, whose first row and
  /// distances are given.
  void store(int64_t image, int64_t first, int64_t rows, const float* from, int64_t from_row,
             int64_t from_plane) const {
    copy(from, from_row, from_plane, at(image, first), row_, plane(), rows);
  }

  /// Copies an image into other planes.
  void load(int64_t image, float* to, int64_t to_row, int64_t to_plane) const {
    copy(at(image), row_, plane(), to, to_row, to_plane, height_);
  }

 private:
  void copy(const float* from, int64_t from_row, int64_t from_plane, float* to, int64_t to_row,
            int64_t to_plane, int64_t rows) const {
    for (int64_t v = 0; v < vectors_; ++v) {
      for (int64_t row = 0; row < rows; ++row) {
        std::memcpy(to + v * to_plane + row * to_row, from + v * from_plane + row * from_row,
                    static_cast<std::size_t>(row_) * sizeof(float));
      }
    }
  }

  float* data_ = nullptr;
  int64_t vectors_ = 0;
  int64_t height_ = 0;
  int64_t row_ = 0;
};

}  // namespace bsconv::detail
