// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/capture/operator_capture.hpp>
#include <bsconv/infer/graph.hpp>
#include <bsconv/infer/value_tracker.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::infer::detail {

inline bool is_double_pair(const c10::IValue& low, const c10::IValue& high, double a, double b) {
  const auto equals = [](const c10::IValue& value, double wanted) {
    return value.isScalar() && value.toScalar().toDouble() == wanted;
  };
  return equals(low, a) && equals(high, b);
}

/// Writes operators of LibTorch's as operations of a graph.
class Lowering : public ValueTracker {
 protected:
  Lowering() = default;

  // Fills in `node` if the operator is one that the plan knows.
  bool lower(const OperatorCall& call, Node& node) {
    const auto& in = call.inputs;
    if (call.op.schema().name() == "aten::addmm" && lower_addmm(call, node)) {
      return true;
    }
    if (call.outputs.size() != 1 || !call.outputs[0].isTensor() || in.empty() ||
        !in[0].isTensor() || !find(in[0].toTensor())) {
      return false;
    }
    const auto& output = call.outputs[0].toTensor();
    const auto& input = value_of(in[0]);
    if (!input.image || output.scalar_type() != torch::kFloat) {
      return false;
    }
    const std::string& full = call.op.operator_name().name;
    const std::string space = "aten::";
    if (output.numel() == 0 || full.compare(0, space.size(), space) != 0) {
      return false;
    }
    std::string name = full.substr(space.size());
    if (name.size() > 1 && name.back() == '_') {
      name.pop_back();
    }
    if (!lower_known(name, call, output, input, node)) {
      node.origin.clear();
      return false;
    }
    node.inputs.insert(node.inputs.begin(), *find(in[0].toTensor()));
    note_operator(call, node);
    node.results = {{0, -1}};
    make(node, output);
    return true;
  }

  void keep_as_it_is(const OperatorCall& call, Node& node) {
    Node kept;
    kept.source = node.source;
    kept.reason = node.reason.empty() ? "not an operator of the plan" : node.reason;
    node = std::move(kept);
    note_operator(call, node);
    for (const auto& value : node.values) {
      node.inputs.push_back(static_cast<std::size_t>(value[2]));
    }
    for (const auto& input : call.inputs) {
      for_each_tensor(input, [&](const torch::Tensor& tensor, int64_t) {
        if (!find(tensor)) {
          constant(c10::IValue(tensor), node);
        }
      });
    }
    for (std::size_t i = 0; i < call.outputs.size(); ++i) {
      bool tensors = false;
      for_each_tensor(call.outputs[i], [&](const torch::Tensor& tensor, int64_t at) {
        make(node, tensor);
        node.results.push_back({static_cast<int64_t>(i), at});
        tensors = true;
      });
      if (!tensors && !call.outputs[i].isNone() && !call.outputs[i].isTensor()) {
        throw NotCapturable(call.op.schema().name() +
                            " reads a number out of a tensor, on which the model may depend");
      }
    }
  }

 private:
  static std::array<int64_t, 2> pair_of(const c10::IValue& argument) {
    const auto list = bsconv::detail::numbers(argument, 2);
    return {list.at(0), list.at(1)};
  }

  const Value& value_of(const c10::IValue& argument) const {
    return graph.values[*find(argument.toTensor())];
  }

  // A number that weights are made of.
  static void note_number(double number, Node& node) {
    node.origin.push_back(std::bit_cast<int64_t>(number));
  }

  bool lower_known(const std::string& name, const OperatorCall& call, const torch::Tensor& output,
                   const Value& input, Node& node) {
    const auto& in = call.inputs;
    if (name == "conv2d") {
      return lower_convolution(in, output, input, node);
    }
    if (name == "linear") {
      return lower_linear(in[1], in[2], false, input, node);
    }
    if (name == "matmul" || name == "mm") {
      return lower_linear(in[1], c10::IValue(), true, input, node);
    }
    if (name == "batch_norm" && input.sizes.size() == 4) {
      return lower_batch_norm(in, node);
    }
    if (name == "relu" || name == "relu6" || name == "hardswish" || name == "hardsigmoid" ||
        name == "hardtanh" || name == "clamp" || name == "clamp_min") {
      return lower_activation(name, in, node);
    }
    if (name == "add" || name == "mul" || name == "div" || name == "sub") {
      return lower_arithmetic(name, in, output, input, node);
    }
    if (name == "adaptive_avg_pool2d" || name == "avg_pool2d" || name == "max_pool2d" ||
        name == "mean") {
      return lower_pool(name, in, output, input, node);
    }
    if (name == "dropout" || name == "feature_dropout" || name == "contiguous" ||
        name == "detach" || name == "alias" || name == "clone" || name == "flatten" ||
        name == "view" || name == "reshape" || name == "squeeze" || name == "_unsafe_view" ||
        name == "to") {
      return lower_alias(name, in, output, input, node);
    }
    return false;
  }

