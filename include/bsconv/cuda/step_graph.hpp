// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <torch/types.h>

#include <bsconv/cuda/record.hpp>
#include <bsconv/train/metrics.hpp>
#include <bsconv/train/step_recorder.hpp>

// This header needs LibTorch with CUDA and the CUDA toolkit's headers.

namespace bsconv::cuda {

/// Records a training step as a CUDA graph and replays it: networks of many small kernels are
/// otherwise bound by their launches.
///
/// The first steps run operator by operator, so that libraries choose their algorithms and the
/// optimizer its state. Batches that are smaller than the others, such as the last of an epoch, run
/// so always, as do all if a step can't be recorded, with a warning that says why. The recorded
/// kernels have the priority of the stream that was current at the first step.
class StepGraph : public train::StepRecorder {
 public:
  /// Records after `warm_up` steps.
  explicit StepGraph(int64_t warm_up = 3) : warm_up_(warm_up) {
    TORCH_CHECK_VALUE(warm_up > 0, "StepGraph: warm_up must be at least 1, got ", warm_up);
  }

  train::StepResult run(const std::vector<torch::Tensor>& inputs, const Step& step) override {
    // The first batch after a resume may be the small last one of an epoch.
    if (steps_ == 0 || is_larger(inputs.front(), layouts_.front())) {
      forget();
      layouts_ = std::vector<Layout>(inputs.begin(), inputs.end());
    }
    if (failed_ || !fits(inputs)) {
      return step(inputs);
    }
    if (steps_ < warm_up_) {
      ++steps_;
      return beside([&] { return step(inputs); });
    }
    if (graph_ == nullptr && !record(inputs, step)) {
      return step(inputs);
    }
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i].defined()) {
        inputs_[i].copy_(inputs[i], /*non_blocking=*/true);
      }
    }
    cuda::replay(*graph_);
    return copy(result_);
  }

  void forget() override {
    graph_.reset();
    inputs_.clear();
    result_ = {};
    steps_ = 0;
    failed_ = false;
  }

  /// Whether a step is recorded.
  bool is_recorded() const noexcept { return graph_ != nullptr; }

 private:
  /// What of an input a recorded step takes for granted.
  struct Layout {
    /// That of `input`, which may be undefined.
    explicit Layout(const torch::Tensor& input) : defined(input.defined()) {
      if (defined) {
        sizes = input.sizes().vec();
        strides = input.strides().vec();
        dtype = input.scalar_type();
        device = input.device();
      }
    }

    bool operator==(const Layout& other) const = default;

    bool defined;
    std::vector<int64_t> sizes;
    std::vector<int64_t> strides;
    torch::Dtype dtype = torch::kFloat;
    torch::Device device = torch::kCPU;
  };

  static bool is_larger(const torch::Tensor& images, const Layout& known) {
    return images.dim() > 0 && !known.sizes.empty() && images.size(0) > known.sizes.front();
  }

  bool fits(const std::vector<torch::Tensor>& inputs) const {
    return std::equal(
        inputs.begin(), inputs.end(), layouts_.begin(), layouts_.end(),
        [](const torch::Tensor& input, const Layout& known) { return Layout(input) == known; });
  }

  /// Runs `action` on the stream that recording takes place on, in its turn.
  template <class Action>
  std::invoke_result_t<Action> beside(Action&& action) {
    const auto device = layouts_.front().device;
    const c10::cuda::CUDAGuard on_device(device);
    const auto current = c10::cuda::getCurrentCUDAStream(device.index());
    if (stream_ == nullptr) {
      stream_ = std::make_unique<RecordingStream>(device.index(), current.priority());
    }
    const auto stream = stream_->get();
    wait(stream, current);
    try {
      auto result = [&] {
        const c10::cuda::CUDAStreamGuard guard(stream);
        return action();
      }();
      wait(current, stream);
      return result;
    } catch (...) {
      // What was launched before the error still runs.
      wait(current, stream);
      throw;
    }
  }

  static void wait(const c10::cuda::CUDAStream& waiting, const c10::cuda::CUDAStream& other) {
    at::cuda::CUDAEvent event;
    event.record(other);
    event.block(waiting);
  }

  bool record(const std::vector<torch::Tensor>& inputs, const Step& step) {
    inputs_.clear();
    for (const auto& input : inputs) {
      inputs_.push_back(input.defined() ? input.clone() : torch::Tensor());
    }
    auto graph = make_graph();
    try {
      beside([&] {
        cuda::record(*graph, [&] { result_ = step(inputs_); });
        return true;
      });
    } catch (const std::exception& error) {
      failed_ = true;
      result_ = {};
      inputs_.clear();
      const auto* own = dynamic_cast<const c10::Error*>(&error);
      TORCH_WARN(
          "the training step can't be recorded as a CUDA graph and runs operator by "
          "operator: ",
          own != nullptr ? own->what_without_backtrace() : error.what());
      return false;
    }
    graph_ = std::move(graph);
    return true;
  }

  /// The next replay overwrites the recorded result.
  static train::StepResult copy(const train::StepResult& result) {
    train::StepResult own = result;
    for (auto* tensor : {&own.loss, &own.cross_entropy, &own.regularization, &own.correct,
                         &own.correct_top5, &own.distillation}) {
      if (tensor->defined()) {
        *tensor = tensor->clone();
      }
    }
    return own;
  }

  int64_t warm_up_;
  int64_t steps_ = 0;
  bool failed_ = false;
  std::vector<Layout> layouts_;
  std::vector<torch::Tensor> inputs_;
  train::StepResult result_;
  std::unique_ptr<RecordingStream> stream_;
  Graph graph_;
};

}  // namespace bsconv::cuda
