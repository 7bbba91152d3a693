// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/Parallel.h>
#include <torch/types.h>
#include <bsconv/autograd/channels_last.hpp>
#include <bsconv/kernels/pack.hpp>
#include <bsconv/kernels/training_table.hpp>
#include <bsconv/util/parallel.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

/// \file
/// Tensors `[N, C, H, W]` in channels_last order as the kernels take them, and work that is split
/// over their images.

namespace bsconv::detail {

/// A tensor whose pixels lie one behind the other, each with its channels together.
struct PixelTensor {
  float* data = nullptr;
  int64_t images = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;

  PixelTensor() = default;
  /// Refers to `tensor` `[N, C, H, W]`, float, channels_last, or `[N, H, W, C]`, contiguous.
  PixelTensor(const torch::Tensor& tensor, bool channels_first)
      : data(static_cast<float*>(tensor.mutable_data_ptr())),
        images(tensor.size(0)),
        height(tensor.size(channels_first ? 2 : 1)),
        width(tensor.size(channels_first ? 3 : 2)),
        channels(tensor.size(channels_first ? 1 : 3)) {}

  /// Pixels of an image.
  int64_t pixels() const { return height * width; }
  /// The first value of an image, or of one of its rows.
  float* at(int64_t image, int64_t row = 0) const {
    return data + (image * height + row) * width * channels;
  }
};

/// Refers to `tensor` `[N, C, H, W]`, float, channels_last.
inline PixelTensor pixels_of(const torch::Tensor& tensor) { return {tensor, true}; }

/// `images` from a pixel on, for a kernel to fetch; nothing without any, or behind the last.
inline kernels::Prefetch prefetch_from(const PixelTensor& images, int64_t first) {
  if (first >= images.images * images.pixels()) {
    return {};
  }
  return {images.data + first * images.channels, images.channels};
}

/// `[N, H, W, channels]` with the channels of `image` (`[N, C, H, W]`), then zeros.
inline torch::Tensor pad_channels(const torch::Tensor& image, int64_t channels) {
  const auto last = image.permute({0, 2, 3, 1});
  return torch::constant_pad_nd(last, {0, channels - last.size(3)}).contiguous();
}

/// `channels` rounded up to whole vectors.
inline int64_t whole_vectors(int64_t channels, int64_t width) {
  return (channels + width - 1) / width * width;
}

/// The fewest adjacent pixels whose channels together are whole vectors.
inline int64_t pixels_per_group(int64_t channels, int64_t width) {
  return width / std::gcd(channels, width);
}

/// Refers to `tensor` as `pixels_of` does, but with that many pixels as one, in one row, where the
/// channels of one are not whole vectors.
inline PixelTensor whole_vectors_of(const torch::Tensor& tensor, int64_t width) {
  auto result = pixels_of(tensor);
  const int64_t group = pixels_per_group(result.channels, width);
  if (group != 1) {
    result.width = result.pixels() / group;
    result.height = 1;
    result.channels *= group;
  }
  return result;
}

/// Over fewer pixels, sums of products take as long to read and write as to add up.
inline constexpr int64_t few_pixels = 64;

/// Images are dealt out in parts, whose sums are added in order: results don't depend on which
/// thread does which, nor, up to 4 threads, on their number. A thread that is done with
/// its own takes over parts of others, which may be slower, be it by other work on their processor.
class ImageParts {
 public:
  /// Parts of `images` images, each of which adds up `sums` values: many of few values, few of
  /// many.
  explicit ImageParts(int64_t images, int64_t sums = 0)
      : images_(images),
        count_(std::min(
            images, std::max<int64_t>(at::get_num_threads(),
                                      std::clamp<int64_t>(all_sums / (sums + 1), fewest, most)))) {}

  /// How many parts there are.
  int64_t count() const { return count_; }

  /// Calls `work(part, first image, one behind the last)` for all parts, on LibTorch's threads.
  template <class Work>
  void run(const Work& work) const {
    std::vector<std::atomic<bool>> taken(static_cast<std::size_t>(count_));
    const auto take = [&](int64_t part) {
      if (!taken[static_cast<std::size_t>(part)].exchange(true)) {
        work(part, part * images_ / count_, (part + 1) * images_ / count_);
      }
    };
    parallel_for(count_, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        take(part);
      }
      for (int64_t part = count_ - 1; part >= 0; --part) {
        take(part);
      }
    });
  }

 private:
  static constexpr int64_t fewest = 4;
  static constexpr int64_t most = 16;
  static constexpr int64_t all_sums = int64_t{1} << 17U;
  int64_t images_;
  int64_t count_;
};

/// Numbers that each part of some images adds up on its own, from zero on.
template <class Number>
class PartSums {
 public:
  /// `size` numbers for each of `parts`.
  PartSums(const ImageParts& parts, int64_t size)
      : count_(parts.count()),
        size_(size),
        step_((size + line - 1) / line * line),
        numbers_(static_cast<std::size_t>(count_ * step_)) {}

