// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>
#include <torch/types.h>
#include <bsconv/autograd/block.hpp>
#include <bsconv/autograd/channels_last.hpp>
#include <bsconv/gpu/compiler.hpp>
#include <bsconv/gpu/kernel_set.hpp>
#include <bsconv/gpu/operation.hpp>
#include <bsconv/gpu/training_shape.hpp>

#include <array>
#include <cstdint>
#include <memory>
#include <utility>

namespace bsconv::gpu {

/// The tensors of a tail: `depthwise -> [norm -> activation(+ residual)]`. Images are
/// `[N, C, H, W]`, channels_last, of the elements that the kernels were compiled for; the rest is
/// of floats. What a tail hasn't is undefined.
struct TailTensors {
  /// What the tail reads.
  torch::Tensor input;
  /// What is added in front of the activation.
  torch::Tensor residual;
  /// Weight of the depthwise convolution, `[C, 1, height, width]`.
  torch::Tensor depthwise;
  /// Its bias.
  torch::Tensor bias;
  /// The batch normalization.
  bsconv::detail::TrainingBatchNorm norm;
};

/// What the forward pass of a tail made.
struct TailForward {
  /// The result.
  torch::Tensor output;
  /// What the batch normalization read; undefined without one.
  torch::Tensor before_norm;
  /// Its mean, deviation, scale and shift, `[4, C]`.
  torch::Tensor statistics;
};

/// The gradients of a tail; undefined where it has no such tensor.
struct TailGradients {
  /// Of the input.
  torch::Tensor input;
  /// Of the residual.
  torch::Tensor residual;
  /// Of the depthwise weight, `[C, 1, height, width]`.
  torch::Tensor depthwise;
  /// Of the depthwise bias.
  torch::Tensor bias;
  /// Of the batch normalization's weight.
  torch::Tensor norm_weight;
  /// Of its bias.
  torch::Tensor norm_bias;
};

/// A tail of one shape with its compiled kernels.
class TrainingTail {
 public:
  /// Compiles the kernels for `shape` and elements of `dtype`, unless `compiler` has them.
  TrainingTail(std::shared_ptr<Compiler> compiler, const TailShape& shape, torch::ScalarType dtype)
      : shape_(shape), kernels_(std::move(compiler), shape.kernels(), dtype) {}

  /// Computes the tail, and brings running statistics up to date.
  TailForward forward(const TailTensors& t) const {
    TailForward result;
    const auto& x = t.input;
    const bool normalized = shape_.norm.has_value();
    auto partial =
        normalized
            ? KernelSet::floats(x, {kernels_.blocks(shape_.depthwise ? TailShape::depthwise_forward
                                                                     : TailShape::moments),
                                    3, shape_.channels})
            : torch::Tensor();
    torch::Tensor made = x;
    if (shape_.depthwise) {
      made = images(x, shape_.out);
      kernels_.launch(
          TailShape::depthwise_forward,
          {address(x), address(t.depthwise), address(t.bias), address(made), address(partial)});
    } else {
      kernels_.launch(TailShape::moments, {address(x), address(partial)});
    }
    if (!normalized) {
      result.output = made;
      return result;
    }
    result.before_norm = made;
    result.statistics = KernelSet::floats(x, {4, shape_.channels});
    const auto& norm = t.norm;
    kernels_.launch(
        TailShape::finish_moments,
        {address(partial), address(norm.weight), address(norm.bias), address(norm.running_mean),
         address(norm.running_var), address(norm.num_batches_tracked), address(result.statistics)});
    result.output = images(x, shape_.out);
    kernels_.launch(TailShape::normalize, {address(made), address(result.statistics),
                                           address(t.residual), address(result.output)});
    return result;
  }

  /// The gradients, of `gradient`, that of the result. `forward` is what the forward pass made; of
  /// its output only a tail with residual and activation makes use.
  TailGradients backward(const torch::Tensor& gradient, const TailTensors& t,
                         const TailForward& forward) const {
    TailGradients result;
    auto passed = gradient;
    torch::Tensor factors;
    if (shape_.norm) {
      const bool masks = shape_.residual && shape_.activation != kernels::Activation::identity;
      if (masks) {
        passed = images(gradient, shape_.out);
      }
      if (shape_.residual) {
        result.residual = passed;
      }
      const auto partial = KernelSet::floats(
          gradient, {kernels_.blocks(TailShape::gradient_sums), 2, shape_.channels});
      kernels_.launch(
          TailShape::gradient_sums,
          {address(gradient), address(forward.before_norm), address(forward.output),
           address(forward.statistics), masks ? address(passed) : nullptr, address(partial)});
      result.norm_weight = like(t.norm.weight);
      result.norm_bias = like(t.norm.bias);
      factors = KernelSet::floats(gradient, {3, shape_.channels});
      kernels_.launch(TailShape::finish_gradient_sums,
                      {address(partial), address(forward.statistics), address(result.norm_weight),
                       address(result.norm_bias), address(factors)});
    }
    result.input = images(gradient, shape_.in);
    if (!shape_.depthwise) {
      kernels_.launch(TailShape::normalize_backward,
                      {address(passed), address(forward.before_norm), address(forward.statistics),
                       address(factors), address(result.input)});
      return result;
    }
    const auto partial = KernelSet::floats(
        gradient, {kernels_.blocks(TailShape::depthwise_backward), shape_.taps(), shape_.channels});
    kernels_.launch(TailShape::depthwise_backward,
                    {address(passed), address(forward.before_norm), address(forward.statistics),
                     address(factors), address(t.input), address(t.depthwise),
                     address(result.input), address(partial)});
    result.depthwise = KernelSet::floats(gradient, t.depthwise.sizes());
    kernels_.launch(TailShape::finish_weights, {address(partial), address(result.depthwise)});
    if (t.bias.defined()) {
      // A batch normalization takes away whatever a bias adds.
      result.bias = shape_.norm ? torch::zeros_like(t.bias)
                                : gradient.sum({0, 2, 3}, /*keepdim=*/false, torch::kFloat);
    }
    return result;
  }

  /// The shape.
  const TailShape& shape() const { return shape_; }

 private:
  static torch::Tensor like(const torch::Tensor& tensor) {
    return tensor.defined() ? torch::empty_like(tensor) : torch::Tensor();
  }

  torch::Tensor images(const torch::Tensor& like, const std::array<int64_t, 2>& size) const {
    return bsconv::detail::empty_images(like, shape_.channels, size[0], size[1]);
  }

  TailShape shape_;
  KernelSet kernels_;
};

}  // namespace bsconv::gpu
