// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <torch/types.h>
#include <bsconv/infer/graph.hpp>

#include <cstddef>
#include <cstdint>

/// \file
/// An operator in the middle of a plan, which LibTorch runs.

namespace bsconv::infer {

namespace detail {

/// Puts `tensor` into the argument `place`, or into its element `at` if that is not -1.
inline void put_tensor(c10::IValue& place, int64_t at, const torch::Tensor& tensor) {
  if (at < 0) {
    place = tensor;
  } else if (place.isTensorList()) {
    auto list = place.toTensorList().copy();
    list.set(static_cast<std::size_t>(at), tensor);
    place = list;
  } else {
    auto list = c10::impl::toList(place.toList().copy());
    list.set(static_cast<std::size_t>(at), tensor);
    place = list;
  }
}

}  // namespace detail

/// Runs the operator of `node` of `graph`: `get(value, written)` gives the tensor of a value, which
/// the operator changes if `written`, and `take(value, tensor)` gets those that it makes. Throws
/// `NotCapturable` if one has another shape than in the captured run.
template <class Get, class Take>
void run_operator(const Graph& graph, const Node& node, Get&& get, Take&& take) {
  torch::jit::Stack stack = node.arguments;
  for (const auto& [argument, at, value] : node.values) {
    detail::put_tensor(stack[static_cast<std::size_t>(argument)], at,
                       get(static_cast<std::size_t>(value), argument == node.writes));
  }
  node.op->callBoxed(&stack);
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    const auto [position, at] = node.results[i];
    const auto& result = stack[static_cast<std::size_t>(position)];
    const auto tensor =
        at < 0 ? result.toTensor() : result.toTensorVector()[static_cast<std::size_t>(at)];
    if (tensor.sizes() != graph.values[node.outputs[i]].sizes) {
      throw NotCapturable::shape_of(node.source);
    }
    take(node.outputs[i], tensor);
  }
}

/// Lets go of what a plan doesn't need once its steps are made: weights in double precision, and
/// the tensors of the captured run.
inline void drop_captured(Graph& graph) {
  for (auto& node : graph.nodes) {
    node.weight = node.bias = node.scale = torch::Tensor();
    if (node.kind != NodeKind::other) {
      node.arguments.clear();
      node.values.clear();
      continue;
    }
    for (const auto& [argument, at, value] : node.values) {
      auto& place = node.arguments[static_cast<std::size_t>(argument)];
      if (at < 0) {
        place = c10::IValue();
      } else {
        detail::put_tensor(place, at, torch::Tensor());
      }
    }
  }
}

}  // namespace bsconv::infer
