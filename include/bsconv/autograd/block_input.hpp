// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/images.hpp>
#include <bsconv/autograd/normalization_forward.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

namespace bsconv::detail {

/// The images that a block reads: those of a tensor, or what the batch normalization and activation
/// in front of it, or at the end of the block before it, make of them, which are never in memory as
/// a whole.
class BlockInput {
 public:
  BlockInput() = default;
  /// Images as they are.
  explicit BlockInput(const PixelTensor& images) : images_(images) {}
  /// What `norm` makes of images; whole vectors divide the channels.
  BlockInput(const PixelTensor& images, NormalizationForward norm)
      : images_(images), norm_(std::move(norm)) {}

  /// Whether pixels are made as they are read.
  bool is_normalized() const { return norm_.has_value(); }
  /// The images, before they are normalized.
  const PixelTensor& images() const { return images_; }

  /// Floats that `read` needs room for at most, at `pixels` pixels a time.
  int64_t room(int64_t pixels) const { return is_normalized() ? pixels * images_.channels : 0; }

  /// `pixels` pixels from the `first` of all images on: where they are or, normalized, in `to`.
  const float* read(int64_t first, int64_t pixels, float* to) const {
    const float* from = images_.data + first * images_.channels;
    if (!is_normalized()) {
      return from;
    }
    norm_->run(from, nullptr, to, pixels);
    return to;
  }

 private:
  PixelTensor images_;
  std::optional<NormalizationForward> norm_;
};

/// Calls `work(first pixel, pixels)` for the pixels of the images `begin` to `end` in turn, so many
/// at a time that `channels` of each stay in the second-level cache, if those are `few_pixels`.
template <class Work>
void for_cached_pixels(const PixelTensor& images, int64_t begin, int64_t end, int64_t channels,
                       const Work& work) {
  constexpr int64_t cached_floats = 32 * 1024;
  const int64_t together = std::max(few_pixels, cached_floats / channels);
  const int64_t last = end * images.pixels();
  for (int64_t first = begin * images.pixels(); first < last; first += together) {
    work(first, std::min(together, last - first));
  }
}

}  // namespace bsconv::detail
