// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/infer/graph.hpp>
#include <bsconv/infer/memory.hpp>
#include <bsconv/kernels/arguments.hpp>
#include <bsconv/kernels/pack.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

/// \file
/// The steps of a plan, each of which makes one image out of others.

namespace bsconv::infer {

/// The floats whose memory holds `count` numbers in bf16.
inline int64_t floats_of_rounded(int64_t count) { return (count + 1) / 2; }

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
  /// Whether the arena has it in floats.
  bool in_floats = true;
  /// Whether the arena has it in bf16, at the same distances.
  bool in_bf16 = false;
  /// Where it starts in the arena: the floats, then the numbers in bf16.
  std::size_t offset = 0;
  /// The floats of the arena that it takes.
  std::size_t floats = 0;

  /// Works out the distances, for vectors of `vector` floats.
  void lay_out(int64_t vector) {
    const int64_t columns = border[1] + width + border[3];
    const int64_t rows = border[0] + height + border[2];
    pixel = planar ? 1 : (channels + vector - 1) / vector * vector;
    row = columns * pixel;
    plane = planar ? rows * row : 0;
    const auto numbers = static_cast<std::size_t>(planar ? channels * plane : rows * row);
    rounded_offset = in_floats ? (numbers + line - 1) / line * line : 0;
    floats = in_floats ? numbers : 0;
    if (in_bf16) {
      floats = rounded_offset +
               static_cast<std::size_t>(floats_of_rounded(static_cast<int64_t>(numbers)));
    }
  }

  /// The first pixel in `arena`; null if it isn't there in floats.
  float* at(float* arena) const {
    return in_floats ? arena + offset + border[0] * row + border[1] * pixel : nullptr;
  }

  /// The image in `arena`.
  kernels::Image<float> image(float* arena) const { return {at(arena), row, pixel}; }
  /// The same to read.
  kernels::Image<const float> input(float* arena) const { return {at(arena), row, pixel}; }
  /// The image in bf16; its data are null if it isn't there.
  kernels::Image<uint16_t> rounded(float* arena) const {
    return {in_bf16 ? start_of_rounded(arena) + border[0] * row + border[1] * pixel : nullptr, row,
            pixel};
  }

  /// Whether its pixels lie together, and nothing around them.
  bool is_dense() const {
    return !planar && row == width * pixel && border == std::array<int64_t, 4>{0, 0, 0, 0};
  }

  /// Writes the zeros around rows `begin` to `end`, with those above and below at the ends.
  void clear_border(float* arena, int64_t begin, int64_t end) const {
    if (border == std::array<int64_t, 4>{0, 0, 0, 0}) {
      return;
    }
    if (in_floats) {
      clear_border_of(arena + offset, begin, end);
    }
    if (in_bf16) {
      clear_border_of(start_of_rounded(arena), begin, end);
    }
  }

 private:
  // Floats in a cache line.
  static constexpr std::size_t line = 16;

  uint16_t* start_of_rounded(float* arena) const {
    return reinterpret_cast<uint16_t*>(arena + offset + rounded_offset);
  }

  template <class Number>
  void clear_border_of(Number* start, int64_t begin, int64_t end) const {
    for (int64_t c = 0; c < (planar ? channels : 1); ++c) {
      Number* first = start + c * plane;
      const int64_t top = begin == 0 ? 0 : border[0] + begin;
      const int64_t bottom = end == height ? border[0] + height + border[2] : border[0] + end;
      for (int64_t y = top; y < bottom; ++y) {
        Number* at = first + y * row;
        const bool inside = y >= border[0] && y < border[0] + height;
        std::fill_n(at, (inside ? border[1] : border[1] + width + border[3]) * pixel, Number{});
        if (inside) {
          std::fill_n(at + (border[1] + width) * pixel, border[3] * pixel, Number{});
        }
      }
    }
  }

  // From the start to the numbers in bf16.
  std::size_t rounded_offset = 0;
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

/// The epilogue of `node`, whose residual lies in `residual` and whose results go to `output`.
inline kernels::Epilogue epilogue_of(const Node& node, const Buffer* residual, const Buffer& output,
                                     float* arena) {
  kernels::Epilogue epilogue;
  epilogue.before = node.before;
  epilogue.after = node.after;
  epilogue.rounded = output.rounded(arena);
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

/// `image` from `row`, `pixel` and `channel` on.
template <class Number>
kernels::Image<Number> from(kernels::Image<Number> image, int64_t row, int64_t pixel = 0,
                            int64_t channel = 0) {
  if (image.data != nullptr) {
    image.data += row * image.row + pixel * image.pixel + channel;
  }
  return image;
}

/// `epilogue` for what lies from `row`, `pixel` and `channel` on.
inline kernels::Epilogue from(kernels::Epilogue epilogue, int64_t row, int64_t pixel = 0,
                              int64_t channel = 0) {
  epilogue.residual = from(epilogue.residual, row, pixel, channel);
  epilogue.rounded = from(epilogue.rounded, row, pixel, channel);
  return epilogue;
}

}  // namespace bsconv::infer
