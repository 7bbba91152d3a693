// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>
#include <torch/nn/module.h>
#include <torch/types.h>
#include <bsconv/export/onnx_model.hpp>
#include <bsconv/infer/graph.hpp>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

/// \file
/// Collects the nodes and weights of an ONNX model while operators are written one by one.

namespace bsconv::onnx {

namespace detail {

/// "aten::relu_" as "relu".
inline std::string plain_name(const std::string& source) {
  std::string name = source.substr(source.find("::") + 2);
  if (name.size() > 1 && name.back() == '_') {
    name.pop_back();
  }
  return name;
}

}  // namespace detail

/// Writes the operators of a captured graph into a model.
class Builder {
 public:
  /// `varies[v][d]` tells whether dimension `d` of value `v` depends on the batch size.
  Builder(const infer::Graph& graph, std::vector<std::vector<bool>> varies,
          const torch::nn::Module& module, int64_t opset, std::string input_name)
      : graph_(graph), varies_(std::move(varies)), names_(graph.values.size()) {
    model.opset = opset;
    names_[graph.input] = std::move(input_name);
    used_.insert(names_[graph.input]);
    for (const auto& item : module.named_parameters()) {
      know(item.value(), item.key());
    }
    for (const auto& item : module.named_buffers()) {
      know(item.value(), item.key());
    }
  }

  /// What has been written.
  Model model;

  /// The operator to write.
  const infer::Node& node() const { return *node_; }
  /// The captured graph.
  const infer::Graph& graph() const { return graph_; }
  /// The argument at `index`; none if the operator has fewer.
  c10::IValue argument(std::size_t index) const {
    return index < node_->arguments.size() ? node_->arguments[index] : c10::IValue();
  }
  /// How many arguments there are.
  std::size_t arguments() const { return node_->arguments.size(); }
  /// The operator's name without its namespace and a final underscore.
  const std::string& name() const { return name_; }
  /// Its overload, such as "dim".
  const std::string& overload() const { return node_->op->operator_name().overload_name; }

  /// Starts with the operator `node`, the `index`th.
  void begin(const infer::Node& node, std::size_t index) {
    node_ = &node;
    index_ = index;
    name_ = detail::plain_name(node.source);
    std::string path = path_of(node);
    if (!path.empty()) {
      last_path_ = path;
    }
    path_ = std::move(path);
  }

  /// Ends with an error that says which operator can't be written, where it is, and why.
  [[noreturn]] void refuse(const std::string& why) const {
    std::string place = "operator " + std::to_string(index_ + 1);
    if (!path_.empty()) {
      place += " in '" + path_ + "'";
    } else if (!last_path_.empty()) {
      place += " after '" + last_path_ + "'";
    }
    TORCH_CHECK(false, "export_onnx: ", node_->source, " (", place, ", ", shapes(), ") ", why);
  }

  /// The value that is the argument at `index` (item `at` of a list), or none.
  std::optional<std::size_t> value(std::size_t index, int64_t at = -1) const {
    for (const auto& [argument, item, value] : node_->values) {
      if (argument == static_cast<int64_t>(index) && item == at) {
        return static_cast<std::size_t>(value);
      }
    }
    return std::nullopt;
  }

  /// Ends with an error if the argument at `index`, a weight, is a value.
  void refuse_value(std::size_t index) const {
    if (value(index)) {
      refuse(
          "takes a weight that the model computes from its input; only constant ones can be "
          "written");
    }
  }

  /// The sizes of the argument at `index`, a tensor.
  std::vector<int64_t> sizes(std::size_t index) const {
    const auto found = value(index);
    return found ? graph_.values[*found].sizes : argument(index).toTensor().sizes().vec();
  }

  /// The sizes of the operator's result.
  const std::vector<int64_t>& result_sizes() const { return graph_.values[result()].sizes; }
  /// The value that the operator makes.
  std::size_t result() const { return node_->outputs.at(0); }
  /// The type of the result's elements.
  torch::ScalarType result_type() const { return graph_.values[result()].dtype; }

  /// `sizes` of `value` with -1 for the one that depends on the batch size. Refuses two.
  std::vector<int64_t> target_sizes(std::size_t value) const {
    auto sizes = graph_.values[value].sizes;
    int64_t varying = 0;
    for (std::size_t d = 0; d < sizes.size(); ++d) {
      if (varies_[value][d]) {
        sizes[d] = -1;
        ++varying;
      }
    }
    if (varying > 1) {
      refuse("makes a shape of which two sizes depend on the batch size; use dynamic_batch(false)");
    }
    return sizes;
  }

  /// Whether dimension `d` of `value` depends on the batch size.
  bool varies(std::size_t value, std::size_t d) const { return varies_[value][d]; }

