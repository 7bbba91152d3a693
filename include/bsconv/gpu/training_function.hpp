// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/autocast_mode.h>
#include <torch/autograd.h>
#include <torch/types.h>
#include <bsconv/autograd/block.hpp>
#include <bsconv/autograd/channels_last.hpp>
#include <bsconv/autograd/reference.hpp>
#include <bsconv/gpu/kernel_images.hpp>
#include <bsconv/gpu/kernel_set.hpp>
#include <bsconv/gpu/pointwise_function.hpp>
#include <bsconv/gpu/training_shape.hpp>
#include <bsconv/gpu/training_tail.hpp>

#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

namespace bsconv::gpu {

/// What the backward pass of a tail has to know beside its tensors.
struct TailContext : torch::CustomClassHolder {
  /// The kernels.
  std::shared_ptr<const TrainingTail> tail;
};

/// A tail, `depthwise -> [norm -> activation(+ residual)]` or a part of that, as one operator:
/// forward and backward on kernels of this library, gradients of gradients by LibTorch's operators.
class TailFunction : public torch::autograd::Function<TailFunction> {
 public:
  /// A tensor, or none.
  using Part = std::optional<torch::Tensor>;

  /// Images are channels_last. All but running statistics are arguments of their own so that
  /// autograd sees them.
  static torch::Tensor forward(torch::autograd::AutogradContext* context,
                               const torch::Tensor& input, const Part& residual,
                               const Part& depthwise, const Part& bias, const Part& weight,
                               const Part& norm_bias, const bsconv::detail::TrainingBatchNorm& norm,
                               const std::shared_ptr<const TrainingTail>& tail) {
    const auto made =
        tail->forward({input, residual.value_or(torch::Tensor()),
                       depthwise.value_or(torch::Tensor()), bias.value_or(torch::Tensor()), norm});
    for (const auto& running : {norm.running_mean, norm.running_var, norm.num_batches_tracked}) {
      if (running.defined() && !running.is_inference()) {
        running.unsafeGetTensorImpl()->bump_version();
      }
    }
    auto kept = c10::make_intrusive<TailContext>();
    kept->tail = tail;
    context->saved_data["tail"] = torch::IValue::make_capsule(kept);
    const auto& shape = tail->shape();
    const bool keeps_output = shape.residual && shape.activation != kernels::Activation::identity;
    const auto none = torch::Tensor();
    context->save_for_backward({input, residual.value_or(none), depthwise.value_or(none),
                                bias.value_or(none), weight.value_or(none),
                                norm_bias.value_or(none), shape.depthwise ? made.before_norm : none,
                                made.statistics, keeps_output ? made.output : none});
    return made.output;
  }

  /// Gradients in the order of the arguments of `forward`.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto capsule = context->saved_data["tail"].toCapsule();
    const auto& tail = *static_cast<const TailContext&>(*capsule).tail;
    const auto& shape = tail.shape();
    if (torch::GradMode::is_enabled()) {
      return bsconv::detail::reference_gradients(
          [&shape](const torch::autograd::variable_list& own) {
            return reference(tensors_of(own), shape);
          },
          gradients[0], saved, tensor_count, argument_count);
    }
    const auto tensors = tensors_of(saved);
    const TailForward made{saved[8], shape.depthwise ? saved[6] : saved[0], saved[7]};
    const auto found = tail.backward(kernel_images(gradients[0]), tensors, made);
    return {found.input,       found.residual,  found.depthwise, found.bias,
            found.norm_weight, found.norm_bias, torch::Tensor(), torch::Tensor()};
  }

 private:
  static TailTensors tensors_of(const torch::autograd::variable_list& saved) {
    TailTensors tensors{saved[0], saved[1], saved[2], saved[3], {}};
    tensors.norm.weight = saved[4];
    tensors.norm.bias = saved[5];
    return tensors;
  }

  static constexpr std::size_t tensor_count = 6;
  static constexpr std::size_t argument_count = 8;

  static torch::Tensor reference(const TailTensors& t, const TailShape& shape) {
    auto x = t.input;
    if (shape.depthwise) {
      const auto& g = *shape.depthwise;
      const auto cast = [&](const torch::Tensor& tensor) {
        return tensor.defined() ? tensor.to(x.scalar_type()) : tensor;
      };
      x = torch::conv2d(x, cast(t.depthwise), cast(t.bias), g.stride, g.padding, g.dilation,
                        shape.channels);
    }
    if (shape.norm) {
      auto norm = t.norm;
      norm.eps = shape.norm->eps;
      x = bsconv::detail::reference_norm(x, norm);
    }
    return bsconv::detail::reference_activation(x, t.residual, shape.activation);
  }
};

/// The shape of a tail on `input` `[N, C, H, W]`.
inline TailShape tail_shape(const torch::Tensor& input,
                            const std::optional<bsconv::detail::DepthwiseGeometry>& depthwise,
                            const torch::Tensor& bias,
                            const std::optional<bsconv::detail::TrainingBatchNorm>& norm,
                            kernels::Activation activation, const torch::Tensor& residual) {
  TailShape shape;
  shape.images = input.size(0);
  shape.channels = input.size(1);
  shape.in = shape.out = {input.size(2), input.size(3)};
  shape.depthwise = depthwise;
  if (depthwise) {
    shape.out = {depthwise->output_size(0, shape.in[0]), depthwise->output_size(1, shape.in[1])};
  }
  shape.bias = bias.defined();
  if (norm) {
    shape.norm = {norm->weight.defined(),
                  norm->bias.defined(),
                  norm->running_mean.defined(),
                  norm->running_var.defined(),
                  norm->num_batches_tracked.defined(),
                  norm->eps,
                  norm->momentum.value_or(0.0)};
  }
  shape.activation = activation;
  shape.residual = residual.defined();
  return shape;
}

