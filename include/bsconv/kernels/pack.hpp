// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/BFloat16.h>
#include <torch/types.h>
#include <bsconv/kernels/aligned.hpp>
#include <bsconv/kernels/arguments.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

/// \file
/// Weights in the order in which the kernels read them.

namespace bsconv::kernels {

/// In which order a window of the input lies in memory.
enum class WindowOrder {
  /// `[height, width, channels]`
  channels_last,
  /// `[channels, height, width]`
  planar,
};

/// The weights of a convolution in panels of output channels.
struct PackedConvolution {
  /// A panel: some vectors of output channels.
  struct Panel {
    /// Its first vector among all.
    int64_t first = 0;
    /// Its vectors.
    int64_t vectors = 0;
    /// Where its weights and biases start.
    std::size_t weights = 0;
    /// Where its biases start.
    std::size_t bias = 0;
  };
  /// The panels in order.
  std::vector<Panel> panels;
  /// Biases and weights, panel by panel.
  AlignedFloats data;
  /// Whether a float of the weights holds two numbers in bf16, those of adjacent input channels, or
  /// of adjacent pixels if planar.
  bool pairs = false;
};

/// Splits `vectors` evenly into panels of at most `most`.
inline std::vector<PackedConvolution::Panel> split_panels(int64_t vectors, int64_t most) {
  std::vector<PackedConvolution::Panel> panels;
  int64_t first = 0;
  for (int64_t left = (vectors + most - 1) / most; left > 0; --left) {
    const int64_t size = (vectors - first + left - 1) / left;
    panels.push_back({first, size, 0, 0});
    first += size;
  }
  return panels;
}

/// Whether panels of one vector are faster than panels of several for a pointwise convolution of
/// `channels` input channels: the weights of 16 stay in registers for all pixels; sums of 32
/// products are short.
inline bool prefers_single_vectors(const KernelTable& kernels, int64_t channels) {
  return kernels.registers >= 32 && (channels == 16 || channels == 32) && kernels.round == nullptr;
}

namespace detail {

/// Packs `out` channels of `depth` weights each, `weight(k, channel)`, and their biases, which may
/// be null: zeros.
template <class Weight>
PackedConvolution pack_panels(int64_t out, int64_t depth, const float* bias, int64_t width,
                              int64_t most, const Weight& weight) {
  PackedConvolution packed;
  packed.panels = split_panels((out + width - 1) / width, most);
  std::size_t floats = 0;
  for (auto& panel : packed.panels) {
    panel.bias = floats;
    panel.weights = floats + static_cast<std::size_t>(panel.vectors * width);
    floats = panel.weights + static_cast<std::size_t>(depth * panel.vectors * width);
  }
  packed.data = AlignedFloats(floats);
  for (const auto& panel : packed.panels) {
    const int64_t begin = panel.first * width;
    const int64_t lanes = panel.vectors * width;
    const int64_t count = std::min(out - begin, lanes);
    if (bias != nullptr) {
      std::copy_n(bias + begin, count, packed.data.data() + panel.bias);
    }
    float* to = packed.data.data() + panel.weights;
    for (int64_t k = 0; k < depth; ++k, to += lanes) {
      for (int64_t c = 0; c < count; ++c) {
        to[c] = weight(k, begin + c);
      }
    }
  }
  return packed;
}

}  // namespace detail

/// Packs `weight` `[out, in, height, width]` and `bias` `[out]`, for vectors of `width` floats and
/// panels of at most `most` vectors; missing output channels become zeros. With `pairs`, weights
/// are rounded to bf16, two adjacent ones in the place of one; of an odd number of input channels,
/// or of columns if planar, the last has a zero beside it.
inline PackedConvolution pack_convolution(const torch::Tensor& weight, const torch::Tensor& bias,
                                          WindowOrder order, int64_t width, int64_t most,
                                          bool pairs = false) {
  const auto ordered = (order == WindowOrder::channels_last ? weight.permute({2, 3, 1, 0})
                                                            : weight.permute({1, 2, 3, 0}))
                           .to(torch::kCPU, torch::kFloat)
                           .contiguous();
  const auto biases = bias.to(torch::kCPU, torch::kFloat).contiguous();
  const int64_t out = weight.size(0);
  const auto* from = ordered.const_data_ptr<float>();
  const int64_t depth = ordered.numel() / out;
  const auto pack = [&](int64_t numbers, const auto& number) {
    return detail::pack_panels(out, numbers, biases.const_data_ptr<float>(), width, most, number);
  };
  if (!pairs) {
    return pack(depth, [&](int64_t k, int64_t channel) { return from[k * out + channel]; });
  }
  const int64_t run = ordered.size(2);
  const int64_t run_pairs = (run + 1) / 2;
  auto packed = pack(depth / run * run_pairs, [&](int64_t k, int64_t channel) {
    const auto bits = [&](int64_t at) {
      const int64_t row = k / run_pairs * run;
      return at < run ? static_cast<uint32_t>(c10::BFloat16(from[(row + at) * out + channel]).x)
                      : 0U;
    };
    const int64_t first = k % run_pairs * 2;
    return std::bit_cast<float>(bits(first) | bits(first + 1) << 16U);
  });
  packed.pairs = true;
  return packed;
}

/// A matrix of floats somewhere in memory.
struct Matrix {
  /// The first value.
  const float* data = nullptr;
  /// Rows.
  int64_t rows = 0;
  /// Columns.
  int64_t columns = 0;
  /// From a row to the next.
  int64_t row = 0;
  /// From a column to the next.
  int64_t column = 0;

