// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

namespace bsconv::detail {

/// `module.to(device, dtype)` as Python does it: buffers of whole numbers, such as a batch norm's
/// `num_batches_tracked`, keep their dtype. LibTorch's own converts them too.
inline void convert(torch::nn::Module& module, torch::Device device, torch::Dtype dtype) {
  module.to(device);
  const auto cast = [&](const torch::Tensor& tensor) {
    if (tensor.defined() && tensor.is_floating_point()) {
      tensor.set_data(tensor.to(dtype));
    }
  };
  for (const auto& parameter : module.parameters()) {
    cast(parameter);
  }
  for (const auto& buffer : module.buffers()) {
    cast(buffer);
  }
}

/// Lays the weights of convolutions [O, I, H, W] in memory with channels last.
inline void use_channels_last(const torch::nn::Module& module) {
  const torch::NoGradGuard no_grad;
  for (auto& parameter : module.parameters()) {
    if (parameter.dim() == 4) {
      parameter.set_data(parameter.detach().contiguous(torch::MemoryFormat::ChannelsLast));
    }
  }
}

}  // namespace bsconv::detail
