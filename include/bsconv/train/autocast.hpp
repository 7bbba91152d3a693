// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>

#include <optional>

#include <bsconv/train/choices.hpp>
#include <bsconv/util/autocast_scope.hpp>

namespace bsconv::train {

/// While an object of this class lives, operators of its thread run in `precision` where LibTorch's
/// autocast has them do so (Python's `torch.autocast`). With `Precision::f32` it does nothing.
class AutocastGuard {
 public:
  /// Switches it on for tensors of the type of `device`.
  AutocastGuard(torch::Device device, Precision precision)
      : scope_(device.type(), dtype_of(precision)) {}

 private:
  static std::optional<torch::ScalarType> dtype_of(Precision precision) {
    switch (precision) {
      case Precision::bf16:
        return torch::kBFloat16;
      case Precision::fp16:
        return torch::kHalf;
      default:
        return std::nullopt;
    }
  }

  bsconv::detail::AutocastScope scope_;
};

}  // namespace bsconv::train
