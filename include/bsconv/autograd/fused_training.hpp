// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/macros/Export.h>

#include <atomic>

namespace bsconv {

namespace detail {

C10_EXPORT inline std::atomic<bool>& fused_training_flag() {
  static std::atomic<bool> enabled{true};
  return enabled;
}

}  // namespace detail

/// Whether layers in training mode run on this library's fused kernels where those apply: in a
/// program that includes bsconv/fused_training.hpp, on the CPU, and in one that includes
/// bsconv/cuda.hpp, on a GPU; in single precision or under autocast, with gradients on. Results are
/// LibTorch's to rounding. Under autocast those on the CPU are in single precision, as exact as
/// without it. Default: true
///
/// The setting is one for the whole process.
inline bool fused_training_enabled() { return detail::fused_training_flag().load(); }

/// Turns the fused kernels for training on or off; off, every operator is LibTorch's.
inline void set_fused_training_enabled(bool enabled) {
  detail::fused_training_flag().store(enabled);
}

/// Turns the fused kernels for training on or off while it lives.
class FusedTrainingGuard {
 public:
  /// Sets the switch to `enabled`.
  explicit FusedTrainingGuard(bool enabled) : before_(fused_training_enabled()) {
    set_fused_training_enabled(enabled);
  }
  /// Sets the switch back.
  ~FusedTrainingGuard() { set_fused_training_enabled(before_); }
  FusedTrainingGuard(const FusedTrainingGuard&) = delete;
  FusedTrainingGuard& operator=(const FusedTrainingGuard&) = delete;
  FusedTrainingGuard(FusedTrainingGuard&&) = delete;
  FusedTrainingGuard& operator=(FusedTrainingGuard&&) = delete;

 private:
  bool before_;
};

}  // namespace bsconv
