// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/autograd.h>
#include <torch/types.h>
#include <bsconv/autograd/block.hpp>

#include <cstddef>
#include <optional>
#include <vector>

namespace bsconv::detail {

/// `norm` in training mode by LibTorch's operators; running statistics stay as they are.
inline torch::Tensor reference_norm(const torch::Tensor& input,
                                    const std::optional<TrainingBatchNorm>& norm) {
  return norm ? torch::batch_norm(input, norm->weight, norm->bias, {}, {}, /*training=*/true,
                                  /*momentum=*/0.0, norm->eps, /*cudnn_enabled=*/false)
              : input;
}

/// `activation(input + residual)` by LibTorch's operators; `residual` may be undefined.
inline torch::Tensor reference_activation(const torch::Tensor& input, const torch::Tensor& residual,
                                          kernels::Activation activation) {
  auto sum = residual.defined() ? input + residual : input;
  switch (activation) {
    case kernels::Activation::relu:
      return torch::relu(sum);
    case kernels::Activation::relu6:
      return torch::hardtanh(sum, 0.0, 6.0);
    default:
      return sum;
  }
}

/// What a block computes, by LibTorch's operators: for gradients of gradients. Running statistics
/// stay as they are.
inline torch::Tensor reference_block(const torch::Tensor& input, const TrainingBlock& block,
                                     const torch::Tensor& residual) {
  auto x = input;
  if (block.input_norm) {
    x = reference_activation(reference_norm(x, block.input_norm), {}, block.input_activation);
  }
  if (block.first.defined()) {
    x = reference_norm(torch::conv2d(x, block.first), block.first_norm);
  }
  x = reference_norm(torch::conv2d(x, block.pointwise), block.pointwise_norm);
  const auto& g = block.geometry;
  x = torch::conv2d(x, block.depthwise, block.bias, g.stride, g.padding, g.dilation,
                    block.depthwise.size(0));
  return reference_activation(reference_norm(x, block.norm), residual, block.activation);
}

/// Gradients by LibTorch's operators that can be differentiated again: of what `forward` makes of
/// `tensors`, with respect to the first `count` of them, undefined where none is wanted, in a list
/// of `size`.
template <class Forward>
torch::autograd::variable_list reference_gradients(const Forward& forward,
                                                   const torch::Tensor& gradient,
                                                   torch::autograd::variable_list tensors,
                                                   std::size_t count, std::size_t size) {
  // A backward pass within an autocast scope runs in it; fused operators on single precision don't.
  const bool is_single = tensors[0].scalar_type() == torch::kFloat;
  const c10::impl::ExcludeDispatchKeyGuard single_precision(
      is_single ? c10::autocast_dispatch_keyset
                : c10::DispatchKeySet(c10::DispatchKey::AutocastCPU));
  torch::autograd::variable_list inputs;
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < count; ++i) {
    if (tensors[i].defined() && tensors[i].requires_grad()) {
      // One may be computed from another, as a residual from the input. Gradients for views of them
      // are partial ones, without the way from one to the other.
      tensors[i] = tensors[i].view_as(tensors[i]);
      inputs.push_back(tensors[i]);
      places.push_back(i);
    }
  }
  const auto found =
      torch::autograd::grad({forward(tensors)}, inputs, {gradient}, /*retain_graph=*/true,
                            /*create_graph=*/true, /*allow_unused=*/true);
  torch::autograd::variable_list result(size);
  for (std::size_t i = 0; i < places.size(); ++i) {
    result[places[i]] = found[i];
  }
  return result;
}

}  // namespace bsconv::detail
