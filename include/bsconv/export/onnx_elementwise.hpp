// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/export/onnx_builder.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

/// \file
/// Activations, arithmetic and reductions as ONNX.

namespace bsconv::onnx::detail {

/// An operator that ONNX has without attributes.
inline void write_unary(Builder& to, const std::string& type) {
  to.give(to.add(type, {to.input(0)}));
}

inline double double_of(const c10::IValue& argument) { return argument.toScalar().toDouble(); }

inline void write_hardsigmoid(Builder& to) {
  to.give(to.add("HardSigmoid", {to.input(0)}, {{"alpha", 1.0F / 6.0F}, {"beta", 0.5F}}));
}

inline void write_silu(Builder& to) {
  to.give(to.add("Mul", {to.input(0), to.add("Sigmoid", {to.input(0)})}));
}

inline void write_mish(Builder& to) {
  const auto soft = to.add("Tanh", {to.add("Softplus", {to.input(0)})});
  to.give(to.add("Mul", {to.input(0), soft}));
}

// x / 2 * (1 + erf(x / sqrt(2)))
inline void write_gelu(Builder& to) {
  if (to.argument(1).toStringRef() != "none") {
    to.refuse("is an approximation of GELU that has no ONNX operator; use the exact one");
  }
  const auto scaled = to.add("Mul", {to.input(0), to.number(std::sqrt(0.5))});
  const auto sum = to.add("Add", {to.add("Erf", {scaled}), to.number(1.0)});
  to.give(to.add("Mul", {to.add("Mul", {to.input(0), to.number(0.5)}), sum}));
}

inline void write_elu(Builder& to) {
  if (double_of(to.argument(2)) != 1.0 || double_of(to.argument(3)) != 1.0) {
    to.refuse("has scales other than 1, which ONNX has not");
  }
  to.give(to.add("Elu", {to.input(0)}, {{"alpha", static_cast<float>(double_of(to.argument(1)))}}));
}

inline void write_leaky_relu(Builder& to) {
  to.give(to.add("LeakyRelu", {to.input(0)},
                 {{"alpha", static_cast<float>(double_of(to.argument(1)))}}));
}

inline void write_softplus(Builder& to) {
  if (double_of(to.argument(1)) != 1.0) {
    to.refuse("has a beta other than 1, which ONNX has not");
  }
  to.give(to.add("Softplus", {to.input(0)}));
}

inline void write_prelu(Builder& to) {
  to.refuse_value(1);
  const auto slope = to.argument(1).toTensor();
  std::vector<int64_t> shape(to.sizes(0).size() - 1, 1);
  if (!shape.empty()) {
    shape[0] = slope.numel();
  }
  to.give(to.add("PRelu", {to.input(0), to.changed_weight(slope.view(shape), slope, "slope")}));
}

inline void write_softmax(Builder& to, const std::string& type) {
  to.give(to.add(type, {to.input_in_result_type(0)}, {{"axis", to.argument(1).toInt()}}));
}

// Limits by numbers; a missing one is left out.
inline void write_clip(Builder& to) {
  std::string low;
  std::string high;
  const auto bound = [&](std::size_t index) {
    const auto given = to.argument(index);
    if (given.isTensor()) {
      to.refuse("has tensors as limits, which ONNX has not");
    }
    return given.isScalar() ? to.number(double_of(given)) : std::string();
  };
  if (to.name() == "relu6") {
    low = to.number(0);
    high = to.number(6);
  } else if (to.name() == "clamp_max") {
    high = bound(1);
  } else {
    low = bound(1);
    high = to.name() == "clamp_min" ? std::string() : bound(2);
  }
  std::vector<std::string> inputs = {to.input(0), low};
  if (!high.empty()) {
    inputs.push_back(high);
  }
  to.give(to.add("Clip", inputs));
}

// An operand: a tensor, or a number of the result's type.
inline std::string operand(Builder& to, std::size_t index) {
  const auto given = to.argument(index);
  if (given.isScalar()) {
    return to.number(double_of(given));
  }
  const auto type = to.input_type(index);
  const bool is_number = !to.value(index) && given.toTensor().dim() == 0;
  if (type != to.result_type() && !is_number) {
    to.refuse(c10::str("mixes ", type, " and ", to.result_type(), ", which ONNX does not"));
  }
  return to.input(index);
}

inline void write_binary(Builder& to, const std::string& type) {
  if (type == "Div" && to.arguments() > 2 && !to.argument(2).isNone()) {
    to.refuse("rounds, for which there is no ONNX operator");
  }
  std::string second = operand(to, 1);
  if ((type == "Add" || type == "Sub") && to.argument(2).isScalar() &&
      double_of(to.argument(2)) != 1.0) {
    second = to.add("Mul", {second, to.number(double_of(to.argument(2)))});
  }
  to.give(to.add(type, {operand(to, 0), second}));
}

inline void write_square(Builder& to) { to.give(to.add("Mul", {to.input(0), to.input(0)})); }

inline void write_rsqrt(Builder& to) {
  to.give(to.add("Reciprocal", {to.add("Sqrt", {to.input(0)})}));
}

// Over some dimensions (overload dim) or all of them.
inline void write_reduction(Builder& to, const std::string& type) {
  const bool some = to.argument(1).isIntList();
  const auto axes = some ? to.argument(1).toIntVector() : std::vector<int64_t>{};
  // Without dimensions there may be no such argument, or the result's type in its place.
  const bool keeps = to.arguments() > 2 && to.argument(2).isBool() && to.argument(2).toBool();
  const int64_t keep = keeps ? 1 : 0;
  std::vector<std::string> inputs = {to.input_in_result_type(0)};
  std::map<std::string, Attribute> attributes = {{"keepdims", keep}};
  // Axes became an input: of the sum first, of the others later.
  if (!axes.empty() && (to.model.opset >= 18 || type == "ReduceSum")) {
    inputs.push_back(to.list(axes));
  } else if (!axes.empty()) {
    attributes["axes"] = axes;
  }
  to.give(to.add(type, inputs, attributes));
}

}  // namespace bsconv::onnx::detail
