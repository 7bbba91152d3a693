// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/infer/step.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

namespace bsconv::infer {

/// Brings the model's input `[C, H, W]` into a buffer, with an affine map by channel.
class ImportStep : public Step {
 public:
  /// `scale` and `shift` have one float a channel, or none for no map.
  ImportStep(const Buffer& to, AlignedFloats scale, AlignedFloats shift)
      : to_(to), scale_(std::move(scale)), shift_(std::move(shift)) {}

  void run(const Frame& frame, Share share) const override {
    const auto [begin, end] = share.of(to_.height);
    to_.clear_border(frame.arena, begin, end);
    float* first = to_.at(frame.arena);
    const int64_t channel_step = to_.planar ? to_.plane : 1;
    for (int64_t c = 0; c < to_.channels; ++c) {
      const float scale = scale_.data() == nullptr ? 1.0F : scale_.data()[c];
      const float shift = shift_.data() == nullptr ? 0.0F : shift_.data()[c];
      for (int64_t y = begin; y < end; ++y) {
        const float* from = frame.input + (c * to_.height + y) * to_.width;
        float* to = first + c * channel_step + y * to_.row;
        if (to_.pixel == 1) {
          for (int64_t x = 0; x < to_.width; ++x) {
            to[x] = from[x] * scale + shift;
          }
        } else {
          for (int64_t x = 0; x < to_.width; ++x) {
            to[x * to_.pixel] = from[x] * scale + shift;
          }
        }
      }
    }
    if (!to_.planar) {
      clear_padding(first, begin, end);
    }
  }

  std::string describe() const override {
    return scale_.data() == nullptr ? "import" : "import + affine";
  }

 private:
  // The lanes behind the last channel.
  void clear_padding(float* first, int64_t begin, int64_t end) const {
    for (int64_t y = begin; y < end; ++y) {
      for (int64_t x = 0; x < to_.width; ++x) {
        float* pixel = first + y * to_.row + x * to_.pixel;
        std::fill(pixel + to_.channels, pixel + to_.pixel, 0.0F);
      }
    }
  }

  const Buffer& to_;
  AlignedFloats scale_;
  AlignedFloats shift_;
};

}  // namespace bsconv::infer
