// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace bsconv::detail {

/// An uninitialized `[N, channels, height, width]` tensor with the images, elements and device of
/// `like`, in channels_last order.
inline torch::Tensor empty_images(const torch::Tensor& like, int64_t channels, int64_t height,
                                  int64_t width) {
  return torch::empty({like.size(0), channels, height, width}, like.options(),
                      torch::MemoryFormat::ChannelsLast);
}

/// A tensor in channels_last order: `tensor` itself where it is.
inline torch::Tensor channels_last(const torch::Tensor& tensor) {
  return tensor.contiguous(torch::MemoryFormat::ChannelsLast);
}

/// The same for a tensor that may be undefined.
inline torch::Tensor channels_last_if_any(const torch::Tensor& tensor) {
  return tensor.defined() ? channels_last(tensor) : tensor;
}

}  // namespace bsconv::detail