  bool lower_convolution(const std::vector<c10::IValue>& in, const torch::Tensor& output,
                         const Value& input, Node& node) {
    if (input.sizes.size() != 4 || !is_constant(in[1]) || !is_constant(in[2])) {
      return false;
    }
    node.kind = NodeKind::convolution;
    node.weight = constant(in[1], node).to(torch::kDouble);
    node.stride = pair_of(in[3]);
    node.dilation = pair_of(in[5]);
    node.groups = in[6].toInt();
    node.kernel = {node.weight.size(2), node.weight.size(3)};
    if (in[4].isString()) {
      for (std::size_t d = 0; d < 2; ++d) {
        // LibTorch pads one more at the end where the total is odd.
        node.padding[d] =
            in[4].toStringRef() == "same" ? node.dilation[d] * (node.kernel[d] - 1) / 2 : 0;
      }
    } else {
      node.padding = pair_of(in[4]);
    }
    if (node.groups != 1 && !node.is_depthwise()) {
      node.weight = torch::Tensor();
      node.reason = "a convolution with " + std::to_string(node.groups) + " groups";
      return false;
    }
    set_bias(in[2], output.size(1), node);
    return true;
  }

  void set_bias(const c10::IValue& argument, int64_t channels, Node& node) {
    const auto bias = constant(argument, node);
    node.bias = bias.defined() ? bias.to(torch::kDouble).expand({channels})
                               : torch::zeros({channels}, torch::kDouble);
  }

  // `x W^T + bias`, or `x W + bias` if `transposed`.
  bool lower_linear(const c10::IValue& matrix, const c10::IValue& bias, bool transposed,
                    const Value& input, Node& node) {
    if (input.sizes.size() != 2 || !is_constant(matrix) || !is_constant(bias) ||
        !matrix.isTensor() || matrix.toTensor().dim() != 2 ||
        (bias.isTensor() && bias.toTensor().dim() != 1)) {
      return false;
    }
    node.kind = NodeKind::convolution;
    const auto weight = constant(matrix, node).to(torch::kDouble);
    node.origin.push_back(transposed ? 1 : 0);
    node.weight = (transposed ? weight.t() : weight).unsqueeze(-1).unsqueeze(-1);
    set_bias(bias, node.weight.size(0), node);
    return true;
  }

  // The form in which LibTorch's linear layers run: bias + x W.
  bool lower_addmm(const OperatorCall& call, Node& node) {
    const auto& in = call.inputs;
    if (!is_constant(in[0]) || !in[1].isTensor() || !find(in[1].toTensor()) ||
        !is_double_pair(in[3], in[4], 1.0, 1.0)) {
      return false;
    }
    const std::size_t id = *find(in[1].toTensor());
    if (!graph.values[id].image || !lower_linear(in[2], in[0], true, graph.values[id], node)) {
      return false;
    }
    node.inputs = {id};
    note_operator(call, node);
    node.results = {{0, -1}};
    make(node, call.outputs[0].toTensor());
    return true;
  }

  bool lower_batch_norm(const std::vector<c10::IValue>& in, Node& node) {
    if (in[5].toBool() || in[3].isNone()) {
      node.reason = "a batch normalization without running statistics";
      return false;
    }
    for (const std::size_t index : {1, 2, 3, 4}) {
      if (!is_constant(in[index])) {
        node.reason = "a batch normalization by what is computed from the input";
        return false;
      }
    }
    node.kind = NodeKind::affine;
    const auto weight = constant(in[1], node);
    const auto bias = constant(in[2], node);
    const auto mean = constant(in[3], node).to(torch::kDouble);
    note_number(in[7].toDouble(), node);
    node.scale = (constant(in[4], node).to(torch::kDouble) + in[7].toDouble()).rsqrt();
    if (weight.defined()) {
      node.scale = node.scale * weight.to(torch::kDouble);
    }
    node.bias = -mean * node.scale;
    if (bias.defined()) {
      node.bias = node.bias + bias.to(torch::kDouble);
    }
    return true;
  }

