// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/images.hpp>
#include <bsconv/autograd/statistics.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace bsconv::detail {

/// How a gradient passes a batch normalization and an activation: its sums, and what it becomes.
///
/// `g`, the gradient where the activation lets it pass, becomes
/// `scale (g - mean(g) - xhat mean(g xhat))`, `xhat = (x - mean) / deviation`.
class NormalizationBackward {
 public:
  /// For `gradient`, the gradient of `activation(norm(input) + residual)`. All are `[N, C, H, W]`,
  /// float, channels_last. `output` is that function's value; it is used if there was a residual.
  /// `rows` goes by `whole_vectors_of` them.
  NormalizationBackward(const torch::Tensor& gradient, const torch::Tensor& input,
                        const torch::Tensor& output, bool with_residual, const Normalization& norm,
                        kernels::Activation activation, const kernels::TrainingKernelTable& kernels)
      : gradient_tensor_(gradient), input_(whole_vectors_of(input, kernels.forward->width)) {
    const int64_t width = kernels.forward->width;
    const int64_t channels = input_.channels;
    const int64_t group = channels / input.size(1);
    const auto pack = [&](const PerChannel& values) {
      return kernels::pack_channels(values, width, group);
    };
    const auto from = whole_vectors_of(gradient, width);
    scale_ = pack(norm.scale);
    shift_ = pack(norm.shift());
    const auto mean = pack(norm.mean);
    PixelTensor passed;
    kernels::GradientSums g;
    g.slope.activation = activation;
    g.mean = mean.data();
    g.vectors = channels / width;
    if (with_residual) {
      residual_gradient = activation == kernels::Activation::identity
                              ? gradient
                              : empty_images(input, input.size(1), input.size(2), input.size(3));
      passed = whole_vectors_of(residual_gradient, width);
    } else {
      g.slope.scale = scale_.data();
      g.slope.shift = shift_.data();
    }
    const bool writes = with_residual && activation != kernels::Activation::identity;
    const float* slope_input =
        with_residual ? output.const_data_ptr<float>() : input.const_data_ptr<float>();
    const ImageParts parts(from.images);
    PartSums<double> totals(parts, 2 * channels);
    // Few enough pixels that all their channels stay in the first-level cache.
    const int64_t block = std::max<int64_t>(16, 4096 / channels);
    parts.run([&](int64_t part, int64_t begin, int64_t end) {
      float* sums = scratch(0, 2 * channels);
      double* to = totals.of(part);
      auto step = g;
      step.sums = sums;
      step.products = sums + channels;
      for (int64_t image = begin; image < end; ++image) {
        std::fill_n(sums, 2 * channels, 0.0F);
        for (int64_t pixel = 0; pixel < from.pixels(); pixel += block) {
          const int64_t at = (image * from.pixels() + pixel) * channels;
          step.gradient = from.data + at;
          step.input = input_.data + at;
          step.slope_input = slope_input + at;
          step.passed = writes ? passed.data + at : nullptr;
          step.pixels = std::min(block, from.pixels() - pixel);
          kernels.gradient_sums(step);
        }
        for (int64_t i = 0; i < 2 * channels; ++i) {
          to[i] += static_cast<double>(sums[i]);
        }
      }
    });
    const auto both = fold_groups(totals.total(), group);
    const auto count = static_cast<double>(from.images * from.pixels() * group);
    const std::size_t size = norm.mean.size();
    bias.assign(both.begin(), both.begin() + static_cast<std::ptrdiff_t>(size));
    weight.resize(size);
    PerChannel by_input(size);
    PerChannel constant(size);
    for (std::size_t c = 0; c < size; ++c) {
      weight[c] = both[size + c] / norm.deviation[c];
      by_input[c] = -norm.scale[c] * weight[c] / (norm.deviation[c] * count);
      constant[c] = -norm.scale[c] * bias[c] / count - by_input[c] * norm.mean[c];
    }
    by_input_ = pack(by_input);
    constant_ = pack(constant);
    gradient_ = with_residual ? passed : from;
    activation_ = with_residual ? kernels::Activation::identity : activation;
  }

  /// What the gradient becomes, for `rows` rows of `image` from `first` on; the caller sets where
  /// it goes.
  kernels::NormalizationGradient rows(int64_t image, int64_t first, int64_t rows) const {
    kernels::NormalizationGradient n;
    const int64_t row = gradient_.width * gradient_.channels;
    n.gradient = {gradient_.at(image, first), row, gradient_.channels};
    n.input = {input_.at(image, first), row, input_.channels};
    n.slope_input = n.input;
    n.slope.activation = activation_;
    n.slope.scale = scale_.data();
    n.slope.shift = shift_.data();
    n.by_gradient = scale_.data();
    n.by_input = by_input_.data();
    n.constant = constant_.data();
    n.rows = rows;
    n.pixels = gradient_.width;
    return n;
  }

  /// The gradient of the residual; undefined without one.
  torch::Tensor residual_gradient;
  /// The gradient of the batch normalization's weight.
  PerChannel weight;
  /// The gradient of its bias.
  PerChannel bias;

 private:
  torch::Tensor gradient_tensor_;  // Keeps the memory alive that `gradient_` refers to.
  PixelTensor input_;
  PixelTensor gradient_;
  kernels::Activation activation_;
  kernels::AlignedFloats scale_;
  kernels::AlignedFloats shift_;
  kernels::AlignedFloats by_input_;
  kernels::AlignedFloats constant_;
};

}  // namespace bsconv::detail
