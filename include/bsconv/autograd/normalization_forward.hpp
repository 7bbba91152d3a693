// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/images.hpp>
#include <bsconv/autograd/statistics.hpp>

#include <cstdint>

namespace bsconv::detail {

/// What a batch normalization and an activation make of images, some pixels at a time.
class NormalizationForward {
 public:
  /// For `norm` and `activation`. Vectors divide the channels, with `group` pixels as one.
  NormalizationForward(const Normalization& norm, kernels::Activation activation,
                       const kernels::KernelTable& kernels, int64_t group = 1)
      : kernels_(&kernels),
        activation_(activation),
        scale_(kernels::pack_channels(norm.scale, kernels.width, group)),
        shift_(kernels::pack_channels(norm.shift(), kernels.width, group)) {}

  /// `to = activation(norm(from) + residual)` for `pixels` adjacent pixels; `residual` may be null.
  void run(const float* from, const float* residual, float* to, int64_t pixels) const {
    const auto channels = static_cast<int64_t>(scale_.size());
    kernels::Pointwise p;
    p.input = {from, 0, channels};
    p.scale = scale_.data();
    p.shift = shift_.data();
    p.output = {to, 0, channels};
    p.rows = 1;
    p.pixels = pixels;
    p.vectors = channels / kernels_->width;
    p.epilogue.after = activation_;
    p.epilogue.residual = {residual, 0, channels};
    kernels_->pointwise(p);
  }

 private:
  const kernels::KernelTable* kernels_;
  kernels::Activation activation_;
  kernels::AlignedFloats scale_;
  kernels::AlignedFloats shift_;
};

/// What `norm` does to `images` `[N, C, H, W]`, channels_last, in a training step: brings the
/// running statistics up to date. Vectors go by `whole_vectors_of` them.
inline Normalization normalization_in_step(const torch::Tensor& images,
                                           const TrainingBatchNorm& norm,
                                           const kernels::TrainingKernelTable& kernels) {
  const auto x = whole_vectors_of(images, kernels.forward->width);
  const ImageParts parts(x.images);
  PartSums<double> sums(parts, 2 * x.channels);
  parts.run([&](int64_t part, int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      add_moments(kernels, x.at(image), x.pixels(), x.channels, sums.of(part));
    }
  });
  return normalize(norm, fold_groups(sums.total(), x.channels / images.size(1)),
                   images.numel() / images.size(1));
}

/// `activation(norm(input) + residual)`, `[N, C, H, W]`, channels_last; `residual` may be
/// undefined.
inline torch::Tensor normalized_images(const torch::Tensor& input, const Normalization& norm,
                                       kernels::Activation activation,
                                       const torch::Tensor& residual,
                                       const kernels::KernelTable& kernels) {
  auto result = empty_images(input, input.size(1), input.size(2), input.size(3));
  const auto from = whole_vectors_of(input, kernels.width);
  const auto to = whole_vectors_of(result, kernels.width);
  const NormalizationForward forward(norm, activation, kernels, from.channels / input.size(1));
  const float* added = residual.defined() ? residual.const_data_ptr<float>() : nullptr;
  const int64_t size = from.pixels() * from.channels;
  ImageParts(from.images).run([&](int64_t, int64_t begin, int64_t end) {
    forward.run(from.at(begin), added == nullptr ? nullptr : added + begin * size, to.at(begin),
                (end - begin) * from.pixels());
  });
  return result;
}

}  // namespace bsconv::detail
