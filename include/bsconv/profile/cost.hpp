// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/types.h>
#include <bsconv/capture/operator_capture.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace bsconv {

/// How multiply-adds are counted.
enum class Convention {
  /// As the Python package and the published tables do: convolutions, linear layers, batch
  /// normalizations, ReLU and pooling; all other operators count 0.
  reference,
  /// Every operator: besides these, products of matrices, elementwise operators one a result,
  /// reductions one an element read, softmax three an element. Moving data counts 0.
  complete,
};

namespace detail {

/// The name of an operator without namespace, overload and the mark of its in-place form.
inline std::string base_name(const c10::OperatorHandle& op) {
  std::string name = op.schema().name();
  if (const auto colons = name.rfind("::"); colons != std::string::npos) {
    name = name.substr(colons + 2);
  }
  if (name.size() > 1 && name.back() == '_' && name[name.size() - 2] != '_') {
    name.pop_back();
  }
  return name;
}

/// What an operator does, as far as its cost depends on it.
enum class OperatorKind {
  // Counted in both conventions.
  convolution,
  transposed_convolution,
  /// `aten::convolution`, whose argument says whether it is transposed.
  any_convolution,
  linear,
  batch_norm,
  relu,
  pool,
  // Counted in the complete convention only.
  product,
  product_and_sum,
  attention,
  softmax,
  normalization,
  reduction,
  pointwise,
  // Counted as 0.
  movement,
  /// Not counted.
  unknown,
};

/// What `op` does.
inline OperatorKind operator_kind(const c10::OperatorHandle& op) {
  using Kind = OperatorKind;
  static const std::unordered_map<std::string, OperatorKind> kinds = {
      {"conv1d", Kind::convolution},
      {"conv2d", Kind::convolution},
      {"conv3d", Kind::convolution},
      {"conv_transpose1d", Kind::transposed_convolution},
      {"conv_transpose2d", Kind::transposed_convolution},
      {"conv_transpose3d", Kind::transposed_convolution},
      {"convolution", Kind::any_convolution},
      {"_convolution", Kind::any_convolution},
      {"linear", Kind::linear},
      {"batch_norm", Kind::batch_norm},
      {"native_batch_norm", Kind::batch_norm},
      {"cudnn_batch_norm", Kind::batch_norm},
      {"relu", Kind::relu},
      {"mm", Kind::product},
      {"bmm", Kind::product},
      {"matmul", Kind::product},
      {"mv", Kind::product},
      {"dot", Kind::product},
      {"addmm", Kind::product_and_sum},
      {"baddbmm", Kind::product_and_sum},
      {"addmv", Kind::product_and_sum},
      {"scaled_dot_product_attention", Kind::attention},
      {"softmax", Kind::softmax},
      {"_softmax", Kind::softmax},
      {"log_softmax", Kind::softmax},
      {"_log_softmax", Kind::softmax},
      {"layer_norm", Kind::normalization},
      {"native_layer_norm", Kind::normalization},
      {"group_norm", Kind::normalization},
      {"native_group_norm", Kind::normalization},
      {"instance_norm", Kind::normalization},
      {"sum", Kind::reduction},
      {"mean", Kind::reduction},
      {"amax", Kind::reduction},
      {"amin", Kind::reduction},
      {"max", Kind::reduction},
      {"min", Kind::reduction},
      {"norm", Kind::reduction},
      {"linalg_vector_norm", Kind::reduction},
      {"prod", Kind::reduction},
      {"var", Kind::reduction},
      {"std", Kind::reduction},
      {"var_mean", Kind::reduction},
      {"argmax", Kind::reduction},
      {"argmin", Kind::reduction},
      {"cumsum", Kind::reduction},
      {"logsumexp", Kind::reduction},
      // Elementwise, but without the tag in some of their forms.
      {"hardswish", Kind::pointwise},
      {"hardtanh", Kind::pointwise},
      {"relu6", Kind::pointwise},
      {"leaky_relu", Kind::pointwise},
      {"_prelu_kernel", Kind::pointwise},
      {"prelu", Kind::pointwise},
      {"rsub", Kind::pointwise},
      {"masked_fill", Kind::pointwise},
      {"log_sigmoid_forward", Kind::pointwise},
      {"rrelu_with_noise", Kind::pointwise},
      {"cat", Kind::movement},
      {"stack", Kind::movement},
      {"pad", Kind::movement},
      {"constant_pad_nd", Kind::movement},
      {"clone", Kind::movement},
      {"copy", Kind::movement},
      {"contiguous", Kind::movement},
      {"to", Kind::movement},
      {"_to_copy", Kind::movement},
      {"dropout", Kind::movement},
      {"feature_dropout", Kind::movement},
      {"flatten", Kind::movement},
      {"reshape", Kind::movement},
      {"view", Kind::movement},
      {"index_select", Kind::movement},
      {"gather", Kind::movement},
      {"roll", Kind::movement},
      {"flip", Kind::movement},
      {"repeat", Kind::movement},
      {"empty", Kind::movement},
      {"zeros", Kind::movement},
      {"ones", Kind::movement},
      {"full", Kind::movement},
      {"empty_like", Kind::movement},
      {"zeros_like", Kind::movement},
      {"ones_like", Kind::movement},
      {"pixel_shuffle", Kind::movement},
      {"embedding", Kind::movement},
      {"channel_shuffle", Kind::movement},
      {"empty_strided", Kind::movement},
      {"new_empty", Kind::movement},
      {"new_zeros", Kind::movement},
      {"arange", Kind::movement},
      {"reflection_pad2d", Kind::movement},
      {"replication_pad2d", Kind::movement},
      {"_pad_circular", Kind::movement},
      {"alias", Kind::movement},
      {"detach", Kind::movement},
      {"fill", Kind::movement},
      {"zero", Kind::movement},
      {"lift_fresh", Kind::movement},
  };
  const std::string name = base_name(op);
  if (const auto found = kinds.find(name); found != kinds.end()) {
    return found->second;
  }
  if (name.find("max_pool") != std::string::npos || name.find("avg_pool") != std::string::npos) {
    return Kind::pool;
  }
  return op.hasTag(at::Tag::pointwise) ? Kind::pointwise : Kind::unknown;
}

/// The multiply-adds of one operator, or nothing if its cost is not known.
class CostModel {
 public:
  explicit CostModel(Convention convention) : convention_(convention) {}

