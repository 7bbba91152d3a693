// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/images.hpp>
#include <bsconv/autograd/normalization_sums.hpp>
#include <bsconv/autograd/statistics.hpp>

#include <cstddef>
#include <cstdint>

namespace bsconv::detail {

/// How a gradient passes a batch normalization and an activation, once its sums are known: what it
/// becomes.
///
/// `g`, the gradient where the activation lets it pass, becomes
/// `scale (g - mean(g) - xhat mean(g xhat))`, `xhat = (x - mean) / deviation`.
class NormalizationBackward {
 public:
  /// For `gradient`, the gradient of `activation(norm(input) + residual)`, which is summed up here.
  /// All are `[N, C, H, W]`, float, channels_last. `output` is that function's value; it is used if
  /// there was a residual. `rows` goes by `whole_vectors_of` them.
  NormalizationBackward(const torch::Tensor& gradient, const torch::Tensor& input,
                        const torch::Tensor& output, bool with_residual, const Normalization& norm,
                        kernels::Activation activation, const kernels::TrainingKernelTable& kernels)
      : NormalizationBackward(gradient, input, activation, kernels) {
    NormalizationSums step(input_, group_, norm, activation, kernels);
    if (with_residual) {
      // The residual's gradient is `g`, which takes the gradient's place from here on.
      const bool passes = activation == kernels::Activation::identity;
      residual_gradient =
          passes ? gradient : empty_images(input, input.size(1), input.size(2), input.size(3));
      gradient_tensor_ = residual_gradient;
      gradient_ = whole_vectors_of(gradient_tensor_, kernels.forward->width);
      activation_ = kernels::Activation::identity;
      step.with_residual(passes ? input_.data : output.const_data_ptr<float>(),
                         passes ? nullptr : gradient_.data);
    }
    const auto from = whole_vectors_of(gradient, kernels.forward->width);
    const ImageParts parts(from.images);
    PartSums<double> totals(parts, step.size());
    parts.run([&](int64_t part, int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) {
        step.add(from.at(image), image * from.pixels(), from.pixels(), totals.of(part));
      }
    });
    solve(norm, totals.total());
  }

  /// The same without a residual, with the `sums` that a `NormalizationSums` has found.
  NormalizationBackward(const torch::Tensor& gradient, const torch::Tensor& input,
                        const PerChannel& sums, const Normalization& norm,
                        kernels::Activation activation, const kernels::TrainingKernelTable& kernels)
      : NormalizationBackward(gradient, input, activation, kernels) {
    solve(norm, sums);
  }

  /// What the gradient becomes, for `rows` rows of `image` from `first` on; the caller sets where
  /// it goes.
  kernels::NormalizationGradient rows(int64_t image, int64_t first, int64_t rows) const {
    kernels::NormalizationGradient n;
    const int64_t row = gradient_.width * gradient_.channels;
    n.gradient = {gradient_.at(image, first), row, gradient_.channels};
    n.input = {input_.at(image, first), row, input_.channels};
    n.slope_input = n.input;
    n.slope = {activation_, scale_.data(), shift_.data()};
    n.by_gradient = scale_.data();
    n.by_input = by_input_.data();
    n.constant = constant_.data();
    n.rows = rows;
    n.pixels = gradient_.width;
    return n;
  }

  /// Writes what the gradient becomes, plus `added`, which may be undefined, to `result`, which may
  /// be the gradient. Both are `[N, C, H, W]`, channels_last.
  void write(const torch::Tensor& added, const torch::Tensor& result) const {
    const auto to = whole_vectors_of(result, width_);
    const int64_t row = to.width * to.channels;
    const auto more = added.defined() ? whole_vectors_of(added, width_) : PixelTensor();
    ImageParts(to.images).run([&](int64_t, int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) {
        auto n = rows(image, 0, to.height);
        if (added.defined()) {
          n.added = {more.at(image), row, more.channels};
        }
        n.output = {to.at(image), row, to.channels};
        n.output_vector = width_;
        n.vectors = to.channels / width_;
        kernels_.normalization_gradient(n);
      }
    });
  }

  /// The gradient of the residual; undefined without one.
  torch::Tensor residual_gradient;
  /// The gradient of the batch normalization's weight.
  PerChannel weight;
  /// The gradient of its bias.
  PerChannel bias;

 private:
  NormalizationBackward(const torch::Tensor& gradient, const torch::Tensor& input,
                        kernels::Activation activation, const kernels::TrainingKernelTable& kernels)
      : gradient_tensor_(gradient),
        input_(whole_vectors_of(input, kernels.forward->width)),
        gradient_(whole_vectors_of(gradient, kernels.forward->width)),
        group_(input_.channels / input.size(1)),
        width_(kernels.forward->width),
        activation_(activation),
        kernels_(kernels) {}

  void solve(const Normalization& norm, const PerChannel& sums) {
    const auto both = fold_groups(sums, group_);
    const auto count = static_cast<double>(input_.images * input_.pixels() * group_);
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
    const auto pack = [&](const PerChannel& values) {
      return kernels::pack_channels(values, width_, group_);
    };
    scale_ = pack(norm.scale);
    shift_ = pack(norm.shift());
    by_input_ = pack(by_input);
    constant_ = pack(constant);
  }

  torch::Tensor gradient_tensor_;  // Keeps the memory alive that `gradient_` refers to.
  PixelTensor input_;
  PixelTensor gradient_;
  int64_t group_;
  int64_t width_;
  kernels::Activation activation_;
  const kernels::TrainingKernelTable& kernels_;
  kernels::AlignedFloats scale_;
  kernels::AlignedFloats shift_;
  kernels::AlignedFloats by_input_;
  kernels::AlignedFloats constant_;
};

}  // namespace bsconv::detail
