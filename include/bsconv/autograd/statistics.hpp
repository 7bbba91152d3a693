// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/block.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

/// \file
/// What batch normalizations know of a batch: a few numbers a channel, which plain loops handle
/// faster than LibTorch dispatches an operator.

namespace bsconv::detail {

/// A number for each channel.
using PerChannel = std::vector<double>;

/// The numbers of `tensor` `[channels]`.
inline PerChannel per_channel(const torch::Tensor& tensor) {
  const auto values = tensor.scalar_type() == torch::kDouble ? tensor : tensor.to(torch::kDouble);
  const auto* from = values.const_data_ptr<double>();
  PerChannel result(static_cast<std::size_t>(values.size(0)));
  for (double& value : result) {
    value = *from;
    from += values.stride(0);
  }
  return result;
}

/// The same, or `otherwise` for each of `channels` where `tensor` is undefined.
inline PerChannel per_channel(const torch::Tensor& tensor, std::size_t channels, double otherwise) {
  return tensor.defined() ? per_channel(tensor) : PerChannel(channels, otherwise);
}

/// `values` as a tensor `[channels]` that refers to them, double.
inline torch::Tensor as_tensor(const PerChannel& values) {
  return torch::from_blob(const_cast<double*>(values.data()),  // nobody writes to it
                          {static_cast<int64_t>(values.size())}, torch::kDouble);
}

/// `values` as a tensor of floats of its own.
inline torch::Tensor float_tensor(const PerChannel& values) {
  auto result = torch::empty({static_cast<int64_t>(values.size())}, torch::kFloat);
  std::transform(values.begin(), values.end(), result.mutable_data_ptr<float>(),
                 [](double value) { return static_cast<float>(value); });
  return result;
}

/// What a batch normalization does to a batch: `(x - mean) * scale + bias`, with
/// `scale = weight / deviation`.
struct Normalization {
  PerChannel mean;
  PerChannel deviation;
  PerChannel scale;
  PerChannel bias;

  /// `x * scale + shift()` is the same.
  PerChannel shift() const {
    auto result = bias;
    for (std::size_t c = 0; c < result.size(); ++c) {
      result[c] -= mean[c] * scale[c];
    }
    return result;
  }
};

/// The normalization of values with this mean and (biased) variance.
inline Normalization normalization_of(const TrainingBatchNorm& norm, PerChannel mean,
                                      const PerChannel& variance) {
  Normalization result;
  const std::size_t channels = mean.size();
  result.mean = std::move(mean);
  result.deviation.resize(channels);
  result.scale = per_channel(norm.weight, channels, 1.0);
  result.bias = per_channel(norm.bias, channels, 0.0);
  for (std::size_t c = 0; c < channels; ++c) {
    result.deviation[c] = std::sqrt(std::max(variance[c], 0.0) + norm.eps);
    result.scale[c] /= result.deviation[c];
  }
  return result;
}

/// `running * (1 - momentum) + values * factor`, in place, for `running` `[channels]`.
inline void blend(const torch::Tensor& running, const PerChannel& values, double momentum,
                  double factor) {
  if (!running.is_cpu() || running.scalar_type() != torch::kFloat) {
    running.mul_(1.0 - momentum).add_(as_tensor(values).to(running.options()), factor);
    return;
  }
  auto* to = running.mutable_data_ptr<float>();
  for (const double value : values) {
    *to = static_cast<float>(static_cast<double>(*to) * (1.0 - momentum) + value * factor);
    to += running.stride(0);
  }
  // As LibTorch's operators do: whoever keeps the tensor sees that it has changed.
  running.unsafeGetTensorImpl()->bump_version();
}

/// Brings the running statistics of `norm` up to date as LibTorch does, `count` values a channel.
inline void update_running_statistics(const TrainingBatchNorm& norm, const PerChannel& mean,
                                      const PerChannel& variance, int64_t count) {
  const torch::NoGradGuard no_grad;
  double momentum = norm.momentum.value_or(0.0);
  if (norm.num_batches_tracked.defined()) {
    norm.num_batches_tracked.add_(1);
    if (!norm.momentum) {
      momentum = 1.0 / norm.num_batches_tracked.item<double>();
    }
  }
  if (norm.running_mean.defined()) {
    blend(norm.running_mean, mean, momentum, momentum);
  }
  if (norm.running_var.defined()) {
    const auto n = static_cast<double>(count);
    auto positive = variance;
    for (double& value : positive) {
      value = std::max(value, 0.0);
    }
    blend(norm.running_var, positive, momentum, momentum * n / (n - 1.0));
  }
}

/// The normalization of `count` values a channel with this mean and (biased) variance, in a
/// training step: brings the running statistics up to date.
inline Normalization normalize(const TrainingBatchNorm& norm, PerChannel mean,
                               const PerChannel& variance, int64_t count) {
  update_running_statistics(norm, mean, variance, count);
  return normalization_of(norm, std::move(mean), variance);
}

/// The same with the `sums` of values, then of their squares.
inline Normalization normalize(const TrainingBatchNorm& norm, const PerChannel& sums,
                               int64_t count) {
  const std::size_t channels = sums.size() / 2;
  const auto n = static_cast<double>(count);
  PerChannel mean(channels);
  PerChannel variance(channels);
  for (std::size_t c = 0; c < channels; ++c) {
    mean[c] = sums[c] / n;
    variance[c] = sums[channels + c] / n - mean[c] * mean[c];
  }
  return normalize(norm, std::move(mean), variance, count);
}

/// Adds up what `group` adjacent channels, one behind the other, know of one: `[2, group,
/// channels]` becomes `[2, channels]`.
inline PerChannel fold_groups(const PerChannel& values, int64_t group) {
  const std::size_t channels = values.size() / static_cast<std::size_t>(2 * group);
  const std::size_t half = values.size() / 2;
  PerChannel result(2 * channels);
  for (std::size_t i = 0; i < values.size(); ++i) {
    result[i / half * channels + i % channels] += values[i];
  }
  return result;
}

}  // namespace bsconv::detail
