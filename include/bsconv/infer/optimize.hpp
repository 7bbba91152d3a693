// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/arg.h>
#include <torch/nn/module.h>
#include <torch/types.h>
#include <bsconv/capture/operator_capture.hpp>
#include <bsconv/infer/capture.hpp>
#include <bsconv/infer/executable.hpp>
#include <bsconv/infer/planner.hpp>
#include <bsconv/infer/report.hpp>
#include <bsconv/kernels/table.hpp>
#include <bsconv/nn/any_layer.hpp>
#include <bsconv/util/autocast_scope.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

/// \file
/// Fast inference for any model.

namespace bsconv {

/// Options of `optimize`.
struct OptimizeOptions {
  /// The kernels to use: "avx512", "avx2" or "baseline" ("neon" on ARM); empty for the fastest that
  /// this processor has. Default: empty
  TORCH_ARG(std::string, kernels);
  /// How many shapes of input to keep plans for; the one unused for longest goes. Default: 16
  TORCH_ARG(int64_t, max_plans) = 16;
  /// Whether every plan's result for an input that it was not made from is compared with
  /// LibTorch's, and LibTorch runs the shape where they differ by more than rounding explains: in
  /// 32-bit floats 0.1 % of the mean magnitude and 0.001 % of the greatest. Default: true
  TORCH_ARG(bool, verify) = true;
  /// What is computed with: `torch::kFloat32`, on a processor with AVX512-BF16 `kBFloat16` for the
  /// products of convolutions, on a GPU that or `kFloat16`. Input and output are floats whatever it
  /// is. Default: `torch::kFloat32`
  TORCH_ARG(torch::Dtype, dtype) = torch::kFloat32;
};

/// A model that runs as a few fused steps: on the CPU over memory that stays in the caches, on a
/// GPU as kernels compiled for its sizes. Made by `optimize`; cheap to copy, copies share
/// everything.
///
/// The first call with a new shape of input runs the model through LibTorch to see what it does,
/// and once more to compare; later calls don't. What the plan doesn't know runs through LibTorch in
/// between, see `report()`. Results carry no gradients.
///
/// Any number of threads may call one object at once. A single call uses
/// `torch::get_num_threads()` threads, over the images of a batch or within an image.
class OptimizedModel {
 public:
  /// How a model is called.
  using Forward = std::function<torch::Tensor(const torch::Tensor&)>;

  /// See `optimize`.
  OptimizedModel(std::shared_ptr<torch::nn::Module> model, Forward forward,
                 const torch::Tensor& example, const OptimizeOptions& options)
      : state_(std::make_shared<State>(std::move(model), std::move(forward), example, options)) {
    state_->check_input(example);
    static_cast<void>(state_->plan_for(example));
  }

  /// Maps `input` as the model would. It must be a float tensor on the example's device
  /// with as many dimensions and channels; batch and image sizes are free.
  ///
  /// Throws `c10::Error` for another input, if the model is in training mode, or if a parameter
  /// or buffer has changed since `optimize`. Changes that LibTorch doesn't count, through `data()`
  /// or a pointer, go unnoticed.
  torch::Tensor forward(const torch::Tensor& input) const {
    state_->check_input(input);
    state_->check_model();
    const torch::NoGradGuard no_grad;
    // The caller's autocast has no say in what is computed, whether a plan does it or LibTorch.
    const c10::impl::ExcludeDispatchKeyGuard as_planned(c10::autocast_dispatch_keyset);
    // What is part of a model that is being captured must be seen operator by operator.
    if (input.numel() == 0 || bsconv::detail::operator_observer() != nullptr) {
      return state_->forward(input);
    }
    const auto entry = state_->plan_for(input);
    if (entry->plan != nullptr) {
      try {
        return entry->plan->run(input.contiguous());
      } catch (const infer::NotCapturable&) {
        // With these numbers the model goes another way.
      }
    }
    return state_->forward(input);
  }

  /// The same.
  torch::Tensor operator()(const torch::Tensor& input) const { return forward(input); }

