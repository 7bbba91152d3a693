// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// Fused training on the CPU: BSConv layers, and the batch normalizations, activations and
/// residuals around them, as few operators with kernels of their own, forward and backward.
///
/// Including this header in one source file of a program is enough: all layers of this library then
/// use them in training mode. `FusedTrainingGuard` and `set_fused_training_enabled` turn them off.
/// bsconv/train.hpp includes it.

// IWYU pragma: begin_exports
#include <bsconv/autograd/chain_function.hpp>
#include <bsconv/autograd/fused_training.hpp>
#include <bsconv/autograd/norm_function.hpp>
#include <bsconv/autograd/operators.hpp>
#include <bsconv/autograd/pointwise_function.hpp>
// IWYU pragma: end_exports

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <vector>

namespace bsconv::detail {

/// The kernels whose vectors `pixels` pixels fill, some adjacent ones each, the widest first; null
/// if there are none. With one pixel, vectors divide `channels`.
inline const kernels::TrainingKernelTable* training_kernels_for(int64_t channels,
                                                                int64_t pixels = 1) {
  static const auto tables = kernels::available_kernels();
  for (const auto* table : tables) {
    if (channels > 0 && pixels % pixels_per_group(channels, table->width) == 0) {
      return &kernels::training_kernels(*table);
    }
  }
  return nullptr;
}

/// `images` in single precision, in which the kernels compute; under autocast there are others.
inline torch::Tensor in_single_precision(const torch::Tensor& images) {
  return images.defined() ? images.to(torch::kFloat) : images;
}

/// Computes `activation(norm(input) + residual)` on the kernels that fit `input`.
inline torch::Tensor run_norm_of(const torch::Tensor& input, const TrainingBatchNorm& norm,
                                 kernels::Activation activation, const torch::Tensor& residual) {
  return run_norm(input, norm, activation, residual,
                  *training_kernels_for(input.size(1), input.size(2) * input.size(3)));
}

/// Computes `blocks`, together where the same vectors fit all of them.
inline torch::Tensor run_blocks(const torch::Tensor& images,
                                const std::vector<TrainingBlock>& blocks,
                                const torch::Tensor& added) {
  const auto input = in_single_precision(images);
  const auto residual = added.is_same(images) ? input : in_single_precision(added);
  const auto kernels_of = [](const TrainingBlock& block) {
    return training_kernels_for(block.pointwise.size(0));
  };
  const auto* kernels = kernels_of(blocks.front());
  const auto& first = blocks.front();
  if (first.input_norm && input.size(1) % kernels->forward->width != 0) {
    auto rest = blocks;
    rest.front().input_norm.reset();
    return run_blocks(run_norm_of(input, *first.input_norm, first.input_activation, {}), rest,
                      residual);
  }
  if (std::all_of(blocks.begin(), blocks.end(),
                  [&](const TrainingBlock& block) { return kernels_of(block) == kernels; })) {
    return run_chain(input, blocks, residual, *kernels);
  }
  return run_one_by_one(
      input, blocks, residual,
      [&](const torch::Tensor& x, const TrainingBlock& block, const torch::Tensor& added_here) {
        return run_chain(x, {block}, added_here, *kernels_of(block));
      });
}

/// Fills in the table that layers look at.
inline bool register_training_operators() {
  static const TrainingOperators operators = {
      [](int64_t channels, int64_t pixels) {
        return training_kernels_for(channels, pixels) != nullptr;
      },
      run_blocks,
      [](const torch::Tensor& input, const TrainingBatchNorm& norm, kernels::Activation activation,
         const torch::Tensor& residual) {
        return run_norm_of(input, norm, activation, in_single_precision(residual));
      },
      [](const torch::Tensor& input, const torch::Tensor& weight,
         const std::array<int64_t, 2>& stride) {
        return run_pointwise(input, weight, stride,
                             *training_kernels_for(std::gcd(input.size(1), weight.size(0))));
      }};
  training_operators(torch::kCPU).store(&operators);
  return true;
}

inline const bool training_operators_registered = register_training_operators();

}  // namespace bsconv::detail
