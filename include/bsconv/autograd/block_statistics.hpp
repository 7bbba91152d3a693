// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/custom_class.h>
#include <torch/types.h>
#include <bsconv/autograd/block.hpp>
#include <bsconv/autograd/statistics.hpp>

#include <cstdint>

namespace bsconv::detail {

/// What the forward pass of a block has found out about its batch, in double.
///
/// `u` stands for what the block's `pointwise` reads: the output of `first` before its batch
/// normalization, or the block's input. Since everything up to the depthwise convolution is linear,
/// the mean and the covariance of `u` tell the statistics of both inner batch normalizations.
struct BlockStatistics : torch::CustomClassHolder {
  /// Mean of `u`, `[mid]`; undefined without inner batch normalizations.
  torch::Tensor mean;
  /// Covariance of `u`, `[mid, mid]`.
  torch::Tensor covariance;
  /// The batch normalization behind `first`.
  Normalization first;
  /// The batch normalization behind `pointwise`.
  Normalization pointwise;
  /// The batch normalization behind the depthwise convolution.
  Normalization outer;
  /// `[out, mid]`: what `pointwise` and the inner batch normalizations are together, applied to
  /// `u`.
  torch::Tensor weight;
  /// `[out]`: its bias; undefined without inner batch normalizations.
  torch::Tensor bias;
};

/// Fills in all but `outer` from the moments of `count` pixels of `u`; none for a block without
/// inner batch normalizations. Brings the running statistics up to date.
inline void solve_inner_statistics(const TrainingBlock& block, const torch::Tensor& sums,
                                   const torch::Tensor& products, int64_t count,
                                   BlockStatistics& s) {
  const auto weight = block.pointwise.detach().to(torch::kDouble).flatten(1);
  if (!block.pointwise_norm) {
    s.weight = weight;
    return;
  }
  const auto n = static_cast<double>(count);
  s.mean = sums / n;
  s.covariance = products / n - torch::outer(s.mean, s.mean);
  // What the pointwise convolution reads has this mean, and deviates from it by `scaled` times
  // what `u` deviates from its own.
  auto read_mean = s.mean;
  auto scaled = weight;
  if (block.first_norm) {
    const auto variance = s.covariance.diagonal();
    s.first = normalization_of(*block.first_norm, s.mean, variance);
    update_running_statistics(*block.first_norm, s.mean, variance, count);
    read_mean = s.first.bias;
    scaled = weight * s.first.scale;
  }
  const auto mean = weight.mv(read_mean);
  const auto variance = (scaled.matmul(s.covariance) * scaled).sum(1);
  s.pointwise = normalization_of(*block.pointwise_norm, mean, variance);
  update_running_statistics(*block.pointwise_norm, mean, variance, count);
  s.weight = s.pointwise.scale.unsqueeze(1) * scaled;
  s.bias = s.pointwise.bias - s.weight.mv(s.mean);
}

/// Gradients of everything in front of the depthwise convolution; undefined where there is none.
struct InnerGradients {
  torch::Tensor pointwise;
  torch::Tensor pointwise_weight;
  torch::Tensor pointwise_bias;
  torch::Tensor first_weight;
  torch::Tensor first_bias;
  /// The gradient of `u` is `weight^T g + by_middle u + constant`, with `g` the gradient of the
  /// depthwise convolution's input. Undefined without inner batch normalizations.
  torch::Tensor by_middle;
  torch::Tensor constant;
};

/// Solves for the gradients, given `products` `[mid, out]`, the sum over `count` pixels of `u`
/// times the gradient `g` of the depthwise convolution's input, and `sums` `[out]`, the sum of `g`.
///
/// With `v = W a (u - mean) + …` the input of the batch normalization behind `pointwise`, `a` the
/// scale of the one behind `first` (or 1), and both batch normalizations' own gradients inserted:
/// sums over pixels occur only in these two and in the covariance of `u`.
inline InnerGradients solve_inner_gradients(const TrainingBlock& block, const BlockStatistics& s,
                                            const torch::Tensor& products,
                                            const torch::Tensor& sums, int64_t count) {
  InnerGradients result;
  if (!block.pointwise_norm) {
    result.pointwise = products.t();
    return result;
  }
  const auto n = static_cast<double>(count);
  const auto weight = block.pointwise.detach().to(torch::kDouble).flatten(1);
  const auto scaled = block.first_norm ? weight * s.first.scale : weight;
  const auto& deviation = s.pointwise.deviation;
  // The sum over pixels of g times u - mean, [out, mid].
  const auto centered = products.t() - torch::outer(sums, s.mean);
  result.pointwise_bias = sums;
  result.pointwise_weight = (scaled * centered).sum(1) / deviation;
  // The sum over pixels of the gradient of v times u - mean, [out, mid].
  const auto ratio = result.pointwise_weight / deviation;
  const auto inner = s.pointwise.scale.unsqueeze(1) *
                     (centered - ratio.unsqueeze(1) * scaled.matmul(s.covariance));
  const auto spread = weight * s.pointwise.scale.unsqueeze(1);
  auto by_middle = -spread.t().matmul(scaled * (ratio / n).unsqueeze(1));
  auto constant = -spread.t().mv(sums / n);
  result.pointwise = inner;
  if (block.first_norm) {
    result.pointwise = inner * s.first.scale;
    const auto products_first = (weight * inner).sum(0);
    result.first_weight = products_first / s.first.deviation;
    // The batch normalization behind `pointwise` takes away whatever this one adds.
    result.first_bias = torch::zeros_like(result.first_weight);
    by_middle = by_middle * s.first.scale.unsqueeze(1) -
                torch::diag(s.first.scale * result.first_weight / (n * s.first.deviation));
    constant = constant * s.first.scale;
  }
  result.by_middle = by_middle;
  result.constant = constant - by_middle.mv(s.mean);
  return result;
}

}  // namespace bsconv::detail
