// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <functional>
#include <vector>

#include <torch/types.h>

#include <bsconv/train/metrics.hpp>

namespace bsconv::train {

/// Repeats the steps of a training without starting their operators one by one. `cuda::StepGraph`
/// is one, on CUDA graphs.
class StepRecorder {
 public:
  /// A whole step on the inputs: forward, backward, new weights. All that changes from one to the
  /// next is in tensors that stay where they are, or made anew in each.
  using Step = std::function<StepResult(const std::vector<torch::Tensor>& inputs)>;

  virtual ~StepRecorder() = default;

  /// Does `step` on `inputs` (a tensor may be undefined), by calling it or by repeating a call of
  /// it. The result is the caller's own.
  virtual StepResult run(const std::vector<torch::Tensor>& inputs, const Step& step) = 0;

  /// Forgets what was recorded: weights or the optimizer's state now lie elsewhere.
  virtual void forget() = 0;
};

}  // namespace bsconv::train