  /// What was made of the model for inputs of the example's shape.
  const InferenceReport& report() const { return state_->first; }

  /// The report for inputs like `input` with the time of every step: the least of `repeats` runs
  /// of the first image on one thread. Zeros if LibTorch runs a part of the model on the CPU.
  InferenceReport profile(const torch::Tensor& input, int64_t repeats = 100) const {
    TORCH_CHECK_VALUE(repeats > 0, "OptimizedModel: repeats must be at least 1, got ", repeats);
    check_plannable(input);
    const c10::impl::ExcludeDispatchKeyGuard as_planned(c10::autocast_dispatch_keyset);
    const auto entry = state_->plan_for(input);
    auto timed = entry->report;
    if (entry->plan != nullptr) {
      const auto seconds = entry->plan->time_steps(input.contiguous(), repeats);
      for (std::size_t i = 0; i < seconds.size(); ++i) {
        timed.steps[i].seconds = seconds[i];
      }
    }
    return timed;
  }

  /// What was made of the model for inputs like `input`; plans it if need be.
  InferenceReport report(const torch::Tensor& input) const {
    check_plannable(input);
    return state_->plan_for(input)->report;
  }

 private:
  void check_plannable(const torch::Tensor& input) const {
    state_->check_input(input);
    TORCH_CHECK_VALUE(input.numel() > 0,
                      "OptimizedModel: there is no plan for an empty input, got ", input.sizes());
    state_->check_model();
  }

  struct Entry {
    std::unique_ptr<infer::Executable> plan;
    InferenceReport report;
  };

  // A tensor of the model as it was when it was packed.
  struct Packed {
    torch::Tensor tensor;
    const void* data;
    int64_t version;
  };

  struct State {
    State(std::shared_ptr<torch::nn::Module> module, Forward call, const torch::Tensor& example,
          const OptimizeOptions& chosen)
        : model(std::move(module)),
          forward(std::move(call)),
          options(chosen),
          kernels(kernels_for(example, chosen)) {
      TORCH_CHECK_VALUE(options.max_plans() > 0, "optimize: max_plans must be at least 1, got ",
                        options.max_plans());
      TORCH_CHECK_VALUE(example.defined() && (example.dim() == 4 || example.dim() == 2),
                        "optimize: the example input must be [N, C, H, W] or [N, C], got ",
                        example.defined() ? c10::str(example.sizes()) : "an undefined tensor");
      device = example.device();
      if (!device.is_cpu()) {
        planner = infer::gpu_planner();
        TORCH_CHECK_VALUE(device.is_cuda() && planner != nullptr, "optimize: there is no plan for ",
                          device.str(),
                          ", only for the CPU, and for CUDA where the program includes "
                          "<bsconv/cuda.hpp>");
      }
      TORCH_CHECK_VALUE(example.numel() > 0, "optimize: the example input must have an image, got ",
                        example.sizes());
      sizes = example.sizes().vec();
      for (const auto& part : model->named_modules()) {
        parts.emplace_back(part.value(), part.key());
      }
      check_model();
    }

    static const kernels::KernelTable& kernels_for(const torch::Tensor& example,
                                                   const OptimizeOptions& options) {
      const bool on_cpu = !example.defined() || example.is_cpu();
      return kernels::find_kernels(options.kernels(), on_cpu ? options.dtype() : torch::kFloat);
    }

    void check_input(const torch::Tensor& input) const {
      TORCH_CHECK_VALUE(input.defined(), "OptimizedModel: the input is undefined");
      TORCH_CHECK_VALUE(input.scalar_type() == torch::kFloat && input.device() == device,
                        "OptimizedModel: the input must be a float tensor on ",
                        device.is_cpu() ? "the CPU" : device.str(), ", got ",
                        c10::toString(input.scalar_type()), " on ", input.device().str());
      TORCH_CHECK_VALUE(
          input.dim() == static_cast<int64_t>(sizes.size()) && input.size(1) == sizes[1],
          "OptimizedModel: the input must be [N, ", sizes[1], sizes.size() == 4 ? ", H, W]" : "]",
          ", got ", input.sizes());
    }

