// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>

#include <algorithm>
#include <initializer_list>

namespace bsconv::detail {

/// Whether `tensor` lies in memory with channels last.
inline bool has_channels_last(const torch::Tensor& tensor) {
  return tensor.defined() && tensor.dim() == 4 &&
         tensor.suggest_memory_format() == torch::MemoryFormat::ChannelsLast;
}

/// `output` laid out in memory as by LibTorch's convolutions: with channels last only if `input` is
/// or one of the `weights`. The fused kernels for training make no other, and what users do behind
/// a layer, `view` say, must not depend on them.
inline torch::Tensor laid_out(const torch::Tensor& output, const torch::Tensor& input,
                              std::initializer_list<torch::Tensor> weights) {
  const bool stays =
      has_channels_last(input) || std::any_of(weights.begin(), weights.end(), has_channels_last);
  return stays ? output : output.contiguous();
}

}  // namespace bsconv::detail
