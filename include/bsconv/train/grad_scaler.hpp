// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <torch/arg.h>
#include <torch/types.h>

#include <bsconv/train/clip_gradients.hpp>
#include <bsconv/weights/state_dict.hpp>

namespace bsconv::train {

/// Options of `GradScaler`. The defaults are those of Python's `torch.amp.GradScaler`.
struct GradScalerOptions {
  /// The first factor. Default: 2^16.
  TORCH_ARG(double, init_scale) = 65536.0;
  /// What the factor is multiplied by after `growth_interval` good steps. Default: 2.
  TORCH_ARG(double, growth_factor) = 2.0;
  /// What it is multiplied by after a step whose gradients were not finite. Default: 0.5.
  TORCH_ARG(double, backoff_factor) = 0.5;
  /// Good steps in a row before it grows. Default: 2000.
  TORCH_ARG(int64_t, growth_interval) = 2000;
};

/// Keeps float16 gradients from underflow (Micikevicius et al., "Mixed Precision Training", ICLR
/// 2018): the loss is multiplied by a factor, the gradients are divided by it, and a step whose
/// gradients are not finite is left out and lowers the factor.
///
///     scaler.scale(loss).backward();
///     if (scaler.unscale(parameters)) optimizer.step();
///     scaler.update();
class GradScaler {
 public:
  /// A scaler for gradients on `device`. Throws if an option is out of its range.
  explicit GradScaler(torch::Device device, GradScalerOptions options = {}) : options_(options) {
    TORCH_CHECK(options_.init_scale() > 0, "init_scale must be positive, got ",
                options_.init_scale());
    TORCH_CHECK(options_.growth_factor() > 1, "growth_factor must be above 1, got ",
                options_.growth_factor());
    TORCH_CHECK(options_.backoff_factor() > 0 && options_.backoff_factor() < 1,
                "backoff_factor must lie between 0 and 1, got ", options_.backoff_factor());
    TORCH_CHECK(options_.growth_interval() > 0, "growth_interval must be positive, got ",
                options_.growth_interval());
    const auto on_device = torch::TensorOptions(torch::kFloat).device(device);
    scale_ = torch::full({}, options_.init_scale(), on_device);
    found_inf_ = torch::zeros({}, on_device);
    growth_tracker_ = torch::zeros({}, on_device.dtype(torch::kInt));
  }

  /// `loss` times the factor.
  torch::Tensor scale(const torch::Tensor& loss) const { return loss * scale_; }

  /// Divides the gradients of `parameters` by the factor; returns whether all are finite. Waits for
  /// the device.
  bool unscale(const std::vector<torch::Tensor>& parameters) {
    const torch::NoGradGuard no_grad;
    found_inf_.zero_();
    const auto gradients = gradients_of(parameters);
    if (!gradients.empty()) {
      at::_amp_foreach_non_finite_check_and_unscale_(
          gradients, found_inf_, scale_.to(torch::kDouble).reciprocal().to(torch::kFloat));
    }
    return found_inf_.item<float>() == 0;
  }

  /// Adapts the factor to what the last `unscale` found.
  void update() {
    const torch::NoGradGuard no_grad;
    at::_amp_update_scale_(scale_, growth_tracker_, found_inf_, options_.growth_factor(),
                           options_.backoff_factor(), options_.growth_interval());
  }

  /// The factor; waits for the device.
  double factor() const { return scale_.item<double>(); }

  /// Copies of what a checkpoint needs: `scale` and `growth_tracker`.
  weights::StateDict state() const {
    weights::StateDict state;
    state.insert("scale", scale_);
    state.insert("growth_tracker", growth_tracker_);
    return weights::clone_state_dict(state);
  }

  /// Throws `c10::Error` if `state` is not what `state()` returns.
  static void check_state(const weights::StateDict& state) {
    for (const auto& [name, dtype] :
         {std::pair{"scale", torch::kFloat}, std::pair{"growth_tracker", torch::kInt}}) {
      const auto* tensor = state.find(name);
      TORCH_CHECK(tensor != nullptr && tensor->dim() == 0 && tensor->scalar_type() == dtype,
                  "the gradient scaler's '", name, "' is missing or is no ", c10::toString(dtype),
                  " number");
    }
  }

  /// Goes on from `state`, checked by `check_state`.
  void load_state(const weights::StateDict& state) {
    check_state(state);
    const torch::NoGradGuard no_grad;
    scale_.copy_(state["scale"]);
    growth_tracker_.copy_(state["growth_tracker"]);
  }

 private:
  GradScalerOptions options_;
  torch::Tensor scale_;
  torch::Tensor found_inf_;
  torch::Tensor growth_tracker_;
};

}  // namespace bsconv::train
