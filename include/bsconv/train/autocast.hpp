// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/autocast_mode.h>
#include <torch/types.h>

#include <bsconv/train/choices.hpp>

namespace bsconv::train {

/// While an object of this class lives, operators of its thread run in `precision` where LibTorch's
/// autocast has them do so (Python's `torch.autocast`). With `Precision::f32` it does nothing.
class AutocastGuard {
 public:
  /// Switches it on for tensors of the type of `device`.
  AutocastGuard(torch::Device device, Precision precision)
      : active_(precision != Precision::f32), type_(device.type()) {
    if (active_) {
      enabled_ = at::autocast::is_autocast_enabled(type_);
      dtype_ = at::autocast::get_autocast_dtype(type_);
      at::autocast::set_autocast_enabled(type_, true);
      at::autocast::set_autocast_dtype(
          type_, precision == Precision::bf16 ? torch::kBFloat16 : torch::kHalf);
      at::autocast::increment_nesting();
    }
  }

  AutocastGuard(const AutocastGuard&) = delete;
  AutocastGuard& operator=(const AutocastGuard&) = delete;

  /// Puts back what was there, and drops the cast copies of weights.
  ~AutocastGuard() {
    if (active_) {
      if (at::autocast::decrement_nesting() == 0) {
        at::autocast::clear_cache();
      }
      at::autocast::set_autocast_enabled(type_, enabled_);
      at::autocast::set_autocast_dtype(type_, dtype_);
    }
  }

 private:
  bool active_;
  torch::DeviceType type_;
  bool enabled_ = false;
  torch::ScalarType dtype_ = torch::kFloat;
};

}  // namespace bsconv::train
