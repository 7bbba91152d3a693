// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/nn/walk.hpp>

#include <cmath>
#include <string>

namespace bsconv {

/// A module that adds a term of its own to the training loss.
///
/// Derive from it beside `torch::nn::Module`: `regularization_loss(model)` finds every such module.
class Regularized {
 public:
  /// Deriving modules are destroyed through their own type.
  virtual ~Regularized() = default;

  /// The module's term, a tensor without dimensions that takes part in autograd.
  virtual torch::Tensor regularization_loss() const = 0;

  /// Whether the module has a term at all.
  virtual bool is_regularized() const = 0;
};

/// The Frobenius norm of `W W^T - I`, a tensor without dimensions: how far the rows of `weight`
/// are from orthonormal. `weight` is a pointwise kernel `[rows, columns, 1, 1]` or a matrix.
inline torch::Tensor orthonormality_loss(const torch::Tensor& weight) {
  const auto matrix = weight.flatten(1);
  return (matrix.matmul(matrix.t()) - torch::eye(matrix.size(0), matrix.options())).norm();
}

/// Whether any module of `model` adds a term to the training loss.
inline bool has_regularization(const torch::nn::Module& model) {
  bool found = false;
  for_each_module(model, [&](const torch::nn::Module& module, const std::string&) {
    const auto* regularized = dynamic_cast<const Regularized*>(&module);
    found = found || (regularized != nullptr && regularized->is_regularized());
  });
  return found;
}

/// `alpha` times the sum of the regularization losses of all modules of `model`, a tensor without
/// dimensions: what the Python package's `model.reg_loss(alpha)` returns. Add it to the task's
/// loss. Without such modules it is a zero on the model's device.
///
/// `alpha` weighs the term; it must be finite and not negative. Default: 0.1 (the paper's).
inline torch::Tensor regularization_loss(const torch::nn::Module& model, double alpha = 0.1) {
  TORCH_CHECK_VALUE(std::isfinite(alpha) && alpha >= 0.0,
                    "regularization_loss: alpha must be finite and at least 0, got ", alpha);
  torch::Tensor sum;
  for_each_module(model, [&](const torch::nn::Module& module, const std::string&) {
    const auto* regularized = dynamic_cast<const Regularized*>(&module);
    if (regularized != nullptr && regularized->is_regularized()) {
      const auto loss = regularized->regularization_loss();
      sum = sum.defined() ? sum + loss : loss;
    }
  });
  if (sum.defined()) {
    return alpha * sum;
  }
  torch::TensorOptions options;
  for (const auto& parameter : model.parameters()) {
    options = torch::TensorOptions().device(parameter.device());
    break;
  }
  return torch::zeros({}, options);
}

}  // namespace bsconv
