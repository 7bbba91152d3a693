// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/infer/graph.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

/// \file
/// What planners for any device find in a graph.

namespace bsconv::infer {

/// No node.
inline constexpr std::size_t no_node = static_cast<std::size_t>(-1);

/// How many pixels an image of `sizes`, `[N, C, H, W]` or `[N, C]`, has.
inline int64_t pixel_count(const std::vector<int64_t>& sizes) {
  return sizes.size() == 4 ? sizes[2] * sizes[3] : 1;
}

/// For each value the one whose numbers it has: itself unless an alias made it. An alias that puts
/// several pixels into one row is one only if `fits(node)`; otherwise LibTorch runs it, for
/// `reason`.
template <class Fits>
std::vector<std::size_t> find_roots(Graph& graph, Fits&& fits, const char* reason) {
  std::vector<std::size_t> roots(graph.values.size());
  for (std::size_t value = 0; value < roots.size(); ++value) {
    roots[value] = value;
  }
  for (auto& node : graph.nodes) {
    if (node.removed || node.kind != NodeKind::alias) {
      continue;
    }
    const std::size_t output = node.outputs[0];
    if (pixel_count(graph.values[node.inputs[0]].sizes) !=
            pixel_count(graph.values[output].sizes) &&
        !fits(node)) {
      node.kind = NodeKind::other;
      node.reason = reason;
      continue;
    }
    roots[output] = roots[node.inputs[0]];
  }
  return roots;
}

/// Which layers run together.
struct Pairs {
  /// For each node, if it is depthwise, the pointwise convolution before it that runs with it, or
  /// `no_node`.
  std::vector<std::size_t> partner;
  /// For each node whether it is such a partner.
  std::vector<bool> joined;
};

/// Finds pointwise convolutions that run together with the depthwise one behind them: those for
/// which `joins(node)` says so.
template <class Joins>
Pairs find_pairs(Graph& graph, Joins&& joins) {
  Pairs pairs;
  pairs.partner.assign(graph.nodes.size(), no_node);
  pairs.joined.assign(graph.nodes.size(), false);
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const auto& node = graph.nodes[i];
    if (node.removed || !node.is_depthwise()) {
      continue;
    }
    const Node* producer = graph.sole_producer(node.inputs[0]);
    if (producer != nullptr && !producer->removed && producer->is_pointwise() &&
        !producer->residual && joins(*producer)) {
      pairs.partner[i] = static_cast<std::size_t>(producer - graph.nodes.data());
      pairs.joined[pairs.partner[i]] = true;
    }
  }
  return pairs;
}

/// For each node whether it is an affine map of the input, which happens while that is brought in.
inline std::vector<bool> find_imports(const Graph& graph, const std::vector<std::size_t>& roots) {
  std::vector<bool> imports(graph.nodes.size());
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const auto& node = graph.nodes[i];
    imports[i] = !node.removed && node.kind == NodeKind::affine && node.is_plain() &&
                 roots[node.inputs[0]] == graph.input &&
                 graph.values[graph.input].sizes.size() == 4;
  }
  return imports;
}

}  // namespace bsconv::infer
