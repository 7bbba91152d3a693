// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/Parallel.h>
#include <torch/types.h>
#include <bsconv/capture/operator_capture.hpp>
#include <bsconv/infer/executable.hpp>
#include <bsconv/infer/graph.hpp>
#include <bsconv/infer/memory.hpp>
#include <bsconv/infer/report.hpp>
#include <bsconv/infer/run_operator.hpp>
#include <bsconv/infer/step.hpp>
#include <bsconv/util/parallel.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::infer {

/// One entry of a plan: a step of ours, or an operator that LibTorch runs.
struct PlanEntry {
  /// Ours; null for an operator.
  std::unique_ptr<Step> step;
  /// The node it came from.
  std::size_t node = 0;
  /// Of an operator, the values whose tensors no later one reads.
  std::vector<std::size_t> dead = {};
};

/// A model as a list of steps for one shape of input on the CPU. Made by `make_plan`.
class Plan : public Executable {
 public:
  torch::Tensor run(const torch::Tensor& input) const override {
    const int64_t images = input.size(0);
    const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
    torch::Tensor output =
        output_sizes.empty() ? torch::Tensor() : torch::empty(output_sizes, torch::kFloat);
    if (operators != 0) {
      return run_with_operators(input, output, threads);
    }
    if (threads == 1 || images < threads) {
      const Lease lease(*this, 1, threads);
      for (int64_t image = 0; image < images; ++image) {
        run_image(*lease, 0, input, image, output, threads);
      }
    } else {
      bsconv::detail::parallel_for(images, [&](int64_t begin, int64_t end) {
        const Lease lease(*this, 1, 1);
        for (int64_t image = begin; image < end; ++image) {
          run_image(*lease, 0, input, image, output, 1);
        }
      });
    }
    return output;
  }

  /// Runs the first image of `input` on one thread; zeros if LibTorch runs a part of the plan.
  std::vector<double> time_steps(const torch::Tensor& input, int64_t repeats) const override {
    std::vector<double> seconds(entries.size(), 0.0);
    if (operators != 0) {
      return seconds;
    }
    const Lease lease(*this, 1, 1);
    const Frame frame = frame_of(*lease, 0, input, 0);
    for (int64_t repeat = 0; repeat < repeats; ++repeat) {
      for (std::size_t i = 0; i < entries.size(); ++i) {
        const auto start = std::chrono::steady_clock::now();
        entries[i].step->run(frame, Share{});
        const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
        seconds[i] = repeat == 0 ? elapsed.count() : std::min(seconds[i], elapsed.count());
      }
    }
    return seconds;
  }

  InferenceReport report() const override {
    InferenceReport report;
    report.input = graph.values[graph.input].sizes;
    report.kernels = kernels;
    report.arena_bytes = arena_floats * sizeof(float);
    const int64_t images = report.input.empty() ? 1 : report.input[0];
    for (const auto& entry : entries) {
      InferenceStep step;
      if (entry.node < graph.nodes.size()) {
        const auto& node = graph.nodes[entry.node];
        step.shape = graph.result_sizes(node);
        step.description = node.source;
        step.reason = node.reason;
      } else {
        step.shape = report.input;
      }
      if (entry.step != nullptr) {
        step.description = entry.step->describe();
        step.multiply_adds = entry.step->multiply_adds() * images;
        step.reason.clear();
      }
      report.steps.push_back(std::move(step));
    }
    return report;
  }

  /// The operations, of which the steps read their geometry.
  Graph graph;
  double tolerance() const override { return in_bf16 ? 2e-2 : Executable::tolerance(); }

  /// What the steps run on.
  std::string kernels;
  /// Whether convolutions are computed in bf16.
  bool in_bf16 = false;
  /// The images in an arena; steps refer to them.
  std::deque<Buffer> buffers;
  /// The steps in order.
  std::vector<PlanEntry> entries;
  /// The value whose numbers a value has; itself unless an alias made it.
  std::vector<std::size_t> root_of;
  /// The buffer of a value, if it has one.
  std::vector<const Buffer*> buffer_of;
  /// The shape of the result if a buffer holds it.
  std::vector<int64_t> output_sizes;
  /// Floats of an arena for one image.
  std::size_t arena_floats = 0;
  /// Floats of scratch memory for one thread.
  std::size_t scratch_floats = 0;
  /// Entries that LibTorch runs.
  std::size_t operators = 0;

