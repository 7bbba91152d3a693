// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/types.h>
#include <bsconv/capture/operator_capture.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_set>
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

/// The multiply-adds of one operator, or nothing if its cost is not known.
class CostModel {
 public:
  explicit CostModel(Convention convention) : convention_(convention) {}

  /// Whether the operator is costed as a whole rather than by the operators inside it.
  bool knows(const c10::OperatorHandle& op) const {
    const std::string name = base_name(op);
    return counted_by_reference(name) || products().count(name) != 0 ||
           reductions().count(name) != 0 || name == "softmax" || name == "log_softmax" ||
           name == "layer_norm" || name == "group_norm" || name == "instance_norm" ||
           name == "scaled_dot_product_attention" || movements().count(name) != 0 ||
           is_pointwise(op);
  }

  std::optional<int64_t> operator()(const OperatorCall& call) const {
    const std::string name = base_name(call.op);
    if (counted_by_reference(name)) {
      return reference_cost(name, call);
    }
    if (returns_view(call.op) || movements().count(name) != 0) {
      return 0;
    }
    if (convention_ == Convention::reference) {
      return std::nullopt;
    }
    return complete_cost(name, call);
  }

 private:
  static bool counted_by_reference(const std::string& name) {
    return is_convolution(name) || name == "linear" || is_batch_norm(name) || name == "relu" ||
           is_pool(name);
  }

  static bool is_convolution(const std::string& name) {
    return name == "conv1d" || name == "conv2d" || name == "conv3d" || name == "convolution" ||
           name == "_convolution" || name.rfind("conv_transpose", 0) == 0;
  }

  static bool is_batch_norm(const std::string& name) {
    return name == "batch_norm" || name == "native_batch_norm" || name == "cudnn_batch_norm";
  }

  static bool is_pool(const std::string& name) {
    return name.find("max_pool") != std::string::npos || name.find("avg_pool") != std::string::npos;
  }

  static const std::unordered_set<std::string>& products() {
    static const std::unordered_set<std::string> names = {"mm", "addmm", "bmm",    "baddbmm",
                                                          "mv", "addmv", "matmul", "dot"};
    return names;
  }

  static const std::unordered_set<std::string>& reductions() {
    static const std::unordered_set<std::string> names = {
        "sum",  "mean", "amax", "amin",     "max",    "min",    "norm",   "linalg_vector_norm",
        "prod", "var",  "std",  "var_mean", "argmax", "argmin", "cumsum", "logsumexp"};
    return names;
  }

  static const std::unordered_set<std::string>& movements() {
    static const std::unordered_set<std::string> names = {"cat",
                                                          "stack",
                                                          "pad",
                                                          "constant_pad_nd",
                                                          "clone",
                                                          "copy",
                                                          "contiguous",
                                                          "to",
                                                          "_to_copy",
                                                          "dropout",
                                                          "feature_dropout",
                                                          "flatten",
                                                          "reshape",
                                                          "view",
                                                          "index_select",
                                                          "gather",
                                                          "roll",
                                                          "flip",
                                                          "repeat",
                                                          "empty",
                                                          "zeros",
                                                          "ones",
                                                          "full",
                                                          "empty_like",
                                                          "zeros_like",
                                                          "ones_like",
                                                          "pixel_shuffle",
                                                          "embedding",
                                                          "channel_shuffle",
                                                          "empty_strided",
                                                          "new_empty",
                                                          "new_zeros",
                                                          "arange",
                                                          "reflection_pad2d",
                                                          "replication_pad2d",
                                                          "_pad_circular",
                                                          "alias",
                                                          "detach",
                                                          "fill",
                                                          "zero",
                                                          "lift_fresh"};
    return names;
  }

  static bool is_pointwise(const c10::OperatorHandle& op) {
    // Elementwise, but without the tag in some of their forms.
    static const std::unordered_set<std::string> untagged = {
        "hardswish", "hardtanh", "relu6",       "leaky_relu",          "_prelu_kernel",
        "prelu",     "rsub",     "masked_fill", "log_sigmoid_forward", "rrelu_with_noise"};
    return op.hasTag(at::Tag::pointwise) || untagged.count(base_name(op)) != 0;
  }

  static torch::Tensor tensor(const std::vector<c10::IValue>& values, std::size_t index) {
    return index < values.size() && values[index].isTensor() ? values[index].toTensor()
                                                             : torch::Tensor();
  }

  static int64_t elements(const std::vector<c10::IValue>& values, std::size_t index) {
    const auto value = tensor(values, index);
    return value.defined() ? value.numel() : 0;
  }

  static int64_t reference_cost(const std::string& name, const OperatorCall& call) {
    const auto input = tensor(call.inputs, 0);
    const int64_t results = elements(call.outputs, 0);
    if (is_convolution(name)) {
      const auto weight = tensor(call.inputs, 1);
      const auto output = tensor(call.outputs, 0);
      const bool transposed = name.find("transpose") != std::string::npos;
      // A transposed convolution spreads each input position, a plain one gathers each output's.
      const auto& grid = transposed ? input : output;
      const int64_t spatial = weight.dim() - 2;
      const bool batched = grid.dim() > spatial + 1;
      int64_t positions = batched ? grid.size(0) : 1;
      for (int64_t d = grid.dim() - spatial; d < grid.dim(); ++d) {
        positions *= grid.size(d);
      }
      return positions * weight.numel() + (elements(call.inputs, 2) > 0 ? results : 0);
    }
    if (name == "linear") {
      const auto weight = tensor(call.inputs, 1);
      return input.numel() * (weight.dim() > 1 ? weight.size(0) : 1) +
             (elements(call.inputs, 2) > 0 ? results : 0);
    }
    if (is_batch_norm(name)) {
      return input.numel() * (elements(call.inputs, 1) > 0 ? 2 : 1);
    }
    return name == "relu" ? results : input.numel();
  }

  std::optional<int64_t> complete_cost(const std::string& name, const OperatorCall& call) const {
    const int64_t results = elements(call.outputs, 0);
    if (name == "mm" || name == "bmm" || name == "matmul" || name == "mv" || name == "dot") {
      const auto left = tensor(call.inputs, 0);
      return left.dim() == 0 ? results : results * left.size(-1);
    }
    if (name == "addmm" || name == "baddbmm" || name == "addmv") {
      return results * tensor(call.inputs, 1).size(-1) + results;
    }
    if (name == "scaled_dot_product_attention") {
      const auto query = tensor(call.inputs, 0);
      const auto key = tensor(call.inputs, 1);
      const auto value = tensor(call.inputs, 2);
      const int64_t rows = query.numel() / query.size(-1);
      return rows * key.size(-2) * (query.size(-1) + 3 + value.size(-1));
    }
    if (name == "softmax" || name == "log_softmax" || name == "_softmax" ||
        name == "_log_softmax") {
      return 3 * results;
    }
    if (name == "layer_norm" || name == "group_norm" || name == "instance_norm" ||
        name == "native_layer_norm" || name == "native_group_norm") {
      return 4 * results;
    }
    if (reductions().count(name) != 0) {
      return elements(call.inputs, 0);
    }
    if (is_pointwise(call.op)) {
      return results;
    }
    return std::nullopt;
  }

  Convention convention_;
};

}  // namespace detail

}  // namespace bsconv
