// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <vector>

#include <torch/types.h>

namespace bsconv::train {

/// The gradients of those of `parameters` that have one.
inline std::vector<torch::Tensor> gradients_of(const std::vector<torch::Tensor>& parameters) {
  std::vector<torch::Tensor> gradients;
  gradients.reserve(parameters.size());
  for (const auto& parameter : parameters) {
    if (parameter.grad().defined()) {
      gradients.push_back(parameter.grad());
    }
  }
  return gradients;
}

/// Scales the gradients of `parameters` so that the 2-norm of all of them together is at most
/// `max_norm`, as Python's `clip_grad_norm_` does. Returns the norm before, a scalar tensor on
/// their device, so that nothing waits for a GPU; undefined if there is no gradient.
inline torch::Tensor clip_gradients(const std::vector<torch::Tensor>& parameters, double max_norm) {
  TORCH_CHECK(max_norm > 0, "max_norm must be positive, got ", max_norm);
  const torch::NoGradGuard no_grad;
  const auto gradients = gradients_of(parameters);
  if (gradients.empty()) {
    return {};
  }
  auto norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(gradients)));
  at::_foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp_max(1.0));
  return norm;
}

}  // namespace bsconv::train
