// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/infer/fold_affine.hpp>
#include <bsconv/infer/graph.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

/// \file
/// Folds operations into their neighbors.

namespace bsconv::infer {

namespace detail {

using kernels::Activation;

class Simplifier {
 public:
  Simplifier(Graph& graph, int64_t width) : graph_(graph), width_(width) {}

  void run() {
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      auto& node = graph_.nodes[i];
      switch (node.kind) {
        case NodeKind::affine:
          fold_affine_back(graph_, i);
          break;
        case NodeKind::activation:
          fold_activation(i);
          break;
        case NodeKind::add:
          fold_add(i);
          break;
        case NodeKind::convolution:
          fold_affine_forward(graph_, node);
          merge_pointwise(node);
          break;
        default:
          break;
      }
    }
  }

 private:
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
        absorb(graph_, node, *producer);
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
    absorb(graph_, node, *producer);
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
    append_origin(node.origin, producer->origin);
    take_input(node, *producer);
  }

  Graph& graph_;
  int64_t width_;
};

}  // namespace detail

/// Folds affine maps, activations and sums into convolutions, and merges pointwise convolutions,
/// for vectors of `width` floats.
inline void simplify(Graph& graph, int64_t width) { detail::Simplifier(graph, width).run(); }

}  // namespace bsconv::infer