/// The operators for training on a GPU, which run on kernels compiled for the sizes at hand.
class TrainingOperators {
 public:
  /// On the device of `compiler`.
  explicit TrainingOperators(const std::shared_ptr<Compiler>& compiler)
      : tails_(compiler), pointwise_(compiler) {}

  /// A block on `input` `[N, C, H, W]` plus `residual`, which may be undefined. Pointwise
  /// convolutions that LibTorch has faster operators for are left to it.
  torch::Tensor block(const torch::Tensor& input, const bsconv::detail::TrainingBlock& block,
                      const torch::Tensor& residual) {
    auto x = block.input_norm ? norm(input, *block.input_norm, block.input_activation, {}) : input;
    const auto type = input.device().type();
    if (at::autocast::is_autocast_enabled(type)) {
      x = x.to(at::autocast::get_autocast_dtype(type));
    }
    x = bsconv::detail::channels_last(x);
    const auto next = [&](const torch::Tensor& weight, const auto& inner) {
      x = pointwise(x, weight);
      if (inner) {
        x = norm(x, *inner, kernels::Activation::identity, {});
      }
    };
    if (block.first.defined()) {
      next(block.first, block.first_norm);
    }
    next(block.pointwise, block.pointwise_norm);
    const auto output = tail(x, block.depthwise, block.bias, block.geometry, block.norm,
                             block.activation, block.norm ? residual : torch::Tensor());
    return block.norm || !residual.defined() ? output : output + residual;
  }

  /// `activation(norm(input) + residual)`.
  torch::Tensor norm(const torch::Tensor& input, const bsconv::detail::TrainingBatchNorm& norm,
                     kernels::Activation activation, const torch::Tensor& residual) {
    return tail(input, {}, {}, std::nullopt, norm, activation, residual);
  }

 private:
  torch::Tensor tail(const torch::Tensor& input, const torch::Tensor& depthwise,
                     const torch::Tensor& bias,
                     const std::optional<bsconv::detail::DepthwiseGeometry>& geometry,
                     const std::optional<bsconv::detail::TrainingBatchNorm>& norm,
                     kernels::Activation activation, const torch::Tensor& residual) {
    using bsconv::detail::if_defined;
    if (residual.defined() && residual.scalar_type() != input.scalar_type()) {
      return bsconv::detail::reference_activation(
          tail(input, depthwise, bias, geometry, norm, kernels::Activation::identity, {}), residual,
          activation);
    }
    if (norm && !norm->momentum) {
      const auto made = geometry ? tail(input, depthwise, bias, geometry, std::nullopt,
                                        kernels::Activation::identity, {})
                                 : input;
      return bsconv::detail::reference_activation(library_norm(made, *norm), residual, activation);
    }
    // `Module::to` converts the count to other types too, which kernels don't count in.
    auto counted = norm;
    const bool counts_apart = norm && norm->num_batches_tracked.defined() &&
                              (norm->num_batches_tracked.scalar_type() != torch::kLong ||
                               norm->num_batches_tracked.device() != input.device());
    if (counts_apart) {
      counted->num_batches_tracked = torch::Tensor();
    }
    const auto shape = tail_shape(input, geometry, bias, counted, activation, residual);
    if (!shape.fits() && geometry) {
      auto made = torch::conv2d(input, depthwise, bias, geometry->stride, geometry->padding,
                                geometry->dilation, shape.channels);
      return norm ? this->norm(made, *norm, activation, residual) : made;
    }
    if (!shape.fits()) {
      return bsconv::detail::reference_activation(library_norm(input, *norm), residual, activation);
    }
    if (counts_apart) {
      norm->num_batches_tracked.add_(1);
    }
    const auto parts = counted.value_or(bsconv::detail::TrainingBatchNorm());
    return TailFunction::apply(kernel_images(input), if_defined(kernel_images(residual)),
                               if_defined(depthwise), if_defined(bias), if_defined(parts.weight),
                               if_defined(parts.bias), parts,
                               tails_.get(shape, input.scalar_type()));
  }

  // By LibTorch: where the running statistics are the mean over all steps, since the count decides,
  // which is on the device, and for more pixels than kernels count.
  static torch::Tensor library_norm(const torch::Tensor& input,
                                    const bsconv::detail::TrainingBatchNorm& norm) {
    double momentum = norm.momentum.value_or(0.0);
    if (norm.num_batches_tracked.defined()) {
      norm.num_batches_tracked.add_(1);
      if (!norm.momentum) {
        momentum = 1.0 / norm.num_batches_tracked.item<double>();
      }
    }
    return torch::batch_norm(input, norm.weight, norm.bias, norm.running_mean, norm.running_var,
                             /*training=*/true, momentum, norm.eps, /*cudnn_enabled=*/true);
  }

  torch::Tensor pointwise(const torch::Tensor& input, const torch::Tensor& weight) {
    const PointwiseShape shape{input.numel() / input.size(1), input.size(1), weight.size(0)};
    if (shape.fits()) {
      const auto convolution = pointwise_.get(shape, input.scalar_type());
      if (convolution->is_faster()) {
        // LibTorch's convolution in front of it may have made something else.
        return PointwiseFunction::apply(kernel_images(input), weight, convolution);
      }
    }
    return torch::conv2d(input, weight.to(input.scalar_type()));
  }

  KernelLibrary<TrainingTail> tails_;
  KernelLibrary<PointwiseConvolution> pointwise_;
};

}  // namespace bsconv::gpu
