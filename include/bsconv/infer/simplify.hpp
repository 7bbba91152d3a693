// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/infer/graph.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

/// \file
/// Folds operations into their neighbours.

namespace bsconv::infer {

namespace detail {

using kernels::Activation;

inline void append(std::vector<int64_t>& to, const std::vector<int64_t>& from) {
  to.push_back(0);
  to.insert(to.end(), from.begin(), from.end());
}

class Simplifier {
 public:
  Simplifier(Graph& graph, int64_t width) : graph_(graph), width_(width) {}

  void run() {
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      auto& node = graph_.nodes[i];
      switch (node.kind) {
        case NodeKind::affine:
          fold_affine(i);
          break;
        case NodeKind::activation:
          fold_activation(i);
          break;
        case NodeKind::add:
          fold_add(i);
          break;
        case NodeKind::convolution:
          fold_affine_before(node);
          merge_pointwise(node);
          break;
        default:
          break;
      }
    }
  }

 private:
  // `node` goes; `producer` makes its output.
  void absorb(Node& node, Node& producer) {
    node.removed = true;
    producer.outputs = node.outputs;
    graph_.values[node.outputs[0]].producer =
        static_cast<std::size_t>(&producer - graph_.nodes.data());
  }

  void fold_affine(std::size_t index) {
    auto& node = graph_.nodes[index];
    Node* producer = graph_.sole_producer(node.inputs[0]);
    if (producer == nullptr || !producer->is_plain() ||
        (producer->kind != NodeKind::convolution && producer->kind != NodeKind::affine)) {
      return;
    }
    if (producer->kind == NodeKind::convolution) {
      producer->weight = producer->weight * node.scale.view({-1, 1, 1, 1});
    } else {
      producer->scale = producer->scale * node.scale;
    }
    producer->bias = producer->bias * node.scale + node.bias;
    append(producer->origin, node.origin);
    absorb(node, *producer);
  }

  void fold_activation(std::size_t index) {
    auto& node = graph_.nodes[index];
    Node* producer = graph_.sole_producer(node.inputs[0]);
    if (producer == nullptr || producer->after != Activation::identity) {
      return;
    }
    switch (producer->kind) {
      case NodeKind::convolution:
      case NodeKind::affine:
      case NodeKind::add:
      case NodeKind::gate:
        producer->after = node.after;
        absorb(node, *producer);
        break;
      default:
        break;
    }
  }

  // The later of two summands adds the other to its results.
  void fold_add(std::size_t index) {
    auto& node = graph_.nodes[index];
    std::size_t late = node.inputs[0];
    std::size_t early = node.inputs[1];
    const auto made_at = [&](std::size_t value) {
      const auto& producer = graph_.values[value].producer;
      return producer ? static_cast<int64_t>(*producer) : int64_t{-1};
    };
    if (made_at(late) < made_at(early)) {
      std::swap(late, early);
    }
    Node* producer = graph_.sole_producer(late);
    if (late == early || producer == nullptr || producer->residual ||
        (producer->kind != NodeKind::convolution && producer->kind != NodeKind::affine)) {
      return;
    }
    producer->before = std::exchange(producer->after, Activation::identity);
    producer->residual = true;
    producer->inputs.push_back(early);
    absorb(node, *producer);
  }

  // An affine map before a convolution that pads nothing.
  void fold_affine_before(Node& node) {
    Node* producer = graph_.sole_producer(node.inputs[0]);
    if (producer == nullptr || producer->kind != NodeKind::affine || !producer->is_plain() ||
        !node.is_pointwise() || producer->removed ||
        graph_.values[producer->inputs[0]].sizes.size() !=
            graph_.values[node.inputs[0]].sizes.size()) {
      return;
    }
    node.bias = node.bias + node.weight.flatten(1).matmul(producer->bias);
    node.weight = node.weight * producer->scale.view({1, -1, 1, 1});
    append(node.origin, producer->origin);
    take_input(node, *producer);
  }

  // Two pointwise convolutions as one, where that takes fewer vector operations.
  void merge_pointwise(Node& node) {
    Node* producer = graph_.sole_producer(node.inputs[0]);
    if (producer == nullptr || !node.is_pointwise() || !producer->is_pointwise() ||
        !producer->is_plain() || producer->removed ||
        graph_.values[producer->inputs[0]].sizes.size() !=
            graph_.values[node.inputs[0]].sizes.size()) {
      return;
    }
    const auto vectors = [&](int64_t channels) { return (channels + width_ - 1) / width_; };
    const int64_t in = producer->weight.size(1);
    const int64_t mid = node.weight.size(1);
    const int64_t out = node.weight.size(0);
    // A subsampling first convolution makes the second one cheap.
    const bool strided = producer->stride[0] != 1 || producer->stride[1] != 1;
    if (strided || in * vectors(out) > in * vectors(mid) + mid * vectors(out)) {
      return;
    }
    const auto outer = node.weight.flatten(1);
    node.bias = node.bias + outer.matmul(producer->bias);
    node.weight = outer.matmul(producer->weight.flatten(1)).unsqueeze(-1).unsqueeze(-1);
    append(node.origin, producer->origin);
    take_input(node, *producer);
  }

  // `producer` goes; `node` reads what it read.
  static void take_input(Node& node, Node& producer) {
    producer.removed = true;
    node.inputs[0] = producer.inputs[0];
  }

  Graph& graph_;
  int64_t width_;
};

}  // namespace detail

/// Folds affine maps, activations and sums into convolutions, and merges pointwise convolutions,
/// for vectors of `width` floats.
inline void simplify(Graph& graph, int64_t width) { detail::Simplifier(graph, width).run(); }

}  // namespace bsconv::infer