 private:
  // Memory for a run.
  struct Context {
    AlignedFloats arena;
    AlignedFloats scratch;
  };

  // Borrows a context, for `images` at a time and `threads` threads.
  class Lease {
   public:
    Lease(const Plan& plan, int64_t images, int64_t threads) : plan_(plan) {
      const auto arena = plan.arena_floats * static_cast<std::size_t>(images);
      const auto scratch = plan.scratch_floats * static_cast<std::size_t>(threads);
      {
        const std::lock_guard lock(plan.mutex_);
        if (!plan.idle_.empty()) {
          context_ = std::move(plan.idle_.back());
          plan.idle_.pop_back();
        }
      }
      if (context_ == nullptr) {
        context_ = std::make_unique<Context>();
      }
      if (context_->arena.size() < arena) {
        context_->arena = AlignedFloats(arena);
      }
      if (context_->scratch.size() < scratch) {
        context_->scratch = AlignedFloats(scratch);
      }
    }
    ~Lease() {
      const std::lock_guard lock(plan_.mutex_);
      plan_.idle_.push_back(std::move(context_));
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Lease(Lease&&) = delete;
    Lease& operator=(Lease&&) = delete;
    const Context& operator*() const { return *context_; }

   private:
    const Plan& plan_;
    std::unique_ptr<Context> context_;
  };

  Frame frame_of(const Context& context, int64_t slot, const torch::Tensor& input,
                 int64_t image) const {
    Frame frame;
    frame.arena = context.arena.data() + arena_floats * static_cast<std::size_t>(slot);
    frame.scratch = context.scratch.data();
    frame.input = input.const_data_ptr<float>() + image * (input.numel() / input.size(0));
    return frame;
  }