  /// Whether the operator is costed as a whole rather than by the operators inside it.
  static bool knows(const c10::OperatorHandle& op) {
    return operator_kind(op) != OperatorKind::unknown;
  }

  std::optional<int64_t> operator()(const OperatorCall& call) const {
    const auto kind = operator_kind(call.op);
    if (const auto cost = reference_cost(kind, call)) {
      return cost;
    }
    if (kind == OperatorKind::movement || returns_view(call.op)) {
      return 0;
    }
    return convention_ == Convention::complete ? complete_cost(kind, call) : std::nullopt;
  }

 private:
  static torch::Tensor tensor(const std::vector<c10::IValue>& values, std::size_t index) {
    return index < values.size() && values[index].isTensor() ? values[index].toTensor()
                                                             : torch::Tensor();
  }

  static int64_t elements(const std::vector<c10::IValue>& values, std::size_t index) {
    const auto value = tensor(values, index);
    return value.defined() ? value.numel() : 0;
  }

  static bool is_transposed(OperatorKind kind, const OperatorCall& call) {
    // Behind input, weight, bias, stride, padding and dilation.
    return kind == OperatorKind::transposed_convolution ||
           (kind == OperatorKind::any_convolution && call.inputs.at(6).toBool());
  }

  static int64_t convolution_cost(bool transposed, const OperatorCall& call) {
    const auto weight = tensor(call.inputs, 1);
    // A transposed convolution spreads each input position, a plain one gathers each output's.
    const auto grid = transposed ? tensor(call.inputs, 0) : tensor(call.outputs, 0);
    const int64_t spatial = weight.dim() - 2;
    const bool batched = grid.dim() > spatial + 1;
    int64_t positions = batched ? grid.size(0) : 1;
    for (int64_t d = grid.dim() - spatial; d < grid.dim(); ++d) {
      positions *= grid.size(d);
    }
    return positions * weight.numel() + bias_cost(call);
  }

  // One addition a result, if there is a bias behind input and weight.
  static int64_t bias_cost(const OperatorCall& call) {
    return elements(call.inputs, 2) > 0 ? elements(call.outputs, 0) : 0;
  }

  /// What both conventions count.
  static std::optional<int64_t> reference_cost(OperatorKind kind, const OperatorCall& call) {
    const int64_t read = elements(call.inputs, 0);
    switch (kind) {
      case OperatorKind::convolution:
      case OperatorKind::transposed_convolution:
      case OperatorKind::any_convolution:
        return convolution_cost(is_transposed(kind, call), call);
      case OperatorKind::linear: {
        const auto weight = tensor(call.inputs, 1);
        return read * (weight.dim() > 1 ? weight.size(0) : 1) + bias_cost(call);
      }
      case OperatorKind::batch_norm:
        return read * (elements(call.inputs, 1) > 0 ? 2 : 1);
      case OperatorKind::relu:
        return elements(call.outputs, 0);
      case OperatorKind::pool:
        return read;
      default:
        return std::nullopt;
    }
  }

  /// What only the complete convention counts.
  static std::optional<int64_t> complete_cost(OperatorKind kind, const OperatorCall& call) {
    const int64_t results = elements(call.outputs, 0);
    switch (kind) {
      case OperatorKind::product: {
        const auto left = tensor(call.inputs, 0);
        return left.dim() == 0 ? results : results * left.size(-1);
      }
      case OperatorKind::product_and_sum:
        return results * tensor(call.inputs, 1).size(-1) + results;
      case OperatorKind::attention: {
        const auto query = tensor(call.inputs, 0);
        const auto key = tensor(call.inputs, 1);
        const auto value = tensor(call.inputs, 2);
        const int64_t rows = query.numel() / query.size(-1);
        return rows * key.size(-2) * (query.size(-1) + 3 + value.size(-1));
      }
      case OperatorKind::softmax:
        return 3 * results;
      case OperatorKind::normalization:
        return 4 * results;
      case OperatorKind::reduction:
        return elements(call.inputs, 0);
      case OperatorKind::pointwise:
        return results;
      default:
        return std::nullopt;
    }
  }

  Convention convention_;
};

}  // namespace detail

}  // namespace bsconv
