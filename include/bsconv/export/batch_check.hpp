// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>
#include <torch/types.h>
#include <bsconv/export/onnx_builder.hpp>
#include <bsconv/infer/graph.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

/// \file
/// Which sizes of a captured model depend on the batch size: those that differ in a second run.

namespace bsconv::onnx {

namespace detail {

inline bool same_constant(const c10::IValue& a, const c10::IValue& b) {
  if (a.tagKind() != b.tagKind()) {
    return false;
  }
  if (a.isTensor()) {
    const auto& x = a.toTensor();
    const auto& y = b.toTensor();
    return x.is_same(y) || (x.defined() == y.defined() &&
                            (!x.defined() || (x.scalar_type() == y.scalar_type() && x.equal(y))));
  }
  if (a.isTensorList()) {
    const auto x = a.toTensorVector();
    const auto y = b.toTensorVector();
    bool same = x.size() == y.size();
    for (std::size_t i = 0; same && i < x.size(); ++i) {
      same = same_constant(c10::IValue(x[i]), c10::IValue(y[i]));
    }
    return same;
  }
  return a.isNone() || a.isGenerator() || a.isDevice() || a == b;
}

// Their target is taken from the sizes of their results.
inline bool is_reshape(const std::string& name) {
  static const std::unordered_set<std::string> names = {"view", "_unsafe_view", "reshape",
                                                        "unflatten"};
  return names.count(name) != 0;
}

inline bool is_value(const infer::Node& node, std::size_t argument) {
  for (const auto& value : node.values) {
    if (value[0] == static_cast<int64_t>(argument)) {
      return true;
    }
  }
  return false;
}

inline bool same_arguments(const infer::Node& a, const infer::Node& b) {
  if (a.values != b.values || a.arguments.size() != b.arguments.size()) {
    return false;
  }
  for (std::size_t i = 0; i < a.arguments.size(); ++i) {
    const bool skip = is_value(a, i) || (is_reshape(plain_name(a.source)) && i > 0);
    if (!skip && !same_constant(a.arguments[i], b.arguments[i])) {
      return false;
    }
  }
  return true;
}

}  // namespace detail

/// Tells for each dimension of each value of `first` whether it depends on the batch size, by
/// `second`, the same model captured on a larger batch. Throws if the runs differ in more than
/// sizes.
inline std::vector<std::vector<bool>> varying_sizes(const infer::Graph& first,
                                                    const infer::Graph& second) {
  constexpr const char* advice =
      "export_onnx: what the model does depends on the batch size; use dynamic_batch(false). ";
  TORCH_CHECK(first.nodes.size() == second.nodes.size(), advice, "It ran ", first.nodes.size(),
              " operators first and ", second.nodes.size(), " for one image more");
  for (std::size_t i = 0; i < first.nodes.size(); ++i) {
    const auto& a = first.nodes[i];
    const auto& b = second.nodes[i];
    TORCH_CHECK(a.source == b.source, advice, "Operator ", i + 1, " is ", a.source, " and ",
                b.source, " for one image more");
    TORCH_CHECK(detail::same_arguments(a, b), advice, "An argument of ", a.source, " (operator ",
                i + 1, ") is another for one image more");
  }
  std::vector<std::vector<bool>> varies;
  for (std::size_t value = 0; value < first.values.size(); ++value) {
    const auto& a = first.values[value].sizes;
    const auto& b = second.values.at(value).sizes;
    TORCH_CHECK(a.size() == b.size(), advice, "A result of shape ", torch::IntArrayRef(a), " is ",
                torch::IntArrayRef(b), " for one image more");
    auto& dimensions = varies.emplace_back();
    for (std::size_t d = 0; d < a.size(); ++d) {
      dimensions.push_back(a[d] != b[d]);
    }
  }
  return varies;
}

/// The same for a batch size that stays as it is.
inline std::vector<std::vector<bool>> fixed_sizes(const infer::Graph& graph) {
  std::vector<std::vector<bool>> varies;
  for (const auto& value : graph.values) {
    varies.emplace_back(value.sizes.size(), false);
  }
  return varies;
}

}  // namespace bsconv::onnx
