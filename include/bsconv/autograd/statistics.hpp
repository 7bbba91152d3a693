// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/block.hpp>

#include <cstdint>

namespace bsconv::detail {

/// What a batch normalization does to a batch, `[channels]` each, double:
/// `(x - mean) * scale + bias`, with `scale = weight / deviation`.
struct Normalization {
  torch::Tensor mean;
  torch::Tensor deviation;
  torch::Tensor scale;
  torch::Tensor bias;

  /// `x * scale + shift()` is the same.
  torch::Tensor shift() const { return bias - mean * scale; }
};

/// The normalization of values with this mean and (biased) variance, `[channels]`, double.
inline Normalization normalization_of(const TrainingBatchNorm& norm, const torch::Tensor& mean,
                                      const torch::Tensor& variance) {
  Normalization result;
  result.mean = mean;
  result.deviation = (variance.clamp_min(0) + norm.eps).sqrt();
  result.scale = norm.weight.defined() ? norm.weight.detach().to(torch::kDouble) / result.deviation
                                       : result.deviation.reciprocal();
  result.bias =
      norm.bias.defined() ? norm.bias.detach().to(torch::kDouble) : torch::zeros_like(mean);
  return result;
}

/// Brings the running statistics of `norm` up to date as LibTorch does, `count` values a channel.
inline void update_running_statistics(const TrainingBatchNorm& norm, const torch::Tensor& mean,
                                      const torch::Tensor& variance, int64_t count) {
  const torch::NoGradGuard no_grad;
  double momentum = norm.momentum.value_or(0.0);
  if (norm.num_batches_tracked.defined()) {
    norm.num_batches_tracked.add_(1);
    if (!norm.momentum) {
      momentum = 1.0 / norm.num_batches_tracked.item<double>();
    }
  }
  if (norm.running_mean.defined()) {
    norm.running_mean.mul_(1.0 - momentum).add_(mean, momentum);
  }
  if (norm.running_var.defined()) {
    const auto n = static_cast<double>(count);
    norm.running_var.mul_(1.0 - momentum).add_(variance.clamp_min(0), momentum * n / (n - 1.0));
  }
}

/// The normalization of `count` values a channel with these means of values and of their squares,
/// `[2, channels]`, double. Brings the running statistics up to date.
inline Normalization normalize_by_moments(const TrainingBatchNorm& norm,
                                          const torch::Tensor& moments, int64_t count) {
  const auto mean = moments[0];
  const auto variance = moments[1] - mean.square();
  update_running_statistics(norm, mean, variance, count);
  return normalization_of(norm, mean, variance);
}

}  // namespace bsconv::detail
