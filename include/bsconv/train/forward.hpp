// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>

#include <bsconv/data/batch_source.hpp>
#include <bsconv/nn/forward_function.hpp>
#include <bsconv/train/autocast.hpp>
#include <bsconv/train/choices.hpp>

namespace bsconv::train {

/// Here it turns images [N, C, H, W] into logits [N, classes].
using bsconv::ForwardFunction;

namespace detail {

/// The images of `batch` where and as a model wants them.
inline torch::Tensor images_for(const data::Batch& batch, torch::Device device,
                                bool channels_last) {
  const auto images = batch.images.to(device);
  return channels_last ? images.contiguous(torch::MemoryFormat::ChannelsLast) : images;
}

/// `forward(images)` with operators in `precision`.
inline torch::Tensor autocast_forward(const ForwardFunction& forward, const torch::Tensor& images,
                                      Precision precision) {
  const AutocastGuard guard(images.device(), precision);
  return forward(images);
}

}  // namespace detail

}  // namespace bsconv::train