  /// The same memory with rows for columns.
  Matrix transposed() const { return {data, columns, rows, column, row}; }
};

/// Refers to the first two axes of `tensor`, float, whose other axes have one element.
inline Matrix matrix_of(const torch::Tensor& tensor) {
  return {tensor.const_data_ptr<float>(), tensor.size(0), tensor.size(1), tensor.stride(0),
          tensor.stride(1)};
}

/// Packs a pointwise convolution from its `weight`, a row for each output channel, and `bias`,
/// which may be null.
inline PackedConvolution pack_pointwise(const Matrix& weight, const float* bias, int64_t width,
                                        int64_t most) {
  return detail::pack_panels(weight.rows, weight.columns, bias, width, most,
                             [&](int64_t k, int64_t channel) {
                               return weight.data[channel * weight.row + k * weight.column];
                             });
}

/// The weights of a depthwise convolution: `[vectors, height * width, width of a vector]`.
struct PackedDepthwise {
  /// `[vectors, height * width, width of a vector]`
  AlignedFloats weights;
  /// `[channels]`
  AlignedFloats bias;
};

/// Packs `weight` `[channels, 1, height, width]` and `bias` `[channels]`, or zeros if it is
/// undefined.
inline PackedDepthwise pack_depthwise(const torch::Tensor& weight, const torch::Tensor& bias,
                                      int64_t width) {
  const auto from = weight.to(torch::kCPU, torch::kFloat).contiguous();
  const int64_t channels = weight.size(0);
  const int64_t taps = weight.size(2) * weight.size(3);
  const int64_t padded = (channels + width - 1) / width * width;
  PackedDepthwise packed{AlignedFloats(static_cast<std::size_t>(padded * taps)),
                         AlignedFloats(static_cast<std::size_t>(padded))};
  const auto* values = from.const_data_ptr<float>();
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      packed.weights.data()[(c / width * taps + tap) * width + c % width] = values[c * taps + tap];
    }
  }
  if (bias.defined()) {
    const auto biases = bias.to(torch::kCPU, torch::kFloat).contiguous();
    std::copy_n(biases.const_data_ptr<float>(), channels, packed.bias.data());
  }
  return packed;
}

/// One number a channel, padded to whole vectors with zeros.
inline AlignedFloats pack_channels(const torch::Tensor& values, int64_t width) {
  const auto from = values.to(torch::kCPU, torch::kFloat).contiguous();
  AlignedFloats packed(static_cast<std::size_t>((from.numel() + width - 1) / width * width));
  std::copy_n(from.const_data_ptr<float>(), from.numel(), packed.data());
  return packed;
}

/// The same for numbers in memory, which come `times` times one behind the other.
inline AlignedFloats pack_channels(const std::vector<double>& values, int64_t width,
                                   int64_t times = 1) {
  const auto count = static_cast<int64_t>(values.size()) * times;
  AlignedFloats packed(static_cast<std::size_t>((count + width - 1) / width * width));
  float* to = packed.data();
  for (int64_t i = 0; i < times; ++i) {
    to = std::transform(values.begin(), values.end(), to,
                        [](double value) { return static_cast<float>(value); });
  }
  return packed;
}

}  // namespace bsconv::kernels
