// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/autograd.h>
#include <torch/types.h>
#include <bsconv/autograd/block_backward.hpp>
#include <bsconv/autograd/block_forward.hpp>
#include <bsconv/autograd/reference.hpp>

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

namespace bsconv::detail {

/// The tensors of a block that gradients flow to, in a fixed order; undefined where there is none.
inline std::vector<torch::Tensor> block_tensors(const TrainingBlock& block) {
  const auto weight = [](const auto& norm) { return norm ? norm->weight : torch::Tensor(); };
  const auto bias = [](const auto& norm) { return norm ? norm->bias : torch::Tensor(); };
  return {block.first,
          weight(block.first_norm),
          bias(block.first_norm),
          block.pointwise,
          weight(block.pointwise_norm),
          bias(block.pointwise_norm),
          block.depthwise,
          block.bias,
          weight(block.norm),
          bias(block.norm)};
}

/// `block` with other tensors, in the order of `block_tensors`.
inline TrainingBlock with_tensors(TrainingBlock block, const torch::Tensor* tensors) {
  const auto set = [](auto& norm, const torch::Tensor& weight, const torch::Tensor& bias) {
    if (norm) {
      norm->weight = weight;
      norm->bias = bias;
    }
  };
  block.first = tensors[0];
  set(block.first_norm, tensors[1], tensors[2]);
  block.pointwise = tensors[3];
  set(block.pointwise_norm, tensors[4], tensors[5]);
  block.depthwise = tensors[6];
  block.bias = tensors[7];
  set(block.norm, tensors[8], tensors[9]);
  return block;
}

/// What a backward pass has to know beside its tensors.
struct BlockContext : torch::CustomClassHolder {
  /// The block, without tensors that autograd keeps.
  TrainingBlock block;
  /// The kernels of the forward pass.
  const kernels::TrainingKernelTable* kernels = nullptr;
  /// What the forward pass has found out.
  c10::intrusive_ptr<BlockStatistics> statistics;
};

/// A block as one operator: forward and backward on fused kernels; gradients of gradients by
/// LibTorch's operators.
class BlockFunction : public torch::autograd::Function<BlockFunction> {
 public:
  /// A tensor of the block, or none.
  using Part = std::optional<torch::Tensor>;

  /// Computes `block` on `input` plus `residual`, both channels_last. The tensors of `block` are
  /// arguments of their own as well, in the order of `block_tensors`, so that autograd sees them.
  static torch::Tensor forward(torch::autograd::AutogradContext* context,
                               const torch::Tensor& input, const Part& residual_part,
                               const Part& /*first*/, const Part& /*first_weight*/,
                               const Part& /*first_bias*/, const Part& /*pointwise*/,
                               const Part& /*pointwise_weight*/, const Part& /*pointwise_bias*/,
                               const Part& /*depthwise*/, const Part& /*bias*/,
                               const Part& /*norm_weight*/, const Part& /*norm_bias*/,
                               const TrainingBlock& block,
                               const kernels::TrainingKernelTable* kernels) {
    const auto residual = residual_part.value_or(torch::Tensor());
    BlockForward forward(block, *kernels);
    forward.run(input, residual);
    auto saved = c10::make_intrusive<BlockContext>();
    const std::vector<torch::Tensor> none(tensor_count);
    saved->block = with_tensors(block, none.data());
    saved->kernels = kernels;
    saved->statistics = forward.statistics;
    context->saved_data["block"] = torch::IValue::make_capsule(saved);
    const bool keeps_output =
        residual.defined() && block.activation != kernels::Activation::identity;
    torch::autograd::variable_list kept = {input, residual};
    const auto tensors = block_tensors(block);
    kept.insert(kept.end(), tensors.begin(), tensors.end());
    kept.insert(kept.end(), {forward.middle, forward.hidden, forward.before_norm,
                             keeps_output ? forward.output : torch::Tensor()});
    context->save_for_backward(std::move(kept));
    return forward.output;
  }

  /// Gradients in the order of the arguments of `forward`.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto capsule = context->saved_data["block"].toCapsule();
    const auto& kept = static_cast<const BlockContext&>(*capsule);
    const auto& input = saved[0];
    const auto& residual = saved[1];
    const auto block = with_tensors(kept.block, saved.data() + first_tensor);
    if (torch::GradMode::is_enabled()) {
      return reference_gradients(reference_block(input, block, residual), gradients[0], saved,
                                 first_tensor + tensor_count, argument_count);
    }
    BlockBackward backward(block, *kept.kernels, *kept.statistics);
    backward.run(channels_last(gradients[0]), input, saved[12], saved[13], saved[14], saved[15],
                 residual.defined(), context->needs_input_grad(0));
    const auto& inner = backward.inner;
    const torch::Tensor gradient_of_bias = !block.bias.defined() ? torch::Tensor()
                                           : block.norm          ? torch::zeros_like(block.bias)
                                                                 : gradients[0].sum({0, 2, 3});
    const auto of_norm = [&](const PerChannel& values) {
      return block.norm ? float_tensor(values) : torch::Tensor();
    };
    const std::vector<torch::Tensor> found = {backward.first,
                                              inner.first_weight,
                                              inner.first_bias,
                                              inner.pointwise,
                                              inner.pointwise_weight,
                                              inner.pointwise_bias,
                                              backward.depthwise,
                                              gradient_of_bias,
                                              of_norm(backward.norm_weight),
                                              of_norm(backward.norm_bias)};
    torch::autograd::variable_list result(argument_count);
    result[0] = backward.input_gradient;
    result[1] = backward.residual_gradient;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const auto& tensor = saved[first_tensor + i];
      if (tensor.defined()) {
        const auto& gradient = found[i];
        const bool fits = gradient.sizes() == tensor.sizes();
        result[first_tensor + i] =
            (fits ? gradient : gradient.reshape(tensor.sizes())).to(torch::kFloat).contiguous();
      }
    }
    return result;
  }

 private:
  static constexpr std::size_t first_tensor = 2;
  static constexpr std::size_t tensor_count = 10;
  static constexpr std::size_t argument_count = first_tensor + tensor_count + 2;
};

/// Computes `block` on `kernels`, as a part of the graph.
inline torch::Tensor run_block(const torch::Tensor& input, const TrainingBlock& block,
                               const torch::Tensor& residual,
                               const kernels::TrainingKernelTable& kernels) {
  const auto t = block_tensors(block);
  return BlockFunction::apply(
      channels_last(input), if_defined(channels_last_if_any(residual)), if_defined(t[0]),
      if_defined(t[1]), if_defined(t[2]), if_defined(t[3]), if_defined(t[4]), if_defined(t[5]),
      if_defined(t[6]), if_defined(t[7]), if_defined(t[8]), if_defined(t[9]), block, &kernels);
}

}  // namespace bsconv::detail
