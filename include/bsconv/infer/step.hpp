// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/infer/graph.hpp>
#include <bsconv/infer/memory.hpp>
#include <bsconv/kernels/arguments.hpp>
#include <bsconv/kernels/pack.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

/// \file
/// The steps of a plan, each of which makes one image out of others.

namespace bsconv::infer {

/// Where an image lies in an arena. Rows may have zeros around them for the windows of
/// convolutions.
struct Buffer {
  /// Rows.
  int64_t height = 1;
  /// Pixels in a row.
  int64_t width = 1;
  /// Channels.
  int64_t channels = 0;
  /// Whether each channel is an image of its own.
  bool planar = false;
  /// Zeros around: above, left, below, right.
  std::array<int64_t, 4> border{0, 0, 0, 0};
  /// Floats from a pixel, a row and, if planar, a channel to the next.
  int64_t pixel = 1;
  /// Floats from a row to the next.
  int64_t row = 0;
  /// Floats from a channel to the next, if planar.
  int64_t plane = 0;
  /// Where it starts in the arena, and its floats.
  std::size_t offset = 0;
  /// Its floats.
  std::size_t floats = 0;

  /// Works out the distances, for vectors of `vector` floats.
  void lay_out(int64_t vector) {
    const int64_t columns = border[1] + width + border[3];
    const int64_t rows = border[0] + height + border[2];
    pixel = planar ? 1 : (channels + vector - 1) / vector * vector;
    row = columns * pixel;
    plane = planar ? rows * row : 0;
    // A kernel may read a vector beyond the last pixel.
    floats = static_cast<std::size_t>(planar ? channels * plane : rows * row);
  }

  /// The first pixel in `arena`.
  float* at(float* arena) const { return arena + offset + border[0] * row + border[1] * pixel; }

  /// The image in `arena`.
  kernels::Image<float> image(float* arena) const { return {at(arena), row, pixel}; }
  /// The same to read.
  kernels::Image<const float> input(float* arena) const { return {at(arena), row, pixel}; }

  /// Whether its pixels lie together.
  bool is_dense() const { return !planar && row == width * pixel; }

  /// Writes the zeros around rows `begin` to `end`, with those above and below at the ends.
  void clear_border(float* arena, int64_t begin, int64_t end) const {
    if (border == std::array<int64_t, 4>{0, 0, 0, 0}) {
      return;
    }
    for (int64_t c = 0; c < (planar ? channels : 1); ++c) {
      float* first = arena + offset + c * plane;
      const int64_t top = begin == 0 ? 0 : border[0] + begin;
      const int64_t bottom = end == height ? border[0] + height + border[2] : border[0] + end;
      for (int64_t y = top; y < bottom; ++y) {
        float* line = first + y * row;
        const bool inside = y >= border[0] && y < border[0] + height;
        std::fill_n(line, (inside ? border[1] : border[1] + width + border[3]) * pixel, 0.0F);
        if (inside) {
          std::fill_n(line + (border[1] + width) * pixel, border[3] * pixel, 0.0F);
        }
      }
    }
  }
};

/// What a step works on: one image of a batch.
struct Frame {
  /// Holds the image's buffers.
  float* arena = nullptr;
  /// Memory of the running thread.
  float* scratch = nullptr;
  /// The model's input `[C, H, W]`.
  const float* input = nullptr;
};

/// A share of a step's rows, for several threads.
struct Share {
  /// Which one it is.
  int64_t index = 0;
  /// How many there are.
  int64_t count = 1;

  /// The part of `total` that falls to this share.
  std::pair<int64_t, int64_t> of(int64_t total) const {
    return {total * index / count, total * (index + 1) / count};
  }
};

/// One step of a plan. Steps are made once and run by any number of threads.
class Step {
 public:
  Step() = default;
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;
  Step(Step&&) = delete;
  Step& operator=(Step&&) = delete;
  virtual ~Step() = default;

  /// Does `share` of the work for one image.
  virtual void run(const Frame& frame, Share share) const = 0;
  /// Multiply-adds for one image, padding of channels excluded.
  virtual int64_t multiply_adds() const { return 0; }
  /// Floats of scratch memory that a thread needs.
  virtual std::size_t scratch() const { return 0; }
  /// What it does, for the report.
  virtual std::string describe() const = 0;
};

/// The name of an activation, or nothing for the identity.
inline std::string name_of(kernels::Activation activation) {
  switch (activation) {
    case kernels::Activation::identity:
      return "";
    case kernels::Activation::relu:
      return "relu";
    case kernels::Activation::relu6:
      return "relu6";
    case kernels::Activation::hardswish:
      return "hardswish";
    case kernels::Activation::hardsigmoid:
      return "hardsigmoid";
  }
  return "";
}

/// What an epilogue does, such as " + residual + relu".
inline std::string describe_epilogue(const Node& node) {
  std::string text;
  if (node.before != kernels::Activation::identity) {
    text += " + ";
    text += name_of(node.before);
  }
  if (node.residual) {
    text += " + residual";
  }
  if (node.after != kernels::Activation::identity) {
    text += " + ";
    text += name_of(node.after);
  }
  return text;
}

/// The epilogue of `node`, whose residual lies in `residual`.
inline kernels::Epilogue epilogue_of(const Node& node, const Buffer* residual, float* arena) {
  kernels::Epilogue epilogue;
  epilogue.before = node.before;
  epilogue.after = node.after;
  if (residual != nullptr) {
    epilogue.residual = residual->input(arena);
  }
  return epilogue;
}

/// How many rows of `floats` each stay in the second-level cache while one panel of channels after
/// the other reads them.
inline int64_t rows_in_band(int64_t floats) {
  constexpr int64_t band_floats = 64 * 1024;
  return std::max<int64_t>(1, band_floats / floats);
}

/// The floats of scratch memory that hold `count` numbers in bf16.
inline int64_t floats_of_rounded(int64_t count) { return (count + 1) / 2; }

/// `image` from `row` and `pixel` on.
template <class Float>
kernels::Image<Float> from(kernels::Image<Float> image, int64_t row, int64_t pixel = 0) {
  if (image.data != nullptr) {
    image.data += row * image.row + pixel * image.pixel;
  }
  return image;
}

}  // namespace bsconv::infer