  /// Those of one part.
  Number* of(int64_t part) { return numbers_.data() + part * step_; }

  /// Those of all parts together, added up in order.
  std::vector<double> total() const {
    std::vector<double> sums(static_cast<std::size_t>(size_));
    for (int64_t part = 0; part < count_; ++part) {
      const Number* from = numbers_.data() + part * step_;
      for (double& sum : sums) {
        sum += static_cast<double>(*from++);
      }
    }
    return sums;
  }

 private:
  // Two parts have no line of a cache in common.
  static constexpr int64_t line = 128 / sizeof(Number);
  int64_t count_;
  int64_t size_;
  int64_t step_;
  std::vector<Number> numbers_;
};

/// The first `columns` of each of `rows` rows of `width` sums as floats `[columns, rows]`; returns
/// the end of those.
inline float* transpose(const double* from, int64_t rows, int64_t width, int64_t columns,
                        float* to) {
  for (int64_t column = 0; column < columns; ++column) {
    for (int64_t row = 0; row < rows; ++row) {
      *to++ = static_cast<float>(from[row * width + column]);
    }
  }
  return to;
}

/// Memory of this thread that is used again and again: allocating it anew would cost page faults.
/// At least `count` floats with arbitrary values; `slot` tells apart what is in use at once.
inline float* scratch(int slot, int64_t count) {
  constexpr std::size_t slots = 8;
  static thread_local std::array<kernels::AlignedFloats, slots> memory;
  auto& block = memory.at(static_cast<std::size_t>(slot));
  if (block.size() < static_cast<std::size_t>(count)) {
    block = kernels::AlignedFloats(static_cast<std::size_t>(count));
  }
  return block.data();
}

/// Adds the sums of `pixels` adjacent pixels of `channels` channels, and those of their squares, to
/// `totals` `[2, channels]`. Single precision is enough, since it sums up distances from one pixel.
inline void add_moments(const kernels::TrainingKernelTable& kernels, const float* input,
                        int64_t pixels, int64_t channels, double* totals) {
  float* sums = scratch(7, 2 * channels);
  std::fill_n(sums, 2 * channels, 0.0F);
  kernels::Moments m;
  m.input = input;
  m.shift = input;
  m.sums = sums;
  m.squares = sums + channels;
  m.pixels = pixels;
  m.vectors = channels / kernels.forward->width;
  kernels.moments(m);
  const auto n = static_cast<double>(pixels);
  for (int64_t c = 0; c < channels; ++c) {
    const auto shift = static_cast<double>(input[c]);
    const auto sum = static_cast<double>(sums[c]);
    totals[c] += sum + n * shift;
    totals[channels + c] += static_cast<double>(m.squares[c]) + shift * (2.0 * sum + n * shift);
  }
}

/// A pointwise convolution with packed weights: `y = W x + b`, in float.
class PackedPointwise {
 public:
  /// `weight` has a row for each output channel; `bias` is `[out]`, float, or undefined.
  PackedPointwise(const kernels::KernelTable& kernels, const kernels::Matrix& weight,
                  const torch::Tensor& bias = {})
      : kernels_(&kernels),
        depth_(weight.columns),
        packed_(kernels::pack_pointwise(weight,
                                        bias.defined() ? bias.const_data_ptr<float>() : nullptr,
                                        kernels.width, most_vectors(kernels, weight.columns))) {}

  /// Computes `rows` rows of `pixels` pixels. `vector` is the distance between vectors of a pixel
  /// of `output`, which gets whole vectors; `added`, laid out like a pixel-major output, is added.
  /// Meanwhile `soon` is fetched.
  void run(kernels::Image<const float> input, kernels::Image<float> output, int64_t vector,
           int64_t rows, int64_t pixels, kernels::Image<const float> added = {},
           const std::array<kernels::Prefetch, 2>& soon = {}) const {
    static constexpr int64_t no_offset = 0;
    kernels::Convolution c;
    c.input = input;
    c.segments = &no_offset;
    c.depth = depth_;
    c.output_vector = vector;
    c.rows = rows;
    c.pixels = pixels;
    std::copy(soon.begin(), soon.end(), c.prefetch);
    for (const auto& panel : packed_.panels) {
      c.output = output;
      c.output.data += panel.first * vector;
      c.epilogue.residual = added;
      if (added.data != nullptr) {
        c.epilogue.residual.data += panel.first * kernels_->width;
      }
      c.vectors = panel.vectors;
      c.weights = packed_.data.data() + panel.weights;
      c.bias = packed_.data.data() + panel.bias;
      kernels_->convolve(c);
      std::fill_n(c.prefetch, 2, kernels::Prefetch{});
    }
  }

 private:
  static int64_t most_vectors(const kernels::KernelTable& kernels, int64_t channels) {
    if (kernels.registers < 32) {
      return 2;
    }
    return kernels::prefers_single_vectors(kernels, channels) ? 1 : 4;
  }

  const kernels::KernelTable* kernels_;
  int64_t depth_;
  kernels::PackedConvolution packed_;
};

}  // namespace bsconv::detail
