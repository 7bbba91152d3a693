// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/autocast_mode.h>
#include <torch/types.h>

#include <optional>

namespace bsconv::detail {

/// While an object of this class lives, operators of its thread run in another type of numbers
/// where LibTorch's autocast has them do so (Python's `torch.autocast`).
class AutocastScope {
 public:
  /// Switches it to `dtype` for tensors on devices of `type`; without a dtype, does nothing.
  AutocastScope(torch::DeviceType type, std::optional<torch::ScalarType> dtype)
      : active_(dtype.has_value()), type_(type) {
    if (active_) {
      enabled_ = at::autocast::is_autocast_enabled(type_);
      dtype_ = at::autocast::get_autocast_dtype(type_);
      at::autocast::set_autocast_enabled(type_, true);
      at::autocast::set_autocast_dtype(type_, *dtype);
      at::autocast::increment_nesting();
    }
  }

  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;
  AutocastScope(AutocastScope&&) = delete;
  AutocastScope& operator=(AutocastScope&&) = delete;

  /// Puts back what was there, and drops the cast copies of weights.
  ~AutocastScope() {
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

}  // namespace bsconv::detail
