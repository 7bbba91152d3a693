// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/kernels/arguments.hpp>

#include <cstdint>

/// \file
/// What the kernels for gradients take, beside those of arguments.hpp. All distances are in floats.
///
/// "Planes" are images of one vector of channels each, whose pixels lie together: what
/// `Depthwise` reads.

namespace bsconv::kernels {

/// `sums += left^T right`, summed over pixels: the gradient of a pointwise convolution's weight.
struct OuterProducts {
  /// `[pixels, rows]`
  const float* left = nullptr;
  /// From a pixel of `left` to the next.
  int64_t left_pixel = 0;
  /// Channels of `left`.
  int64_t rows = 0;
  /// `[pixels, vectors * width]`
  const float* right = nullptr;
  /// From a pixel of `right` to the next.
  int64_t right_pixel = 0;
  /// Vectors of channels of `right`.
  int64_t vectors = 0;
  /// `[rows, vectors * width]`, added to.
  float* sums = nullptr;
  /// The number of pixels.
  int64_t pixels = 0;
};

/// Per channel, `sums += x - shift` and `squares += (x - shift)^2`, summed over pixels.
struct Moments {
  /// `[pixels, vectors * width]`
  const float* input = nullptr;
  /// `[vectors * width]`: a number near the mean, which keeps the squares small; null for zeros.
  const float* shift = nullptr;
  /// `[vectors * width]`, added to.
  float* sums = nullptr;
  /// `[vectors * width]`, added to; may be null.
  float* squares = nullptr;
  /// The number of pixels.
  int64_t pixels = 0;
  /// Vectors of channels.
  int64_t vectors = 0;
};

/// How a gradient passes an activation: where `x * scale + shift` lies on its slope.
struct Slope {
  /// `identity`, `relu` or `relu6`.
  Activation activation = Activation::identity;
  /// `[vectors * width]`, or null for ones.
  const float* scale = nullptr;
  /// `[vectors * width]`, or null for zeros.
  const float* shift = nullptr;
};

/// What a batch normalization needs to know of a gradient: per channel, with `g` the gradient
/// where `slope` lets it pass, `sums += g` and `products += g * (x - mean)`.
struct GradientSums {
  /// The gradient, `[pixels, vectors * width]`.
  const float* gradient = nullptr;
  /// `x`, the input of the batch normalization, of the same shape.
  const float* input = nullptr;
  /// What the slope is a function of: `input`, or the output with a residual.
  const float* slope_input = nullptr;
  /// The activation.
  Slope slope;
  /// `[vectors * width]`
  const float* mean = nullptr;
  /// Takes `g`, of the gradient's shape; may be null.
  float* passed = nullptr;
  /// `[vectors * width]`, added to.
  float* sums = nullptr;
  /// `[vectors * width]`, added to.
  float* products = nullptr;
  /// The number of pixels.
  int64_t pixels = 0;
  /// Vectors of channels.
  int64_t vectors = 0;
};

/// The gradient behind a batch normalization: `g * by_gradient + x * by_input + constant + added`,
/// with `g` the gradient where `slope` lets it pass.
struct NormalizationGradient {
  /// The gradient.
  Image<const float> gradient;
  /// `x`; absent without a batch normalization.
  Image<const float> input;
  /// What the slope is a function of; absent for an identity.
  Image<const float> slope_input;
  /// The activation.
  Slope slope;
  /// `[vectors * width]`, or null for ones.
  const float* by_gradient = nullptr;
  /// `[vectors * width]`; used with `input`.
  const float* by_input = nullptr;
  /// `[vectors * width]`; used with `input`.
  const float* constant = nullptr;
  /// What is added; may be absent, and is without `input`.
  Image<const float> added;
  /// Where results go; may be the gradient.
  Image<float> output;
  /// From a vector of a pixel of the output to the next.
  int64_t output_vector = 0;
  /// Rows.
  int64_t rows = 0;
  /// Pixels in a row.
  int64_t pixels = 0;
  /// Vectors of channels.
  int64_t vectors = 0;
};

/// Both gradients of a depthwise convolution, for some rows.
///
/// Where `gathers()`, the rows are those of the input, and `input_gradient` is written; the planes
/// of the gradient have zeros around them. Otherwise the rows are those of the gradient, and
/// `input_gradient` is added to; it has planes like the input's.
struct DepthwiseGradient {
  /// Planes of the gradient. Where `gathers()`: what the last tap meets for the first pixel of the
  /// input; otherwise the first pixel.
  const float* gradient = nullptr;
  /// From a row of the gradient to the next.
  int64_t gradient_row = 0;
  /// From a plane of the gradient to the next.
  int64_t gradient_plane = 0;
  /// Planes of the input. Where `gathers()`: its first pixel; otherwise what the first tap meets
  /// for the first pixel of the gradient, padding included.
  const float* input = nullptr;
  /// From a row of the input to the next.
  int64_t input_row = 0;
  /// From a plane of the input to the next.
  int64_t input_plane = 0;
  /// The input's gradient.
  float* input_gradient = nullptr;
  /// From a row of the input's gradient to the next; used where `gathers()`.
  int64_t input_gradient_row = 0;
  /// From a pixel of the input's gradient to the next; used where `gathers()`.
  int64_t input_gradient_pixel = 0;
  /// From a vector of the input's gradient to the next; used where `gathers()`.
  int64_t input_gradient_vector = 0;
  /// `[vectors, kernel height * width, width of a vector]`
  const float* weights = nullptr;
  /// The same shape, added to.
  float* weight_gradient = nullptr;
  /// Height and width of the kernel.
  int64_t kernel[2] = {3, 3};
  /// Pixels from a window to the next, down and across.
  int64_t stride[2] = {1, 1};
  /// Pixels between the taps of the kernel.
  int64_t dilation[2] = {1, 1};
  /// Rows.
  int64_t rows = 0;
  /// Pixels in a row.
  int64_t pixels = 0;
  /// Vectors of channels.
  int64_t vectors = 0;

  /// What is needed soon; used where `gathers()`.
  Prefetch prefetch[2];

  /// Whether each pixel of the input gathers its gradient: 3x3 kernels, stride and dilation 1.
  bool gathers() const {
    return kernel[0] == 3 && kernel[1] == 3 && stride[0] == 1 && stride[1] == 1 &&
           dilation[0] == 1 && dilation[1] == 1;
  }
};

/// The kernels for gradients on one kind of processor.
struct TrainingKernelTable {
  /// The kernels that inference uses as well.
  const KernelTable* forward;
  /// See `OuterProducts`.
  void (*outer_products)(const OuterProducts&);
  /// See `Moments`.
  void (*moments)(const Moments&);
  /// See `GradientSums`.
  void (*gradient_sums)(const GradientSums&);
  /// See `NormalizationGradient`.
  void (*normalization_gradient)(const NormalizationGradient&);
  /// See `DepthwiseGradient`.
  void (*depthwise_gradient)(const DepthwiseGradient&);
};

}  // namespace bsconv::kernels
