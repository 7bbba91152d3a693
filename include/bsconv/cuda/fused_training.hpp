// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/operators.hpp>
#include <bsconv/cuda/device_compiler.hpp>
#include <bsconv/gpu/training_function.hpp>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

/// \file
/// Fused training on CUDA devices: pointwise convolutions, and depthwise ones with the batch
/// normalizations, activations and residuals behind them, as few kernels, forward and backward,
/// compiled by NVRTC for the sizes at hand. Pointwise convolutions that cuDNN does faster are its.
///
/// Including this header in one source file of a program is enough, as with
/// bsconv/fused_training.hpp. bsconv/cuda.hpp includes it.

namespace bsconv::cuda {

namespace detail {

/// The operators for training on `device`.
inline gpu::TrainingOperators& training_operators_of(torch::Device device) {
  static std::mutex mutex;
  static std::map<c10::DeviceIndex, std::unique_ptr<gpu::TrainingOperators>> operators;
  const std::lock_guard lock(mutex);
  auto& found = operators[device.index()];
  if (found == nullptr) {
    found = std::make_unique<gpu::TrainingOperators>(device_compiler(device));
  }
  return *found;
}

/// Fills in the table that layers look at.
inline bool register_training_operators() {
  static const bsconv::detail::TrainingOperators operators = {
      [](int64_t channels, int64_t /*pixels*/) { return channels > 0; },
      [](const torch::Tensor& input, const std::vector<bsconv::detail::TrainingBlock>& blocks,
         const torch::Tensor& residual) {
        auto& found = training_operators_of(input.device());
        return bsconv::detail::run_one_by_one(
            input, blocks, residual,
            [&](const torch::Tensor& x, const bsconv::detail::TrainingBlock& block,
                const torch::Tensor& added) { return found.block(x, block, added); });
      },
      [](const torch::Tensor& input, const bsconv::detail::TrainingBatchNorm& norm,
         kernels::Activation activation, const torch::Tensor& residual) {
        return training_operators_of(input.device()).norm(input, norm, activation, residual);
      }};
  bsconv::detail::training_operators(torch::kCUDA).store(&operators);
  return true;
}

inline const bool training_operators_registered = register_training_operators();

}  // namespace detail

}  // namespace bsconv::cuda
