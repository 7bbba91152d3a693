// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/infer/graph.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

/// \file
/// Folds affine maps, such as batch normalizations, into convolutions beside them.

namespace bsconv::infer {

namespace detail {

inline void append_origin(std::vector<int64_t>& to, const std::vector<int64_t>& from) {
  to.push_back(0);
  to.insert(to.end(), from.begin(), from.end());
}

// `node` goes; `producer` makes its output.
inline void absorb(Graph& graph, Node& node, Node& producer) {
  node.removed = true;
  producer.outputs = node.outputs;
  graph.values[node.outputs[0]].producer = static_cast<std::size_t>(&producer - graph.nodes.data());
}

// `producer` goes; `node` reads what it read.
inline void take_input(Node& node, Node& producer) {
  producer.removed = true;
  for (auto& value : node.values) {
    if (value[2] == static_cast<int64_t>(node.inputs[0])) {
      value[2] = static_cast<int64_t>(producer.inputs[0]);
    }
  }
  node.inputs[0] = producer.inputs[0];
}

}  // namespace detail

/// Folds the affine node at `index` into the convolution or affine node that makes its input, if
/// nothing else uses that. Returns whether it did.
inline bool fold_affine_back(Graph& graph, std::size_t index) {
  auto& node = graph.nodes[index];
  Node* producer = graph.sole_producer(node.inputs[0]);
  if (producer == nullptr || !producer->is_plain() ||
      (producer->kind != NodeKind::convolution && producer->kind != NodeKind::affine)) {
    return false;
  }
  if (producer->kind == NodeKind::convolution) {
    producer->weight = producer->weight * node.scale.view({-1, 1, 1, 1});
  } else {
    producer->scale = producer->scale * node.scale;
  }
  producer->bias = producer->bias * node.scale + node.bias;
  // Which of the two it is is part of what the weights are made of.
  producer->origin.push_back(-1);
  detail::append_origin(producer->origin, node.origin);
  detail::absorb(graph, node, *producer);
  return true;
}

/// Folds the affine node before the convolution `node` into it, if the convolution is a pointwise
/// one that pads nothing, and nothing else uses the affine node's result. Returns whether it did.
inline bool fold_affine_forward(Graph& graph, Node& node) {
  Node* producer = graph.sole_producer(node.inputs[0]);
  if (producer == nullptr || producer->kind != NodeKind::affine || !producer->is_plain() ||
      !node.is_pointwise() || producer->removed ||
      graph.values[producer->inputs[0]].sizes.size() != graph.values[node.inputs[0]].sizes.size()) {
    return false;
  }
  node.bias = node.bias + node.weight.flatten(1).matmul(producer->bias);
  node.weight = node.weight * producer->scale.view({1, -1, 1, 1});
  node.origin.push_back(-2);
  detail::append_origin(node.origin, producer->origin);
  detail::take_input(node, *producer);
  return true;
}

}  // namespace bsconv::infer
