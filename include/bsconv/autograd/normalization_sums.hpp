// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/images.hpp>
#include <bsconv/autograd/statistics.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace bsconv::detail {

/// Adds up what a batch normalization needs to know of the gradient behind it and its activation,
/// some pixels at a time: the sums of `g`, the gradient where the activation lets it pass, and of
/// `g (x - mean)`.
class NormalizationSums {
 public:
  /// For the gradient of `activation(norm(input))`, `input` as `whole_vectors_of` images with
  /// `group` pixels as one.
  NormalizationSums(const PixelTensor& input, int64_t group, const Normalization& norm,
                    kernels::Activation activation, const kernels::TrainingKernelTable& kernels)
      : input_(input),
        slope_input_(input.data),
        kernels_(kernels),
        activation_(activation),
        mean_(kernels::pack_channels(norm.mean, kernels.forward->width, group)),
        scale_(kernels::pack_channels(norm.scale, kernels.forward->width, group)),
        shift_(kernels::pack_channels(norm.shift(), kernels.forward->width, group)) {}

  /// The same for `activation(norm(input) + residual)`, whose value is `output`. `g` is written to
  /// `passed`, unless that is null.
  void with_residual(const float* output, float* passed) {
    slope_input_ = output;
    passed_ = passed;
    scale_ = kernels::AlignedFloats();
    shift_ = kernels::AlignedFloats();
  }

  /// How many sums there are: one of `g` and one of `g (x - mean)` for each channel.
  int64_t size() const { return 2 * input_.channels; }

  /// Adds those of `pixels` pixels from the `first` of all images on, whose gradient is given, to
  /// `totals`.
  void add(const float* gradient, int64_t first, int64_t pixels, double* totals) const {
    const int64_t channels = input_.channels;
    float* sums = scratch(5, size());
    std::fill_n(sums, size(), 0.0F);
    kernels::GradientSums g;
    g.slope = {activation_, scale_.data(), shift_.data()};
    g.mean = mean_.data();
    g.sums = sums;
    g.products = sums + channels;
    g.vectors = channels / kernels_.forward->width;
    // Few enough pixels that all their channels stay in the first-level cache.
    const int64_t block = std::max<int64_t>(16, 4096 / channels);
    for (int64_t pixel = 0; pixel < pixels; pixel += block) {
      const int64_t at = (first + pixel) * channels;
      g.gradient = gradient + pixel * channels;
      g.input = input_.data + at;
      g.slope_input = slope_input_ + at;
      g.passed = passed_ != nullptr ? passed_ + at : nullptr;
      g.pixels = std::min(block, pixels - pixel);
      kernels_.gradient_sums(g);
    }
    for (int64_t i = 0; i < size(); ++i) {
      totals[i] += static_cast<double>(sums[i]);
    }
  }

 private:
  PixelTensor input_;
  const float* slope_input_;
  float* passed_ = nullptr;
  const kernels::TrainingKernelTable& kernels_;
  kernels::Activation activation_;
  kernels::AlignedFloats mean_;
  kernels::AlignedFloats scale_;
  kernels::AlignedFloats shift_;
};

}  // namespace bsconv::detail