    void check_model() const {
      for (const auto& [part, path] : parts) {
        TORCH_CHECK(!part->is_training(),
                    "OptimizedModel: ", path.empty() ? "the model" : "'" + path + "'",
                    " is in training mode; call eval() first");
      }
      const std::lock_guard lock(mutex);
      for (const auto& packed : constants) {
        TORCH_CHECK(
            packed.data == data_of(packed.tensor) && packed.version == version_of(packed.tensor),
            "OptimizedModel: ", name_of(packed.tensor),
            " has changed since optimize(); call optimize() again");
      }
    }

    std::shared_ptr<const Entry> plan_for(const torch::Tensor& input) {
      const auto key = input.sizes().vec();
      {
        const std::lock_guard lock(mutex);
        const auto found = plans.find(key);
        if (found != plans.end()) {
          found->second.second = ++uses;
          return found->second.first;
        }
      }
      // One shape is planned at a time; the other threads go on with theirs.
      const std::lock_guard planning(planning_mutex);
      {
        const std::lock_guard lock(mutex);
        const auto found = plans.find(key);
        if (found != plans.end()) {
          return found->second.first;
        }
      }
      // As it will run, whatever the caller's autocast.
      const c10::impl::ExcludeDispatchKeyGuard as_planned(c10::autocast_dispatch_keyset);
      std::shared_ptr<const Entry> made = make(input);
      const std::lock_guard lock(mutex);
      if (plans.empty()) {
        first = made->report;
      }
      if (static_cast<int64_t>(plans.size()) >= options.max_plans()) {
        auto oldest = plans.begin();
        for (auto it = plans.begin(); it != plans.end(); ++it) {
          oldest = it->second.second < oldest->second.second ? it : oldest;
        }
        plans.erase(oldest);
      }
      plans[key] = {made, ++uses};
      return made;
    }

    std::shared_ptr<torch::nn::Module> model;
    Forward forward;
    OptimizeOptions options;
    const kernels::KernelTable& kernels;
    std::vector<int64_t> sizes;
    torch::Device device = torch::kCPU;
    InferenceReport first;

   private:
    friend OptimizedModel;

    std::shared_ptr<const Entry> make(const torch::Tensor& input) {
      auto entry = std::make_shared<Entry>();
      const torch::NoGradGuard no_grad;
      try {
        auto captured = infer::capture(forward, input);
        {
          const std::lock_guard lock(mutex);
          for (const auto& tensor : captured.graph.constants) {
            if (known.insert(tensor.unsafeGetTensorImpl()).second) {
              constants.push_back({tensor, data_of(tensor), version_of(tensor)});
            }
          }
        }
        entry->plan = device.is_cpu() ? infer::make_plan(std::move(captured.graph), kernels, packs)
                                      : planner(std::move(captured.graph), input, options.dtype());
        entry->report = entry->plan->report();
        if (options.verify()) {
          verify(*entry, input);
        }
      } catch (const infer::NotCapturable& error) {
        entry->plan = nullptr;
        entry->report.eager = error.what();
      }
      entry->report.input = input.sizes().vec();
      if (entry->report.kernels.empty()) {
        entry->report.kernels = device.is_cpu() ? kernels.name : device.str();
      }
      return entry;
    }

