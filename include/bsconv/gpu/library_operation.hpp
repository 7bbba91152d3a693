// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/gpu/kernel_images.hpp>
#include <bsconv/gpu/operation.hpp>
#include <bsconv/infer/graph.hpp>
#include <bsconv/infer/run_operator.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace bsconv::gpu {

/// An operator that the plan doesn't know, or another shape that changes the order of numbers: runs
/// through LibTorch on 32-bit floats.
class LibraryOperation : public Operation {
 public:
  /// A node with its values by index: `roots` says whose numbers a value has. `graph` must outlive
  /// the operation.
  LibraryOperation(const infer::Graph& graph, const infer::Node& node,
                   const std::vector<std::size_t>& roots)
      : graph_(graph), node_(node), roots_(roots) {}

  void run(const Context& context, Values& values) const override {
    infer::run_operator(
        graph_, node_, [&](std::size_t value, bool) { return outside(value, values); },
        [&](std::size_t value, const torch::Tensor& tensor) {
          values[value] = inside(value, tensor, context);
        });
  }

  std::string describe() const override { return node_.source; }

  /// A value as LibTorch's operators take it: what the plan's image of `root` is in their view.
  static torch::Tensor restore(const infer::Value& value, const torch::Tensor& tensor) {
    return value.image ? tensor.to(torch::kFloat).contiguous().reshape(value.sizes) : tensor;
  }

 private:
  // A copy, as the operator may change it.
  torch::Tensor outside(std::size_t value, const Values& values) const {
    const auto tensor = restore(graph_.values[value], values[roots_[value]]);
    return tensor.is_alias_of(values[roots_[value]]) ? tensor.clone() : tensor;
  }

  torch::Tensor inside(std::size_t value, const torch::Tensor& tensor,
                       const Context& context) const {
    const auto& known = graph_.values[value];
    if (!known.image) {
      return tensor;
    }
    const auto image = tensor.dim() == 4 ? tensor : tensor.unsqueeze(-1).unsqueeze(-1);
    return kernel_images(image.to(context.dtype));
  }

  const infer::Graph& graph_;
  const infer::Node& node_;
  const std::vector<std::size_t>& roots_;
};

}  // namespace bsconv::gpu
