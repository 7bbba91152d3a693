// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/custom_class.h>
#include <torch/types.h>
#include <bsconv/autograd/block.hpp>
#include <bsconv/autograd/images.hpp>
#include <bsconv/autograd/small_matrix.hpp>
#include <bsconv/autograd/statistics.hpp>

#include <cstdint>
#include <vector>

namespace bsconv::detail {

/// What the forward pass of a block has found out about its batch, in double.
///
/// `u` stands for what the block's `pointwise` reads: the output of `first` before its batch
/// normalization, or the block's input. Since everything up to the depthwise convolution is linear,
/// the mean and the covariance of `u` tell the statistics of both inner batch normalizations.
struct BlockStatistics : torch::CustomClassHolder {
  /// What is taken from `u` before products of it are summed up, for each channel in its pixels;
  /// empty where its values lie near zero. Single precision would lose what differs between values
  /// that lie far from it.
  std::vector<float> shift;
  /// Mean of `u`, `[mid]`; empty without inner batch normalizations.
  PerChannel mean;
  /// Covariance of `u`, `[mid, mid]`.
  SmallMatrix covariance;
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

/// Whether a channel of `count` pixels with these sums, and products of channels, lies so far from
/// zero that its variance is lost in the sum of its squares.
inline bool is_far_from_zero(const PerChannel& sums, const SmallMatrix& products, int64_t count) {
  // How much larger the square of the mean may be: single precision leaves a share of 1e-4 then.
  constexpr double most = 256;
  const auto n = static_cast<double>(count);
  for (int64_t i = 0; i < products.rows(); ++i) {
    const double mean = sums[i] / n;
    const double square = mean * mean;
    if (square > most * (products.at(i, i) / n - square)) {
      return true;
    }
  }
  return false;
}

/// `pixels` pixels, each less `shift`, in memory of this thread.
inline const float* shifted(const float* from, int64_t pixels, const std::vector<float>& shift) {
  const auto channels = static_cast<int64_t>(shift.size());
  float* const to = scratch(6, pixels * channels);
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    for (int64_t c = 0; c < channels; ++c) {
      to[pixel * channels + c] = from[pixel * channels + c] - shift[c];
    }
  }
  return to;
}

/// Fills in all but `outer` and `shift` from `sums`, at least `mid`, and `products`,
/// `[mid, at least mid]`, of `count` pixels of `u` less `shift`, for a block with inner batch
/// normalizations. Brings the running statistics up to date.
inline void solve_inner_statistics(const TrainingBlock& block, const PerChannel& sums,
                                   const SmallMatrix& products, int64_t count, BlockStatistics& s) {
  const SmallMatrix weight(block.pointwise);
  const int64_t out = weight.rows();
  const int64_t mid = weight.columns();
  const auto n = static_cast<double>(count);
  s.mean.assign(sums.begin(), sums.begin() + mid);
  s.covariance = SmallMatrix(mid, mid);
  PerChannel variance(s.mean);
  for (int64_t i = 0; i < mid; ++i) {
    s.mean[i] /= n;
    for (int64_t j = 0; j <= i; ++j) {
      const double both = products.at(i, j) / n - s.mean[i] * s.mean[j];
      s.covariance.at(i, j) = s.covariance.at(j, i) = both;
    }
    variance[i] = s.covariance.at(i, i);
  }
  for (int64_t i = 0; i < mid && !s.shift.empty(); ++i) {
    s.mean[i] += static_cast<double>(s.shift[i]);
  }
  // What the pointwise convolution reads has this mean, and deviates from it by `scaled` times
  // what `u` deviates from its own.
  auto read_mean = s.mean;
  auto scaled = weight;
  if (block.first_norm) {
    s.first = normalize(*block.first_norm, s.mean, variance, count);
    read_mean = s.first.bias;
    scaled.scale_columns(s.first.scale);
  }
  s.pointwise = normalize(*block.pointwise_norm, weight.times(read_mean),
                          row_products(scaled.times(s.covariance), scaled), count);
  scaled.scale_rows(s.pointwise.scale);
  s.weight = scaled.floats();
  auto bias = scaled.times(s.mean);
  for (int64_t i = 0; i < out; ++i) {
    bias[i] = s.pointwise.bias[i] - bias[i];
  }
  s.bias = float_tensor(bias);
}

/// Gradients of everything in front of the depthwise convolution, float; undefined where there is
/// none.
struct InnerGradients {
  /// `[out, mid]`
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

/// Solves for the gradients of a block with inner batch normalizations, given `products`
/// `[mid, out]`, the sum over `count` pixels of `u` less `shift` times the gradient `g` of the
/// depthwise convolution's input, and `sums` `[out]`, the sum of `g`.
///
/// With `v = W a (u - mean) + …` the input of the batch normalization behind `pointwise`, `a` the
/// scale of the one behind `first` (or 1), and both batch normalizations' own gradients inserted:
/// sums over pixels occur only in these two and in the covariance of `u`.
inline InnerGradients solve_inner_gradients(const TrainingBlock& block, const BlockStatistics& s,
                                            const SmallMatrix& products, const PerChannel& sums,
                                            int64_t count) {
  InnerGradients result;
  const auto n = static_cast<double>(count);
  const SmallMatrix weight(block.pointwise);
  const int64_t out = weight.rows();
  const int64_t mid = weight.columns();
  auto scaled = weight;
  if (block.first_norm) {
    scaled.scale_columns(s.first.scale);
  }
  // The sum over pixels of g times u - mean, then of the gradient of v times u - mean.
  SmallMatrix inner(out, mid);
  for (int64_t m = 0; m < mid; ++m) {
    const double mean = s.mean[m] - (s.shift.empty() ? 0.0 : static_cast<double>(s.shift[m]));
    for (int64_t o = 0; o < out; ++o) {
      inner.at(o, m) = products.at(m, o) - sums[o] * mean;
    }
  }
  auto pointwise_weight = row_products(scaled, inner);
  auto ratio = pointwise_weight;
  const auto correction = scaled.times(s.covariance);
  for (int64_t o = 0; o < out; ++o) {
    const double deviation = s.pointwise.deviation[o];
    pointwise_weight[o] /= deviation;
    ratio[o] /= deviation * deviation;
    for (int64_t m = 0; m < mid; ++m) {
      inner.at(o, m) = s.pointwise.scale[o] * (inner.at(o, m) - ratio[o] * correction.at(o, m));
    }
  }
  result.pointwise_bias = float_tensor(sums);
  result.pointwise_weight = float_tensor(pointwise_weight);
  // The transpose of the weight behind `u`, up to the scale of `first`.
  SmallMatrix back(mid, out);
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t m = 0; m < mid; ++m) {
      back.at(m, o) = weight.at(o, m) * s.pointwise.scale[o];
      scaled.at(o, m) *= -ratio[o] / n;
    }
  }
  auto by_middle = back.times(scaled);
  auto constant = back.times(sums);
  for (double& value : constant) {
    value /= -n;
  }
  if (block.first_norm) {
    PerChannel first_weight(s.mean.size());
    for (int64_t m = 0; m < mid; ++m) {
      for (int64_t o = 0; o < out; ++o) {
        first_weight[m] += weight.at(o, m) * inner.at(o, m);
      }
      first_weight[m] /= s.first.deviation[m];
    }
    inner.scale_columns(s.first.scale);
    by_middle.scale_rows(s.first.scale);
    for (int64_t m = 0; m < mid; ++m) {
      by_middle.at(m, m) -= s.first.scale[m] * first_weight[m] / (n * s.first.deviation[m]);
      constant[m] *= s.first.scale[m];
    }
    result.first_weight = float_tensor(first_weight);
    // The batch normalization behind `pointwise` takes away whatever this one adds.
    result.first_bias = float_tensor(PerChannel(s.mean.size()));
  }
  result.pointwise = inner.floats();
  result.by_middle = by_middle.floats();
  const auto of_mean = by_middle.times(s.mean);
  for (int64_t m = 0; m < mid; ++m) {
    constant[m] -= of_mean[m];
  }
  result.constant = float_tensor(constant);
  return result;
}

}  // namespace bsconv::detail