  static bool lower_activation(const std::string& name, const std::vector<c10::IValue>& in,
                               Node& node) {
    using kernels::Activation;
    node.kind = NodeKind::activation;
    const auto is_zero = [](const c10::IValue& bound) {
      return bound.isScalar() && bound.toScalar().toDouble() == 0.0;
    };
    if (name == "relu" || (name == "clamp_min" && is_zero(in[1])) ||
        (name == "clamp" && is_zero(in[1]) && in[2].isNone())) {
      node.after = Activation::relu;
    } else if (name == "hardswish") {
      node.after = Activation::hardswish;
    } else if (name == "hardsigmoid") {
      node.after = Activation::hardsigmoid;
    } else if (name == "relu6" || (in.size() > 2 && is_double_pair(in[1], in[2], 0.0, 6.0))) {
      node.after = Activation::relu6;
    } else {
      node.reason = name + " with other bounds than 0 and 6";
      return false;
    }
    return true;
  }

  // x + y, x * gate, and x with a number.
  bool lower_arithmetic(const std::string& name, const std::vector<c10::IValue>& in,
                        const torch::Tensor& output, const Value& input, Node& node) {
    if (in.size() < 2 || input.sizes != output.sizes().vec() ||
        (in.size() > 2 && (!in[2].isScalar() || in[2].toScalar().toDouble() != 1.0))) {
      return false;
    }
    if (in[1].isScalar() ||
        (in[1].isTensor() && !find(in[1].toTensor()) && in[1].toTensor().dim() == 0)) {
      const double number =
          in[1].isScalar() ? in[1].toScalar().toDouble() : constant(in[1], node).item().toDouble();
      const double scale = name == "mul" ? number : name == "div" ? 1.0 / number : 1.0;
      const double shift = name == "add" ? number : name == "sub" ? -number : 0.0;
      node.kind = NodeKind::affine;
      note_number(scale, node);
      note_number(shift, node);
      node.scale = torch::full({input.sizes[1]}, scale, torch::kDouble);
      node.bias = torch::full({input.sizes[1]}, shift, torch::kDouble);
      return std::isfinite(scale);
    }
    const auto other = in[1].isTensor() ? find(in[1].toTensor()) : std::nullopt;
    // The bias of a linear layer, added on its own.
    if (!other && name == "add" && input.sizes.size() == 2 && in[1].isTensor() &&
        in[1].toTensor().dim() == 1) {
      node.kind = NodeKind::affine;
      node.bias = constant(in[1], node).to(torch::kDouble).expand({input.sizes[1]});
      node.scale = torch::ones({input.sizes[1]}, torch::kDouble);
      return true;
    }
    if (!other || !graph.values[*other].image) {
      return false;
    }
    const auto& sizes = graph.values[*other].sizes;
    if (name == "add" && sizes == input.sizes) {
      node.kind = NodeKind::add;
      node.inputs = {*other};
      return true;
    }
    const bool is_gate = sizes.size() == 4 && input.sizes.size() == 4 &&
                         sizes[0] == input.sizes[0] && sizes[1] == input.sizes[1] &&
                         sizes[2] == 1 && sizes[3] == 1;
    if (name == "mul" && is_gate) {
      node.kind = NodeKind::gate;
      node.inputs = {*other};
      return true;
    }
    return false;
  }

