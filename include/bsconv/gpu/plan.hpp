// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/Context.h>
#include <torch/types.h>
#include <bsconv/gpu/compiler.hpp>
#include <bsconv/gpu/operation.hpp>
#include <bsconv/infer/executable.hpp>
#include <bsconv/infer/graph.hpp>
#include <bsconv/infer/structure.hpp>

#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::gpu {

/// Operations that run one after the other in place of a node.
using Sequence = std::vector<std::unique_ptr<Operation>>;

/// One step of a plan.
struct PlanStep {
  /// What runs.
  Sequence operations;
  /// The node it came from; none for the input's and the result's way.
  std::size_t node = infer::no_node;
  /// The values that are not read any more afterwards.
  std::vector<std::size_t> dead;
};

/// A model for one shape of input on a GPU. Made by `make_plan`.
class Plan : public infer::Executable {
 public:
  /// Nothing to run yet, on `compiler`'s runtime with elements of `dtype`.
  Plan(std::shared_ptr<Compiler> compiler, infer::Graph model, torch::ScalarType dtype)
      : graph(std::move(model)), compiler_(std::move(compiler)), dtype_(dtype) {}

  torch::Tensor run(const torch::Tensor& input) const override {
    const std::lock_guard lock(mutex_);
    return recording_ == nullptr ? run_steps(input) : recording_->replay(input);
  }

  std::vector<double> time_steps(const torch::Tensor& input, int64_t) const override {
    const std::lock_guard lock(mutex_);
    const Context context{compiler_->runtime(), dtype_};
    Values values(graph.values.size() + 1);
    values[graph.input] = input;
    std::vector<double> seconds;
    for (const auto& step : steps) {
      seconds.push_back(context.runtime.time([&] {
        for (const auto& operation : step.operations) {
          operation->run(context, values);
        }
      }));
    }
    return seconds;
  }

  InferenceReport report() const override {
    InferenceReport result;
    result.input = graph.values[graph.input].sizes;
    result.kernels = compiler_->runtime().name() + ", " + std::string(c10::toString(dtype_));
    if (!unrecorded_.empty()) {
      result.kernels += ", launched one by one: " + unrecorded_;
    }
    for (const auto& step : steps) {
      InferenceStep line;
      for (const auto& operation : step.operations) {
        line.description += (line.description.empty() ? "" : " + ");
        line.description += operation->describe();
        line.multiply_adds += operation->multiply_adds();
      }
      if (step.node < graph.nodes.size()) {
        const auto& node = graph.nodes[step.node];
        line.shape = graph.result_sizes(node);
        line.reason = node.reason;
      } else {
        line.shape = result.input;
      }
      result.steps.push_back(std::move(line));
    }
    return result;
  }

  double tolerance() const override {
    if (dtype_ == torch::kFloat) {
      // Where cuDNN may round to 10 bits, LibTorch's results do so too.
      const bool exact = compiler_->runtime().device().is_cpu() ||
                         !at::globalContext().allowTF32CuDNN(at::Float32Op::CONV);
      return exact ? 1e-3 : 2e-2;
    }
    return dtype_ == torch::kHalf ? 2e-2 : 1e-1;
  }

  /// Writes down the launches of a run; the report says why where that is impossible.
  void record(const torch::Tensor& example) {
    try {
      recording_ = compiler_->runtime().record(
          [this](const torch::Tensor& input) { return run_steps(input); }, example);
    } catch (const c10::Error& error) {
      unrecorded_ = error.what_without_backtrace();
    } catch (const std::exception& error) {
      unrecorded_ = error.what();
    }
  }

  /// The operations of the model, of which steps read.
  infer::Graph graph;
  /// The value whose numbers a value has; itself unless an alias made it.
  std::vector<std::size_t> roots;
  /// The steps in order.
  std::vector<PlanStep> steps;

 private:
  torch::Tensor run_steps(const torch::Tensor& input) const {
    const Context context{compiler_->runtime(), dtype_};
    // The value behind the last one is the result in LibTorch's order.
    Values values(graph.values.size() + 1);
    values[graph.input] = input;
    for (const auto& step : steps) {
      for (const auto& operation : step.operations) {
        operation->run(context, values);
      }
      for (const std::size_t value : step.dead) {
        values[value] = torch::Tensor();
      }
    }
    return values.back();
  }

  std::shared_ptr<Compiler> compiler_;
  torch::ScalarType dtype_;
  std::unique_ptr<Recording> recording_;
  std::string unrecorded_;
  mutable std::mutex mutex_;
};

}  // namespace bsconv::gpu
