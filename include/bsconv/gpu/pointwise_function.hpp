// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/Context.h>
#include <torch/autograd.h>
#include <torch/types.h>
#include <bsconv/autograd/channels_last.hpp>
#include <bsconv/autograd/reference.hpp>
#include <bsconv/gpu/kernel_images.hpp>
#include <bsconv/gpu/kernel_set.hpp>
#include <bsconv/gpu/pointwise_shape.hpp>

#include <cstdint>
#include <memory>
#include <utility>

namespace bsconv::gpu {

/// A pointwise convolution of one shape with its compiled kernels. Images are `[N, C, H, W]`,
/// channels_last, of the elements that the kernels were compiled for; weights `[out, in, 1, 1]` are
/// of floats.
class PointwiseConvolution {
 public:
  /// Compiles the kernels for `shape` and elements of `dtype`, unless `compiler` has them.
  PointwiseConvolution(std::shared_ptr<Compiler> compiler, const PointwiseShape& shape,
                       torch::ScalarType dtype)
      : shape_(shape), kernels_(compiler, shape.kernels(), dtype) {
    // Which is faster may be another one in the next run, and rounds otherwise.
    is_faster_ = at::globalContext().deterministicAlgorithms() ||
                 compiler->fastest(shape.key() + element_name(dtype), 2, [&](std::size_t way) {
                   return time(compiler->runtime(), way == 0, dtype);
                 }) == 0;
  }

  /// Whether the kernels are faster than LibTorch's operators, forward and backward together, or
  /// deterministic algorithms were asked for.
  bool is_faster() const { return is_faster_; }

  /// The output.
  torch::Tensor forward(const torch::Tensor& input, const torch::Tensor& weight) const {
    auto output = images(input, shape_.out);
    kernels_.launch(PointwiseShape::forward, {address(input), address(weight), address(output)});
    return output;
  }

  /// The gradients of the input, undefined unless `needs_input`, and of the weight, shaped as it
  /// and undefined unless `needs_weight`.
  std::pair<torch::Tensor, torch::Tensor> backward(const torch::Tensor& gradient,
                                                   const torch::Tensor& input,
                                                   const torch::Tensor& weight, bool needs_input,
                                                   bool needs_weight) const {
    std::pair<torch::Tensor, torch::Tensor> result;
    const bool both = shape_.makes_both() && needs_weight;
    if (needs_input) {
      result.first = images(gradient, shape_.in);
      if (!both) {
        kernels_.launch(PointwiseShape::by_input,
                        {address(gradient), address(weight), address(result.first)});
      }
    }
    if (needs_weight) {
      const auto partial = KernelSet::floats(
          gradient, {kernels_.blocks(PointwiseShape::by_weight), shape_.out, shape_.in});
      kernels_.launch(PointwiseShape::by_weight,
                      {address(gradient), address(input), address(weight),
                       both ? address(result.first) : nullptr, address(partial)});
      result.second = KernelSet::floats(gradient, weight.sizes());
      kernels_.launch(PointwiseShape::finish_weight, {address(partial), address(result.second)});
    }
    return result;
  }

 private:
  static torch::Tensor images(const torch::Tensor& like, int64_t channels) {
    return bsconv::detail::empty_images(like, channels, like.size(2), like.size(3));
  }

  // Seconds that one way takes, forward and backward.
  double time(Runtime& runtime, bool own, torch::ScalarType dtype) const {
    const torch::NoGradGuard no_grad;
    const auto options = torch::TensorOptions(runtime.device());
    const auto image = [&](int64_t channels) {
      return torch::ones({1, channels, 1, shape_.pixels}, options.dtype(dtype))
          .contiguous(torch::MemoryFormat::ChannelsLast);
    };
    const auto input = image(shape_.in);
    const auto gradient = image(shape_.out);
    const auto weight = torch::ones({shape_.out, shape_.in, 1, 1}, options);
    const auto same = weight.to(dtype);
    return runtime.time([&] {
      if (own) {
        forward(input, weight);
        backward(gradient, input, weight, true, true);
      } else {
        torch::conv2d(input, same);
        torch::convolution_backward(gradient, input, same, at::OptionalIntArrayRef(), {1, 1},
                                    {0, 0}, {1, 1}, /*transposed=*/false, {0, 0}, /*groups=*/1,
                                    {true, true, false});
      }
    });
  }

  PointwiseShape shape_;
  KernelSet kernels_;
  bool is_faster_ = false;
};

/// What the backward pass of `PointwiseFunction` has to know beside its tensors.
struct PointwiseContext : torch::CustomClassHolder {
  /// The kernels.
  std::shared_ptr<const PointwiseConvolution> convolution;
};

/// A pointwise convolution as one operator: forward and backward on kernels of this library,
/// gradients of gradients by LibTorch's operators.
class PointwiseFunction : public torch::autograd::Function<PointwiseFunction> {
 public:
  /// `input` is channels_last.
  static torch::Tensor forward(torch::autograd::AutogradContext* context,
                               const torch::Tensor& input, const torch::Tensor& weight,
                               const std::shared_ptr<const PointwiseConvolution>& convolution) {
    auto kept = c10::make_intrusive<PointwiseContext>();
    kept->convolution = convolution;
    context->saved_data["convolution"] = torch::IValue::make_capsule(kept);
    context->save_for_backward({input, weight});
    return convolution->forward(input, weight);
  }

  /// Gradients in the order of the arguments of `forward`.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto& input = saved[0];
    const auto& weight = saved[1];
    if (torch::GradMode::is_enabled()) {
      return bsconv::detail::reference_gradients(
          [](const torch::autograd::variable_list& own) {
            return torch::conv2d(own[0], own[1].to(own[0].scalar_type()));
          },
          gradients[0], saved, 2, 3);
    }
    const auto capsule = context->saved_data["convolution"].toCapsule();
    const auto& convolution = *static_cast<const PointwiseContext&>(*capsule).convolution;
    const auto gradient = kernel_images(gradients[0]);
    auto [by_input, by_weight] = convolution.backward(
        gradient, input, weight, context->needs_input_grad(0), context->needs_input_grad(1));
    return {std::move(by_input), std::move(by_weight), torch::Tensor()};
  }
};

}  // namespace bsconv::gpu