  /// The ONNX name of the argument at `index` (item `at` of a list), a tensor. A constant of no
  /// dimensions gets the result's type, as LibTorch does with numbers.
  std::string input(std::size_t index, int64_t at = -1) {
    if (const auto found = value(index, at)) {
      return names_[*found];
    }
    const auto tensor = tensor_at(index, at);
    if (tensor.dim() == 0) {
      return constant(tensor.to(result_type()));
    }
    return weight(tensor);
  }

  /// The type of the same argument's elements.
  torch::ScalarType input_type(std::size_t index, int64_t at = -1) const {
    const auto found = value(index, at);
    return found ? graph_.values[*found].dtype : tensor_at(index, at).scalar_type();
  }

  /// The argument in the type of the result.
  std::string input_in_result_type(std::size_t index, int64_t at = -1) {
    if (input_type(index, at) == result_type()) {
      return input(index, at);
    }
    const auto number = element_number(result_type());
    if (!number) {
      refuse(c10::str("makes numbers of type ", result_type(), ", which ONNX has not"));
    }
    return add("Cast", {input(index, at)}, {{"to", int64_t{*number}}});
  }

  /// The name of `tensor`, which belongs to the model: its name in the state dict where it has one.
  std::string weight(const torch::Tensor& tensor) {
    const auto known = weights_.find(tensor.unsafeGetTensorImpl());
    if (known != weights_.end()) {
      return known->second;
    }
    auto name = add_initializer(known_name(tensor), tensor);
    weights_[tensor.unsafeGetTensorImpl()] = name;
    kept_.push_back(tensor);
    return name;
  }

  /// The name of a new weight that is called like `like`, or `otherwise` if that has no name.
  std::string changed_weight(const torch::Tensor& tensor, const torch::Tensor& like,
                             const std::string& otherwise) {
    const auto name = like.defined() ? known_name(like) : std::string();
    return add_initializer(name.empty() ? otherwise : name, tensor);
  }

  /// The parameter of which `tensor` is the transposed view, or an undefined tensor.
  torch::Tensor transposed_parameter(const torch::Tensor& tensor) const {
    const auto found =
        tensor.dim() == 2 ? parameters_.find(tensor.const_data_ptr()) : parameters_.end();
    if (found == parameters_.end()) {
      return {};
    }
    const auto& parameter = found->second.first;
    const bool same = parameter.dim() == 2 && parameter.t().sizes() == tensor.sizes() &&
                      parameter.t().strides() == tensor.strides();
    return same ? parameter : torch::Tensor();
  }

  /// The name of a constant.
  std::string constant(const torch::Tensor& tensor) {
    if (tensor.numel() == 1) {
      std::string key = c10::str(tensor.scalar_type(), tensor.sizes(), ' ');
      const auto plain = tensor.detach().contiguous();
      key.append(static_cast<const char*>(plain.const_data_ptr()), plain.nbytes());
      auto& name = constants_[key];
      if (name.empty()) {
        name = add_initializer("constant", tensor);
      }
      return name;
    }
    return add_initializer("constant", tensor);
  }

  /// The name of a constant number of the result's type.
  std::string number(double value) {
    return constant(torch::tensor(value, torch::kDouble).to(result_type()));
  }
  /// The name of a constant list.
  std::string list(const std::vector<int64_t>& values) {
    return constant(torch::tensor(values, torch::kLong));
  }

  /// Adds a node of `type`; returns the name of its result, a new one.
  std::string add(const std::string& type, std::vector<std::string> inputs,
                  std::map<std::string, Attribute> attributes = {}) {
    std::string output = unique(path_.empty() ? name_ : path_ + "/" + name_);
    add_node(type, std::move(inputs), {output}, std::move(attributes));
    return output;
  }

  /// Adds a node of several results.
  std::vector<std::string> add_many(const std::string& type, std::vector<std::string> inputs,
                                    std::size_t count,
                                    std::map<std::string, Attribute> attributes = {}) {
    std::vector<std::string> outputs;
    for (std::size_t i = 0; i < count; ++i) {
      outputs.push_back(unique(name_));
    }
    add_node(type, std::move(inputs), outputs, std::move(attributes));
    return outputs;
  }

  /// The operator's result (the one at `position`) is what ONNX calls `name`.
  void give(const std::string& name, std::size_t position = 0) {
    names_[node_->outputs.at(position)] = name;
  }

