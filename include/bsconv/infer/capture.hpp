// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/capture/operator_capture.hpp>
#include <bsconv/infer/graph.hpp>
#include <bsconv/infer/lowering.hpp>
#include <bsconv/infer/value_tracker.hpp>
#include <bsconv/nn/graft.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::infer {

namespace detail {

/// Writes down the operators of one forward pass.
class Recorder : public OperatorObserver, public Lowering {
 public:
  explicit Recorder(const torch::Tensor& input) { graph.input = remember(input); }

  bool looks_inside(const c10::OperatorHandle&, const std::vector<c10::IValue>& inputs) override {
    return std::any_of(inputs.begin(), inputs.end(), [](const c10::IValue& input) {
      return input.isTensor() && bsconv::detail::grafted_weight(input.toTensor()) != nullptr;
    });
  }

  void ran(const OperatorCall& call) override {
    Node node;
    node.source = call.op.operator_name().name;
    if (!reads_value(call)) {
      // Made of constants, or of nothing: the same in every run, unless it is drawn.
      if (call.op.hasTag(at::Tag::nondeterministic_seeded)) {
        throw NotCapturable(node.source + " draws random numbers");
      }
      check_writes_to_own(call);
      for (const auto& input : call.inputs) {
        for_each_tensor(input, [&](const torch::Tensor& tensor, int64_t) { watch(tensor); });
      }
      for (const auto& output : call.outputs) {
        for_each_tensor(output, [&](const torch::Tensor& tensor, int64_t) { derive(tensor); });
      }
      return;
    }
    check_writes(call);
    check_shapes(call);
    if (!lower(call, node)) {
      keep_as_it_is(call, node);
    }
    for (const std::size_t input : node.inputs) {
      ++graph.values[input].uses;
    }
    graph.nodes.push_back(std::move(node));
  }

 private:
  // The next run has other numbers: no shape may depend on them.
  void check_shapes(const OperatorCall& call) const {
    if (!call.op.hasTag(at::Tag::dynamic_output_shape)) {
      return;
    }
    const std::string& name = call.op.operator_name().name;
    bool depends = name != "aten::index";
    if (!depends) {
      // Only masks pick a number of elements.
      for_each_tensor(call.inputs.at(1), [&](const torch::Tensor& index, int64_t) {
        const auto type = index.scalar_type();
        depends = depends || ((type == torch::kBool || type == torch::kByte) && find(index));
      });
    }
    if (depends) {
      throw NotCapturable::shape_of(name);
    }
  }
};

}  // namespace detail

/// A captured model and what it gave in that run.
struct Captured {
  /// The operations.
  Graph graph;
  /// The result of that run.
  torch::Tensor output;
};

/// Runs `forward` on `input` and writes down what it does. Throws `NotCapturable` if that can't be
/// repeated for other inputs of the same shape.
inline Captured capture(const std::function<torch::Tensor(const torch::Tensor&)>& forward,
                        const torch::Tensor& input) {
  const torch::NoGradGuard no_grad;
  // Its own tensor, which no view shares.
  const torch::Tensor copy = input.detach().clone();
  detail::Recorder recorder(copy);
  torch::Tensor output;
  {
    const OperatorCapture scope(recorder);
    output = forward(copy);
  }
  if (!output.defined()) {
    throw NotCapturable("the model returns no tensor");
  }
  const auto id = recorder.find(output);
  if (!id || recorder.graph.values[*id].sizes != output.sizes().vec()) {
    throw NotCapturable("the result does not depend on the input");
  }
  recorder.graph.output = *id;
  ++recorder.graph.values[*id].uses;
  return {std::move(recorder.graph), output};
}

}  // namespace bsconv::infer
