// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

/// \file
/// What an ONNX file says, as plain data.

namespace bsconv::onnx {

/// The types of elements by their numbers in the ONNX format, and their names.
struct ElementType {
  /// The number in the file.
  int32_t number;
  /// LibTorch's type.
  torch::ScalarType type;
};

/// The element types that both ONNX and LibTorch have.
inline const std::vector<ElementType>& element_types() {
  static const std::vector<ElementType> types = {
      {1, torch::kFloat},   {2, torch::kByte},     {3, torch::kChar}, {5, torch::kShort},
      {6, torch::kInt},     {7, torch::kLong},     {9, torch::kBool}, {10, torch::kHalf},
      {11, torch::kDouble}, {16, torch::kBFloat16}};
  return types;
}

/// The number of `type`, or none if ONNX has no such type.
inline std::optional<int32_t> element_number(torch::ScalarType type) {
  for (const auto& item : element_types()) {
    if (item.type == type) {
      return item.number;
    }
  }
  return std::nullopt;
}

/// LibTorch's type with that number, or none.
inline std::optional<torch::ScalarType> element_type(int32_t number) {
  for (const auto& item : element_types()) {
    if (item.number == number) {
      return item.type;
    }
  }
  return std::nullopt;
}

/// The value of an attribute.
using Attribute = std::variant<int64_t, float, std::string, std::vector<int64_t>>;

/// One operation.
struct Node {
  /// Its type, such as "Conv".
  std::string type;
  /// Its name.
  std::string name;
  /// The names of what it reads; an empty one stands for an input that is left out.
  std::vector<std::string> inputs;
  /// The names of what it makes.
  std::vector<std::string> outputs;
  /// Its attributes by name. A reader leaves out those of other types.
  std::map<std::string, Attribute> attributes;
};

/// A tensor that is part of the model.
struct Initializer {
  /// Its name.
  std::string name;
  /// The type of its elements by number; see `element_type`.
  int32_t type = 0;
  /// Its shape.
  std::vector<int64_t> sizes;
  /// Its numbers; undefined if they were read from a file that keeps them elsewhere.
  torch::Tensor data;
};

/// One dimension of an input or output: a number, or a name, or neither.
struct Dimension {
  /// The size, or -1.
  int64_t size = -1;
  /// The name of a size that is known when the model runs.
  std::string name;
};

/// An input or output.
struct ValueInfo {
  /// Its name.
  std::string name;
  /// The type of its elements by number; 0 if it is unknown, as of what is no tensor.
  int32_t type = 0;
  /// Its shape.
  std::vector<Dimension> sizes = {};
  /// Whether the number of its dimensions is known; else `sizes` is empty.
  bool ranked = true;
};

/// A model.
struct Model {
  /// The version of the file format.
  int64_t ir_version = 0;
  /// The version of the default operator set.
  int64_t opset = 0;
  /// Who wrote it.
  std::string producer;
  /// The writer's version.
  std::string producer_version;
  /// The name of its graph.
  std::string graph_name;
  /// Its operations, producers first.
  std::vector<Node> nodes;
  /// Its weights.
  std::vector<Initializer> initializers;
  /// What it takes.
  std::vector<ValueInfo> inputs;
  /// What it returns.
  std::vector<ValueInfo> outputs;
  /// Texts by name.
  std::vector<std::pair<std::string, std::string>> metadata;
};

}  // namespace bsconv::onnx
