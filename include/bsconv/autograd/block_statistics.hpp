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
  /// `[out, mid]`, or more axes of one element, float: what `pointwise` and the inner batch
  /// normalizations are together, applied to `u`.
  torch::Tensor weight;
  /// `[out]`, float: its bias; undefined without inner batch normalizations.
  torch::Tensor bias;
};

/// Fills in all but `outer` from `sums` `[mid]` and `products` `[mid, mid]`, double, of `count`
/// pixels of `u`, for a block with inner batch normalizations. Brings the running statistics up to
/// date.
inline void solve_inner_statistics(const TrainingBlock& block, const torch::Tensor& sums,
                                   const torch::Tensor& products, int64_t count,
                                   BlockStatistics& s) {
  const auto weight = block.pointwise.detach().to(torch::kDouble).flatten(1);
  const auto n = static_cast<double>(count);
  s.mean = sums / n;
  s.covariance = products / n - torch::outer(s.mean, s.mean);
  // What the pointwise convolution reads has this mean, and deviates from it by `scaled` times
  // what `u` deviates from its own.
  auto read_mean = s.mean;
  auto scaled = weight;
  if (block.first_norm) {
    s.first = normalize(*block.first_norm, per_channel(s.mean),
                        per_channel(s.covariance.diagonal()), count);
    read_mean = as_tensor(s.first.bias);
    scaled = weight * as_tensor(s.first.scale);
  }
  s.pointwise = normalize(*block.pointwise_norm, per_channel(weight.mv(read_mean)),
                          per_channel((scaled.matmul(s.covariance) * scaled).sum(1)), count);
  const auto whole = as_tensor(s.pointwise.scale).unsqueeze(1) * scaled;
  s.weight = whole.to(torch::kFloat);
  s.bias = (as_tensor(s.pointwise.bias) - whole.mv(s.mean)).to(torch::kFloat);
}

/// Gradients of everything in front of the depthwise convolution; undefined where there is none.
struct InnerGradients {
  /// `[out, mid]`
  torch::Tensor pointwise;
  torch::Tensor pointwise_weight;
  torch::Tensor pointwise_bias;
  torch::Tensor first_weight;
  torch::Tensor first_bias;
  /// The gradient of `u` is `weight^T g + by_middle u + constant`, with `g` the gradient of the
  /// depthwise convolution's input; float. Undefined without inner batch normalizations.
  torch::Tensor by_middle;
  torch::Tensor constant;
};

/// Solves for the gradients of a block with inner batch normalizations, given `products`
/// `[mid, out]`, the sum over `count` pixels of `u` times the gradient `g` of the depthwise
/// convolution's input, and `sums` `[out]`, the sum of `g`; both double.
///
/// With `v = W a (u - mean) + …` the input of the batch normalization behind `pointwise`, `a` the
/// scale of the one behind `first` (or 1), and both batch normalizations' own gradients inserted:
/// sums over pixels occur only in these two and in the covariance of `u`.
inline InnerGradients solve_inner_gradients(const TrainingBlock& block, const BlockStatistics& s,
                                            const torch::Tensor& products,
                                            const torch::Tensor& sums, int64_t count) {
  InnerGradients result;
  const auto n = static_cast<double>(count);
  const auto weight = block.pointwise.detach().to(torch::kDouble).flatten(1);
  const auto first_scale = as_tensor(s.first.scale);
  const auto scaled = block.first_norm ? weight * first_scale : weight;
  const auto scale = as_tensor(s.pointwise.scale).unsqueeze(1);
  const auto deviation = as_tensor(s.pointwise.deviation);
  // The sum over pixels of g times u - mean, [out, mid].
  const auto centered = products.t() - torch::outer(sums, s.mean);
  result.pointwise_bias = sums.to(torch::kFloat);
  result.pointwise_weight = (scaled * centered).sum(1) / deviation;
  // The sum over pixels of the gradient of v times u - mean, [out, mid].
  const auto ratio = result.pointwise_weight / deviation;
  const auto inner = scale * (centered - ratio.unsqueeze(1) * scaled.matmul(s.covariance));
  const auto spread = weight * scale;
  auto by_middle = -spread.t().matmul(scaled * (ratio / n).unsqueeze(1));
  auto constant = -spread.t().mv(sums / n);
  result.pointwise = inner;
  if (block.first_norm) {
    result.pointwise = inner * first_scale;
    const auto first_deviation = as_tensor(s.first.deviation);
    const auto products_first = (weight * inner).sum(0);
    result.first_weight = products_first / first_deviation;
    // The batch normalization behind `pointwise` takes away whatever this one adds.
    result.first_bias = torch::zeros_like(result.first_weight);
    by_middle = by_middle * first_scale.unsqueeze(1) -
                torch::diag(first_scale * result.first_weight / (n * first_deviation));
    constant = constant * first_scale;
  }
  result.by_middle = by_middle.to(torch::kFloat);
  result.constant = (constant - by_middle.mv(s.mean)).to(torch::kFloat);
  return result;
}

}  // namespace bsconv::detail
