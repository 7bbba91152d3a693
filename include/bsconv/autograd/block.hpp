// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/kernels/arguments.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

/// \file
/// What a fused training operator computes, in tensors: no module is known here.

namespace bsconv::detail {

/// A batch normalization in training mode. Undefined tensors are parts that it hasn't.
struct TrainingBatchNorm {
  torch::Tensor weight;
  torch::Tensor bias;
  torch::Tensor running_mean;
  torch::Tensor running_var;
  torch::Tensor num_batches_tracked;
  double eps = 1e-5;
  /// How much of the running statistics a step replaces; none: the mean over all steps.
  std::optional<double> momentum = 0.1;
};

/// Geometry of a depthwise convolution.
struct DepthwiseGeometry {
  std::array<int64_t, 2> kernel{};
  std::array<int64_t, 2> stride{};
  std::array<int64_t, 2> padding{};
  std::array<int64_t, 2> dilation{};

  /// Pixels from the first tap of the kernel to the last along `axis` (0: height).
  int64_t reach(int axis) const {
    const auto i = static_cast<std::size_t>(axis);
    return dilation[i] * (kernel[i] - 1);
  }

  /// The size of the output along `axis` (0: height) for an input of `size`; 0 if that is smaller
  /// than the kernel.
  int64_t output_size(int axis, int64_t size) const {
    const auto i = static_cast<std::size_t>(axis);
    const int64_t steps = size + 2 * padding[i] - reach(axis) - 1;
    return steps < 0 ? 0 : steps / stride[i] + 1;
  }
};

/// A BSConv-U or BSConv-S layer in training mode, with what surrounds it:
/// `[bn0 -> activation0] -> [pw1 -> [bn1]] -> pw -> [bn2] -> dw -> [bn] -> activation(+ residual)`.
struct TrainingBlock {
  /// The batch normalization in front of the layer.
  std::optional<TrainingBatchNorm> input_norm;
  /// What follows `input_norm`: `identity`, `relu` or `relu6`.
  kernels::Activation input_activation = kernels::Activation::identity;
  /// Weight of the first pointwise convolution of a BSConv-S, `[mid, in, 1, 1]`; else undefined.
  torch::Tensor first;
  /// The batch normalization behind `first`.
  std::optional<TrainingBatchNorm> first_norm;
  /// Weight of the pointwise convolution in front of the depthwise one, `[out, mid, 1, 1]`.
  torch::Tensor pointwise;
  /// The batch normalization behind `pointwise`.
  std::optional<TrainingBatchNorm> pointwise_norm;
  /// Weight of the depthwise convolution, `[out, 1, height, width]`.
  torch::Tensor depthwise;
  /// Its bias, or undefined.
  torch::Tensor bias;
  /// Its geometry.
  DepthwiseGeometry geometry;
  /// The batch normalization behind the layer.
  std::optional<TrainingBatchNorm> norm;
  /// What follows `norm`: `identity`, `relu` or `relu6`; `identity` without it.
  kernels::Activation activation = kernels::Activation::identity;
};

/// `tensor` as an argument that may be missing, which is how autograd takes undefined tensors.
inline std::optional<torch::Tensor> if_defined(const torch::Tensor& tensor) {
  return tensor.defined() ? std::optional<torch::Tensor>(tensor) : std::nullopt;
}

}  // namespace bsconv::detail