    // On another input than the captured one: what depends on the input must not have become a
    // constant. No two of its pixels are alike, though the captured ones may be: none may be
    // mistaken for another.
    void verify(Entry& entry, const torch::Tensor& captured) const {
      const auto pattern = torch::arange(captured.numel(), captured.options()).mul_(0.7).sin_();
      const auto other =
          (captured.flatten().roll(1) * 0.75 + 0.125 + 0.5 * pattern).view(captured.sizes());
      // Models may change their input.
      const auto expected = forward(other.clone()).to(torch::kDouble);
      const auto result = run_plan(entry, other);
      if (expected.numel() == 0) {
        if (result.sizes() != expected.sizes()) {
          throw infer::NotCapturable("the plan's result has another shape than LibTorch's");
        }
        return;
      }
      const auto distance = [&expected](const torch::Tensor& found) {
        return found.sizes() == expected.sizes()
                   ? (found.to(torch::kDouble) - expected).abs().max().item<double>()
                   : std::numeric_limits<double>::infinity();
      };
      const double error = distance(result);
      const double scale = expected.abs().mean().item<double>();
      // Few of many values may be large.
      const double greatest = expected.abs().max().item<double>();
      double allowed = entry.plan->tolerance() * (scale + 0.01 * greatest) + 1e-6;
      if (error > allowed && options.dtype() != torch::kFloat) {
        // Some networks lose more in 16 bits, with LibTorch's operators too.
        const bsconv::detail::AutocastScope rounded(device.type(), options.dtype());
        allowed = std::max(allowed, 2 * distance(forward(other.clone())));
      }
      // An input with NaNs proves nothing.
      if (std::isfinite(scale) && !(error <= allowed)) {
        throw infer::NotCapturable("the plan's result differed from LibTorch's by " +
                                   std::to_string(error) + " at a mean magnitude of " +
                                   std::to_string(scale));
      }
    }

    static torch::Tensor run_plan(const Entry& entry, const torch::Tensor& input) {
      try {
        return entry.plan->run(input);
      } catch (const c10::Error& error) {
        // LibTorch has just run the same.
        throw infer::NotCapturable("the plan fails: " +
                                   std::string(error.what_without_backtrace()));
      }
    }

    static const void* data_of(const torch::Tensor& tensor) {
      return tensor.has_storage() ? tensor.const_data_ptr() : nullptr;
    }

    static int64_t version_of(const torch::Tensor& tensor) {
      return tensor.is_inference() ? 0 : static_cast<int64_t>(tensor._version());
    }

    std::string name_of(const torch::Tensor& tensor) const {
      const auto find = [&](const auto& items) -> std::string {
        for (const auto& item : items) {
          if (item.value().defined() && item.value().is_same(tensor)) {
            return "'" + item.key() + "'";
          }
        }
        return {};
      };
      auto name = find(model->named_parameters());
      name = name.empty() ? find(model->named_buffers()) : name;
      return name.empty() ? "a tensor of the model" : name;
    }

    // Kept alive: a layer may be exchanged afterwards.
    std::vector<std::pair<std::shared_ptr<const torch::nn::Module>, std::string>> parts;
    infer::PackCache packs;
    infer::DevicePlanner planner;
    mutable std::mutex mutex;
    std::mutex planning_mutex;
    std::unordered_set<const c10::TensorImpl*> known;
    std::vector<Packed> constants;
    std::map<std::vector<int64_t>, std::pair<std::shared_ptr<const Entry>, uint64_t>> plans;
    uint64_t uses = 0;
  };

  std::shared_ptr<State> state_;
};

/// Makes `model` fast for inference: batch normalizations, activations and sums are folded into
/// convolutions, and a pointwise convolution runs together with the depthwise one behind it.
/// The model itself stays as it is, and must stay so: see `OptimizedModel::forward`. Replace layers
/// before, not afterwards.
///
/// `model` is any holder, a `std::shared_ptr` or an `AnyModule`, in evaluation mode; `example` is a
/// float tensor
/// `[N, C, H, W]` or `[N, C]` on the CPU, or on a GPU in a program that includes <bsconv/cuda.hpp>.
/// Outputs equal the model's to rounding (1e-4 of their mean magnitude).
///
/// Example:
/// ```
/// model->eval();
/// const auto fast = bsconv::optimize(model, torch::zeros({1, 3, 32, 32}));
/// const auto logits = fast(images);
/// ```
inline OptimizedModel optimize(AnyLayer model, const torch::Tensor& example,
                               const OptimizeOptions& options = {}) {
  const auto module = model.ptr();
  return OptimizedModel(
      module,
      [layer = std::move(model)](const torch::Tensor& input) mutable {
        return layer.forward(input);
      },
      example, options);
}

}  // namespace bsconv
