// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/core/InferenceMode.h>
#include <torch/nn/module.h>
#include <torch/types.h>
#include <bsconv/nn/walk.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

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

  /// The weight whose `orthonormality_loss` the term is, so that the terms of many modules can be
  /// computed together; undefined, the default, if it is anything else.
  virtual torch::Tensor orthonormal_weight() const { return {}; }
};

/// The Frobenius norm of `W W^T - I`, a tensor without dimensions: how far the rows of `weight`
/// are from orthonormal. `weight` is a pointwise kernel `[rows, columns, 1, 1]` or a matrix.
inline torch::Tensor orthonormality_loss(const torch::Tensor& weight) {
  const auto matrix = weight.flatten(1);
  return (matrix.matmul(matrix.t()) - torch::eye(matrix.size(0), matrix.options())).norm();
}

namespace detail {

/// How matrices of several sizes become a batch of one size.
struct MatrixBatch {
  /// Matrices, and rows and columns of the largest.
  std::array<int64_t, 3> sizes{};
  /// Where each number of the batch lies among those of all matrices, behind which there are
  /// `zeros` zeros: several, because gradients of one number add up one after the other.
  torch::Tensor source;
  static constexpr int64_t zeros = 256;
  /// An identity for each, `[matrices, rows, rows]`.
  torch::Tensor identity;
};

/// The batch for matrices of `shapes` (rows and columns), on the device of `options`. Made once: a
/// recorded training step must find it there.
inline MatrixBatch matrix_batch(const std::vector<std::array<int64_t, 2>>& shapes,
                                const torch::TensorOptions& options) {
  using Key = std::tuple<std::string, torch::ScalarType, std::vector<std::array<int64_t, 2>>>;
  static std::mutex mutex;
  static std::map<Key, MatrixBatch> known;
  const std::lock_guard lock(mutex);
  auto& kept = known[{options.device().str(), c10::typeMetaToScalarType(options.dtype()), shapes}];
  if (kept.source.defined()) {
    return kept;
  }
  // Kept for later calls, in inference mode or not.
  const c10::InferenceMode normal(false);
  MatrixBatch batch;
  auto& [count, rows, columns] = batch.sizes;
  count = static_cast<int64_t>(shapes.size());
  int64_t total = 0;
  for (const auto& shape : shapes) {
    rows = std::max(rows, shape[0]);
    columns = std::max(columns, shape[1]);
    total += shape[0] * shape[1];
  }
  const auto source = torch::arange(count * rows * columns)
                          .remainder(MatrixBatch::zeros)
                          .add_(total)
                          .view({count, rows, columns});
  const auto identity = torch::zeros({count, rows, rows});
  int64_t begin = 0;
  for (int64_t i = 0; i < count; ++i) {
    const auto& [own_rows, own_columns] = shapes[static_cast<std::size_t>(i)];
    const int64_t end = begin + own_rows * own_columns;
    source[i]
        .narrow(0, 0, own_rows)
        .narrow(1, 0, own_columns)
        .copy_(torch::arange(begin, end).view({own_rows, own_columns}));
    identity[i].diagonal().narrow(0, 0, own_rows).fill_(1);
    begin = end;
  }
  batch.source = source.flatten().to(options.device());
  batch.identity = identity.to(options);
  kept = batch;
  return batch;
}

/// The sum of the losses of `weights`, padded with zeros to one size and computed together: a GPU
/// takes longer to start operators than to work on such small matrices.
inline torch::Tensor batched_orthonormality_loss(const std::vector<torch::Tensor>& weights) {
  std::vector<std::array<int64_t, 2>> shapes;
  std::vector<torch::Tensor> numbers;
  for (const auto& weight : weights) {
    shapes.push_back({weight.size(0), weight.numel() / weight.size(0)});
    numbers.push_back(weight.flatten());
  }
  const auto& options = weights.front().options();
  const auto batch = matrix_batch(shapes, options);
  numbers.push_back(torch::zeros({MatrixBatch::zeros}, options));
  const auto matrices = torch::cat(numbers).index_select(0, batch.source).view(batch.sizes);
  const auto products =
      torch::baddbmm(batch.identity, matrices, matrices.transpose(1, 2), /*beta=*/-1);
  return products.flatten(1).norm(2, 1).sum();
}

}  // namespace detail

/// The sum of the `orthonormality_loss` of `weights`, a tensor without dimensions; those of one
/// shape, or on a GPU all, are computed together, which takes few operators instead of some for
/// each. Throws if there are none.
inline torch::Tensor orthonormality_loss(const std::vector<torch::Tensor>& weights) {
  TORCH_CHECK_VALUE(!weights.empty(), "orthonormality_loss: there are no weights");
  if (weights.size() > 1 && weights.front().is_cuda()) {
    return detail::batched_orthonormality_loss(weights);
  }
  std::map<std::vector<int64_t>, std::vector<torch::Tensor>> by_shape;
  for (const auto& weight : weights) {
    const auto matrix = weight.flatten(1);
    by_shape[matrix.sizes().vec()].push_back(matrix);
  }
  torch::Tensor sum;
  for (const auto& [shape, matrices] : by_shape) {
    const auto stack = torch::stack(matrices);
    const auto products = stack.matmul(stack.transpose(1, 2));
    const auto loss =
        (products - torch::eye(shape[0], products.options())).flatten(1).norm(2, 1).sum();
    sum = sum.defined() ? sum + loss : loss;
  }
  return sum;
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
  const auto add = [&sum](const torch::Tensor& loss) { sum = sum.defined() ? sum + loss : loss; };
  std::vector<torch::Tensor> weights;
  for_each_module(model, [&](const torch::nn::Module& module, const std::string&) {
    const auto* regularized = dynamic_cast<const Regularized*>(&module);
    if (regularized != nullptr && regularized->is_regularized()) {
      const auto weight = regularized->orthonormal_weight();
      if (weight.defined()) {
        weights.push_back(weight);
      } else {
        add(regularized->regularization_loss());
      }
    }
  });
  if (!weights.empty()) {
    add(orthonormality_loss(weights));
  }
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