  void run_step(const Step& step, const Frame& frame, int64_t threads) const {
    // Less work than this takes no longer than to wake a thread.
    constexpr int64_t worth_sharing = 400'000;
    if (threads == 1 || step.multiply_adds() < worth_sharing) {
      step.run(frame, Share{});
      return;
    }
    bsconv::detail::parallel_for(threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Frame own = frame;
        own.scratch += scratch_floats * static_cast<std::size_t>(i);
        step.run(own, Share{i, threads});
      }
    });
  }

  void run_image(const Context& context, int64_t slot, const torch::Tensor& input, int64_t image,
                 const torch::Tensor& output, int64_t threads) const {
    const Frame frame = frame_of(context, slot, input, image);
    for (const auto& entry : entries) {
      run_step(*entry.step, frame, threads);
    }
    export_image(frame, output, image);
  }

  // Copies the result of one image from its buffer.
  void export_image(const Frame& frame, const torch::Tensor& output, int64_t image) const {
    const Buffer& buffer = *buffer_of[graph.output];
    const int64_t size = output.numel() / output.size(0);
    float* to = output.data_ptr<float>() + image * size;
    const float* from = buffer.at(frame.arena);
    if (size == buffer.channels) {
      std::copy_n(from, size, to);
      return;
    }
    for (int64_t c = 0; c < buffer.channels; ++c) {
      for (int64_t y = 0; y < buffer.height; ++y) {
        for (int64_t x = 0; x < buffer.width; ++x) {
          *to++ = from[y * buffer.row + x * buffer.pixel + c];
        }
      }
    }
  }

  // All images go through a step before the next one starts, as LibTorch's operators need it.
  torch::Tensor run_with_operators(const torch::Tensor& input, const torch::Tensor& output,
                                   int64_t threads) const {
    const int64_t images = input.size(0);
    const Lease lease(*this, images, threads);
    std::vector<torch::Tensor> tensors(graph.values.size());
    tensors[graph.input] = input;
    for (const auto& entry : entries) {
      if (entry.step == nullptr) {
        run_operator(graph.nodes[entry.node], *lease, tensors, images);
        for (const std::size_t value : entry.dead) {
          tensors[value] = torch::Tensor();
        }
      } else if (images < threads) {
        for (int64_t image = 0; image < images; ++image) {
          run_step(*entry.step, frame_of(*lease, image, input, image), threads);
        }
      } else {
        bsconv::detail::parallel_for(images, [&](int64_t begin, int64_t end) {
          // Within the caller's own parallel region the number is one of that.
          const int64_t thread = threads == 1 ? 0 : at::get_thread_num();
          for (int64_t image = begin; image < end; ++image) {
            Frame frame = frame_of(*lease, image, input, image);
            frame.scratch += scratch_floats * static_cast<std::size_t>(thread);
            entry.step->run(frame, Share{});
          }
        });
      }
    }
    if (buffer_of[graph.output] == nullptr) {
      return tensor_of(graph.output, *lease, tensors, images).contiguous();
    }
    for (int64_t image = 0; image < images; ++image) {
      export_image(frame_of(*lease, image, input, image), output, image);
    }
    return output;
  }

  // The images of `value` in their buffer, without a copy.
  torch::Tensor view_of(std::size_t value, const Context& context, int64_t images) const {
    const Buffer& buffer = *buffer_of[value];
    const auto& sizes = graph.values[value].sizes;
    const auto step = static_cast<int64_t>(arena_floats);
    float* data = buffer.at(context.arena.data());
    if (sizes.size() == 2) {
      return torch::from_blob(data, {images, buffer.channels}, {step, 1}, torch::kFloat);
    }
    return torch::from_blob(data, {images, buffer.channels, buffer.height, buffer.width},
                            {step, 1, buffer.row, buffer.pixel}, torch::kFloat);
  }

  // A value as LibTorch's operators take it.
  torch::Tensor tensor_of(std::size_t value, const Context& context,
                          const std::vector<torch::Tensor>& tensors, int64_t images) const {
    if (tensors[value].defined()) {
      return tensors[value];
    }
    const auto& same = tensors[root_of[value]];
    return same.defined() ? same.reshape(graph.values[value].sizes)
                          : view_of(value, context, images);
  }

  void run_operator(const Node& node, const Context& context, std::vector<torch::Tensor>& tensors,
                    int64_t images) const {
    // What only changes a shape can't look at images with channels last.
    const bool views = bsconv::detail::returns_view(*node.op);
    infer::run_operator(
        graph, node,
        [&](std::size_t value, bool written) {
          // What an operator changes or passes on must not be an arena's memory.
          const auto tensor = tensor_of(value, context, tensors, images);
          return written ? tensor.clone() : views ? tensor.contiguous() : tensor;
        },
        [&](std::size_t value, const torch::Tensor& tensor) {
          if (buffer_of[value] != nullptr) {
            bring_in(value, tensor, context, images);
          }
          tensors[value] = is_in_arena(tensor, context) ? tensor.clone() : tensor;
        });
  }

  static bool is_in_arena(const torch::Tensor& tensor, const Context& context) {
    if (!tensor.defined() || !tensor.device().is_cpu() || !tensor.has_storage()) {
      return false;
    }
    const auto* data = static_cast<const float*>(tensor.const_data_ptr());
    return data >= context.arena.data() && data < context.arena.data() + context.arena.size();
  }

  // Copies an operator's result into the buffer from which our steps read it.
  void bring_in(std::size_t value, const torch::Tensor& tensor, const Context& context,
                int64_t images) const {
    const Buffer& buffer = *buffer_of[value];
    for (int64_t image = 0; image < images; ++image) {
      float* arena = context.arena.data() + arena_floats * static_cast<std::size_t>(image);
      std::fill_n(arena + buffer.offset, buffer.floats, 0.0F);
    }
    view_of(value, context, images).copy_(tensor);
  }

  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Context>> idle_;
};

}  // namespace bsconv::infer
