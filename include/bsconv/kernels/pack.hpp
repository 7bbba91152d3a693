// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/kernels/aligned.hpp>

#include <algorithm>
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

/// Packs `weight` `[out, in, height, width]` and `bias` `[out]`, for vectors of `width` floats and
/// panels of at most `most` vectors; missing output channels become zeros.
inline PackedConvolution pack_convolution(const torch::Tensor& weight, const torch::Tensor& bias,
                                          WindowOrder order, int64_t width, int64_t most) {
  const auto ordered = (order == WindowOrder::channels_last ? weight.permute({2, 3, 1, 0})
                                                            : weight.permute({1, 2, 3, 0}))
                           .to(torch::kCPU, torch::kFloat)
                           .contiguous();
  const auto biases = bias.to(torch::kCPU, torch::kFloat).contiguous();
  const int64_t out = weight.size(0);
  const int64_t depth = ordered.numel() / out;
  const auto* from = ordered.const_data_ptr<float>();
  const auto* from_bias = biases.const_data_ptr<float>();

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
    std::copy_n(from_bias + begin, count, packed.data.data() + panel.bias);
    for (int64_t k = 0; k < depth; ++k) {
      std::copy_n(from + k * out + begin, count, packed.data.data() + panel.weights + k * lanes);
    }
  }
  return packed;
}

/// The weights of a depthwise convolution: `[vectors, height * width, width of a vector]`.
struct PackedDepthwise {
  /// `[vectors, height * width, width of a vector]`
  AlignedFloats weights;
  /// `[channels]`
  AlignedFloats bias;
};

/// Packs `weight` `[channels, 1, height, width]` and `bias` `[channels]`.
inline PackedDepthwise pack_depthwise(const torch::Tensor& weight, const torch::Tensor& bias,
                                      int64_t width) {
  const auto from = weight.to(torch::kCPU, torch::kFloat).contiguous();
  const auto biases = bias.to(torch::kCPU, torch::kFloat).contiguous();
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
  std::copy_n(biases.const_data_ptr<float>(), channels, packed.bias.data());
  return packed;
}

/// One number a channel, padded to whole vectors with zeros.
inline AlignedFloats pack_channels(const torch::Tensor& values, int64_t width) {
  const auto from = values.to(torch::kCPU, torch::kFloat).contiguous();
  AlignedFloats packed(static_cast<std::size_t>((from.numel() + width - 1) / width * width));
  std::copy_n(from.const_data_ptr<float>(), from.numel(), packed.data());
  return packed;
}

}  // namespace bsconv::kernels