  static bool lower_pool(const std::string& name, const std::vector<c10::IValue>& in,
                         const torch::Tensor& output, const Value& input, Node& node) {
    if (input.sizes.size() != 4) {
      return false;
    }
    node.kind = NodeKind::pool;
    const std::array<int64_t, 2> size{input.sizes[2], input.sizes[3]};
    if (name == "mean") {
      auto dims = in[1].isIntList() ? in[1].toIntVector() : std::vector<int64_t>{};
      std::for_each(dims.begin(), dims.end(), [](int64_t& dim) { dim += dim < 0 ? 4 : 0; });
      std::sort(dims.begin(), dims.end());
      node.kernel = size;
      return dims == std::vector<int64_t>{2, 3} && output.dim() == (in[2].toBool() ? 4 : 2);
    }
    if (name == "adaptive_avg_pool2d") {
      for (std::size_t d = 0; d < 2; ++d) {
        const int64_t wanted = output.size(static_cast<int64_t>(d) + 2);
        if (size[d] % wanted != 0) {
          node.reason = "adaptive pooling to a size that does not divide the input's";
          return false;
        }
        node.kernel[d] = node.stride[d] = size[d] / wanted;
      }
      return true;
    }
    node.kernel = pair_of(in[1]);
    node.stride = in[2].toIntVector().empty() ? node.kernel : pair_of(in[2]);
    node.padding = pair_of(in[3]);
    if (name == "max_pool2d") {
      node.greatest = true;
      node.dilation = pair_of(in[4]);
    } else {
      node.count_padding = in[5].toBool();
      node.divisor = in[6].isNone() ? 0 : in[6].toInt();
    }
    return true;
  }

  // Operators that leave the numbers as they are. A dropout that is off is one of them.
  static bool lower_alias(const std::string& name, const std::vector<c10::IValue>& in,
                          const torch::Tensor& output, const Value& input, Node& node) {
    node.kind = NodeKind::alias;
    if (name == "dropout" || name == "feature_dropout") {
      return !in[2].toBool();
    }
    const auto sizes = output.sizes().vec();
    if (sizes == input.sizes) {
      return true;
    }
    // [N, C, H, W] as [N, C * H * W] or, with one pixel, the other way round.
    const auto pixels = [](const std::vector<int64_t>& shape) {
      return shape.size() == 4 ? shape[2] * shape[3] : 1;
    };
    if (sizes.size() == 2 && input.sizes.size() == 4 && sizes[0] == input.sizes[0] &&
        sizes[1] == input.sizes[1] * pixels(input.sizes)) {
      return true;
    }
    return sizes.size() == 4 && input.sizes.size() == 2 && sizes[0] == input.sizes[0] &&
           sizes[1] == input.sizes[1] && pixels(sizes) == 1;
  }

  // What will not stay as it is: what the model made in this run, and memory that is not
  // LibTorch's.
  bool may_change(const torch::Tensor& tensor) const {
    return !find(tensor) && (is_derived(tensor) || is_foreign(tensor));
  }

  // An argument to keep.
  c10::IValue as_it_was(const c10::IValue& argument) const {
    const auto keep = [this](const torch::Tensor& tensor) {
      return tensor.defined() && may_change(tensor) ? tensor.clone() : tensor;
    };
    if (argument.isTensor()) {
      return keep(argument.toTensor());
    }
    if (argument.isOptionalTensorList()) {
      c10::List<std::optional<torch::Tensor>> kept;
      for (auto tensor : argument.toOptionalTensorVector()) {
        if (tensor) {
          tensor = keep(*tensor);
        }
        kept.push_back(std::move(tensor));
      }
      return kept;
    }
    if (!argument.isTensorList()) {
      return argument;
    }
    auto tensors = argument.toTensorVector();
    std::transform(tensors.begin(), tensors.end(), tensors.begin(), keep);
    return tensors;
  }

  // Remembers the operator itself, for LibTorch to run it or for another format.
  void note_operator(const OperatorCall& call, Node& node) {
    node.op = call.op;
    for (const auto& input : call.inputs) {
      node.arguments.push_back(as_it_was(input));
    }
    const auto& arguments = call.op.schema().arguments();
    for (std::size_t i = 0; i < call.inputs.size(); ++i) {
      for_each_tensor(call.inputs[i], [&](const torch::Tensor& tensor, int64_t at) {
        if (const auto value = find(tensor)) {
          node.values.push_back({static_cast<int64_t>(i), at, static_cast<int64_t>(*value)});
        }
      });
      const auto* alias = i < arguments.size() ? arguments[i].alias_info() : nullptr;
      if (alias != nullptr && alias->isWrite()) {
        node.writes = static_cast<int64_t>(i);
      }
    }
  }
};

}  // namespace bsconv::infer::detail
