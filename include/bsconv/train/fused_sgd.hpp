// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <memory>
#include <vector>

#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/optim/optimizer.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>

namespace bsconv::train {

namespace detail {

/// Whether the elements of two tensors of the same sizes have the same places in memory.
inline bool same_layout(const torch::Tensor& a, const torch::Tensor& b) {
  for (int64_t axis = 0; axis < a.dim(); ++axis) {
    if (a.size(axis) > 1 && a.stride(axis) != b.stride(axis)) {
      return false;
    }
  }
  return true;
}

/// The momentum of `parameter`, laid in memory as it; zero if it has had no step.
inline torch::Tensor momentum_of(torch::optim::SGD& optimizer, const torch::Tensor& parameter) {
  auto& state = optimizer.state()[parameter.unsafeGetTensorImpl()];
  if (state == nullptr) {
    state = std::make_unique<torch::optim::SGDParamState>();
  }
  auto& own = static_cast<torch::optim::SGDParamState&>(*state);
  auto buffer = own.momentum_buffer();
  if (!buffer.defined() || !same_layout(buffer, parameter)) {
    auto made = torch::zeros_like(parameter).detach();
    if (buffer.defined()) {
      made.copy_(buffer);
    }
    own.momentum_buffer(made);
    buffer = made;
  }
  return buffer;
}

/// One operator for all parameters of each group, at the rate that `rate_of` has for its options.
template <class RateOf>
void fused_step_at(torch::optim::SGD& optimizer, const RateOf& rate_of) {
  const torch::NoGradGuard no_grad;
  for (auto& group : optimizer.param_groups()) {
    const auto& options = static_cast<const torch::optim::SGDOptions&>(group.options());
    TORCH_CHECK_VALUE(options.dampening() == 0, "fused_step: dampening must be 0, got ",
                      options.dampening());
    std::vector<torch::Tensor> parameters;
    std::vector<torch::Tensor> gradients;
    std::vector<torch::Tensor> momenta;
    for (const auto& parameter : group.params()) {
      auto gradient = parameter.grad();
      if (!gradient.defined()) {
        continue;
      }
      // The operator goes through memory, whatever the strides.
      if (!same_layout(gradient, parameter)) {
        gradient = torch::empty_like(parameter).copy_(gradient);
      }
      parameters.push_back(parameter);
      gradients.push_back(gradient);
      if (options.momentum() != 0) {
        momenta.push_back(momentum_of(optimizer, parameter));
      }
    }
    if (!parameters.empty()) {
      at::_fused_sgd_(parameters, gradients, momenta, options.weight_decay(), options.momentum(),
                      rate_of(options), options.dampening(), options.nesterov(),
                      /*maximize=*/false, /*is_first_step=*/false);
    }
  }
}

}  // namespace detail

/// What `optimizer.step()` does, in one operator for all parameters.
///
/// Momentum starts at zero, which is the same as LibTorch's start where there is no dampening; with
/// it, throws `c10::ValueError`.
inline void fused_step(torch::optim::SGD& optimizer) {
  detail::fused_step_at(optimizer,
                        [](const torch::optim::SGDOptions& options) { return options.lr(); });
}

/// The same at the rate in the tensor `learning_rate`, a float scalar on the parameters' device,
/// instead of the optimizer's own. Nothing waits for the device, so that a CUDA graph can record
/// it.
inline void fused_step(torch::optim::SGD& optimizer, const torch::Tensor& learning_rate) {
  detail::fused_step_at(optimizer,
                        [&](const torch::optim::SGDOptions& /*options*/) { return learning_rate; });
}

}  // namespace bsconv::train
