// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/macros/Export.h>
#include <torch/types.h>
#include <bsconv/autograd/block.hpp>

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

/// \file
/// The fused operators for training, as layers see them.
///
/// Their kernels take a compiler half a minute, so layers know them by a table alone, one for each
/// type of device; the headers bsconv/fused_training.hpp and bsconv/cuda.hpp fill them in, in
/// whichever source file of a program includes them.

namespace bsconv::detail {

/// The fused operators for training.
struct TrainingOperators {
  /// Whether there are kernels for normalizations of images of this size or, with one pixel, for
  /// blocks of this many output channels.
  bool (*supports)(int64_t channels, int64_t pixels);
  /// Blocks in a row on `input` `[N, C, H, W]`; the last one's output plus `residual`, which may be
  /// undefined, in front of its activation. All but the last have a batch normalization at the end;
  /// the first may have one in front, of images that `supports` says it has kernels for. Under
  /// autocast both may be of any precision.
  torch::Tensor (*blocks)(const torch::Tensor& input, const std::vector<TrainingBlock>& blocks,
                          const torch::Tensor& residual);
  /// `activation(norm(input) + residual)`. On the CPU `input` is in single precision; `residual`
  /// may, under autocast, be of any.
  torch::Tensor (*norm)(const torch::Tensor& input, const TrainingBatchNorm& norm,
                        kernels::Activation activation, const torch::Tensor& residual);
  /// The pointwise convolution of `input` with `weight` `[out, in, 1, 1]`, no padding; null where
  /// LibTorch's are as good. There are kernels if `supports` both numbers of channels.
  torch::Tensor (*pointwise)(const torch::Tensor& input, const torch::Tensor& weight,
                             const std::array<int64_t, 2>& stride) = nullptr;
};

/// Computes `blocks` one after the other, each by `run(input, block, residual)`; see
/// `TrainingOperators::blocks`.
template <class Run>
torch::Tensor run_one_by_one(torch::Tensor input, const std::vector<TrainingBlock>& blocks,
                             const torch::Tensor& residual, const Run& run) {
  for (const auto& block : blocks) {
    input = run(input, block, &block == &blocks.back() ? residual : torch::Tensor());
  }
  return input;
}

/// The operators of this program for tensors on devices of `type`, the CPU or CUDA; null unless it
/// includes bsconv/fused_training.hpp or bsconv/cuda.hpp.
C10_EXPORT inline std::atomic<const TrainingOperators*>& training_operators(c10::DeviceType type) {
  static std::atomic<const TrainingOperators*> cpu{nullptr};
  static std::atomic<const TrainingOperators*> cuda{nullptr};
  static std::atomic<const TrainingOperators*> none{nullptr};
  return type == torch::kCPU ? cpu : type == torch::kCUDA ? cuda : none;
}

}  // namespace bsconv::detail