  /// Names the model's result and describes the model's input and output.
  void finish(const std::string& output_name) {
    const std::string made = names_[graph_.output];
    bool produced = false;
    for (const auto& node : model.nodes) {
      for (const auto& name : node.outputs) {
        produced = produced || name == made;
      }
    }
    if (produced) {
      for (auto& node : model.nodes) {
        for (auto* names : {&node.inputs, &node.outputs}) {
          for (auto& name : *names) {
            name = name == made ? output_name : name;
          }
        }
      }
    } else {
      model.nodes.push_back({"Identity", "Identity", {made}, {output_name}, {}});
    }
    model.inputs.push_back(describe(graph_.input, names_[graph_.input]));
    model.outputs.push_back(describe(graph_.output, output_name));
  }

  /// Keeps `name` for the model's result.
  void reserve(const std::string& name) { used_.insert(name); }

 private:
  /// The argument at `index` (item `at` of a list), a tensor.
  torch::Tensor tensor_at(std::size_t index, int64_t at) const {
    const auto& given = argument(index);
    return at < 0 ? given.toTensor() : given.toTensorVector().at(static_cast<std::size_t>(at));
  }

  void know(const torch::Tensor& tensor, const std::string& name) {
    if (tensor.defined() && tensor.has_storage() && tensor.numel() > 0) {
      parameters_.try_emplace(tensor.const_data_ptr(), tensor, name);
    }
  }

  std::string known_name(const torch::Tensor& tensor) const {
    const auto found =
        tensor.has_storage() ? parameters_.find(tensor.const_data_ptr()) : parameters_.end();
    if (found == parameters_.end() || found->second.first.sizes() != tensor.sizes() ||
        found->second.first.strides() != tensor.strides()) {
      return {};
    }
    return found->second.second;
  }

  // The module whose parameter the operator reads.
  std::string path_of(const infer::Node& node) const {
    for (const auto& given : node.arguments) {
      if (!given.isTensor() || !given.toTensor().defined() || !given.toTensor().has_storage()) {
        continue;
      }
      const auto found = parameters_.find(given.toTensor().const_data_ptr());
      if (found != parameters_.end()) {
        const auto dot = found->second.second.rfind('.');
        return dot == std::string::npos ? std::string() : found->second.second.substr(0, dot);
      }
    }
    return {};
  }

  std::string shapes() const {
    std::string text;
    for (const std::size_t input : node_->inputs) {
      text += (text.empty() ? "" : ", ") + c10::str(torch::IntArrayRef(graph_.values[input].sizes));
    }
    text += " -> ";
    for (std::size_t i = 0; i < node_->outputs.size(); ++i) {
      text += (i == 0 ? "" : ", ") +
              c10::str(torch::IntArrayRef(graph_.values[node_->outputs[i]].sizes));
    }
    return text;
  }

  std::string unique(const std::string& name) {
    std::string result = name;
    for (int64_t count = 2; !used_.insert(result).second; ++count) {
      result = name + "_" + std::to_string(count);
    }
    return result;
  }

  std::string add_initializer(const std::string& name, const torch::Tensor& tensor) {
    const auto number = element_number(tensor.scalar_type());
    if (!number) {
      refuse(c10::str("reads a tensor of type ", tensor.scalar_type(), ", which ONNX has not"));
    }
    auto chosen = unique(name.empty() ? "constant" : name);
    model.initializers.push_back(
        {chosen, *number, tensor.sizes().vec(), tensor.detach().contiguous()});
    return chosen;
  }

  void add_node(const std::string& type, std::vector<std::string> inputs,
                std::vector<std::string> outputs, std::map<std::string, Attribute> attributes) {
    model.nodes.push_back({type, "node:" + outputs.front(), std::move(inputs), std::move(outputs),
                           std::move(attributes)});
  }

  ValueInfo describe(std::size_t value, const std::string& name) const {
    ValueInfo info;
    info.name = name;
    const auto& from = graph_.values[value];
    const auto type = element_number(from.dtype);
    TORCH_CHECK(type.has_value(), "export_onnx: the result is of type ", from.dtype,
                ", which ONNX has not");
    info.type = *type;
    for (std::size_t d = 0; d < from.sizes.size(); ++d) {
      const bool is_batch =
          varies_[value][d] && from.sizes[d] == graph_.values[graph_.input].sizes[0];
      info.sizes.push_back({varies_[value][d] ? -1 : from.sizes[d], is_batch ? "batch" : ""});
    }
    return info;
  }

  const infer::Graph& graph_;
  std::vector<std::vector<bool>> varies_;
  std::vector<std::string> names_;
  std::unordered_set<std::string> used_;
  std::unordered_map<const void*, std::pair<torch::Tensor, std::string>> parameters_;
  std::unordered_map<const c10::TensorImpl*, std::string> weights_;
  std::map<std::string, std::string> constants_;
  std::vector<torch::Tensor> kept_;
  const infer::Node* node_ = nullptr;
  std::size_t index_ = 0;
  std::string name_;
  std::string path_;
  std::string last_path_;
};

}  // namespace bsconv::onnx
