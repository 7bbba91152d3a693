// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/types.h>
#include <bsconv/nn/bsconv_s.hpp>
#include <bsconv/nn/bsconv_u.hpp>
#include <bsconv/nn/fused_layers.hpp>

#include <cstddef>
#include <optional>
#include <utility>

namespace bsconv::detail {

/// The activation that `module` is, if the fused kernels for training know it.
inline std::optional<kernels::Activation> fusible_activation(const torch::nn::Module* module) {
  if (dynamic_cast<const torch::nn::ReLUImpl*>(module) != nullptr) {
    return kernels::Activation::relu;
  }
  if (dynamic_cast<const torch::nn::ReLU6Impl*>(module) != nullptr) {
    return kernels::Activation::relu6;
  }
  return std::nullopt;
}

/// Some modules that ran as one.
struct FusedRun {
  /// How many.
  std::size_t modules = 0;
  /// What came out.
  torch::Tensor output;
};

/// Runs `first` and what follows it, as far as they fit together, on the fused kernels for
/// training: a BSConv layer or a pointwise convolution with a batch normalization behind it, or a
/// batch normalization, and in all cases an activation. None where nothing fits. `next` and `last`
/// may be null.
inline std::optional<FusedRun> fused_run(const torch::nn::Module& first,
                                         const torch::nn::Module* next,
                                         const torch::nn::Module* last,
                                         const torch::Tensor& input) {
  if (!first.is_training() || !fused_training_enabled()) {
    return std::nullopt;
  }
  const auto finish = [](std::size_t modules, std::optional<torch::Tensor> output) {
    return output ? std::optional<FusedRun>({modules, *std::move(output)}) : std::nullopt;
  };
  Followers followers;
  if (const auto* norm = dynamic_cast<const torch::nn::BatchNorm2dImpl*>(&first)) {
    const auto activation = fusible_activation(next);
    followers.activation = activation.value_or(kernels::Activation::identity);
    return finish(activation ? 2 : 1, fused_norm(input, *norm, followers));
  }
  followers.norm = dynamic_cast<const torch::nn::BatchNorm2dImpl*>(next);
  if (followers.norm == nullptr) {
    return std::nullopt;
  }
  const auto activation = fusible_activation(last);
  followers.activation = activation.value_or(kernels::Activation::identity);
  const std::size_t modules = activation ? 3 : 2;
  if (const auto* layer = dynamic_cast<const BSConvUImpl*>(&first)) {
    return finish(modules, fused_layer(input, layer->parts(), followers));
  }
  if (const auto* layer = dynamic_cast<const BSConvSImpl*>(&first)) {
    if (!layer->is_fused()) {
      return finish(modules, fused_layer(input, layer->parts(), followers));
    }
  }
  if (const auto* layer = dynamic_cast<const torch::nn::Conv2dImpl*>(&first)) {
    if (auto output = fused_pointwise(input, *layer)) {
      auto run = finish(modules, fused_norm(*output, *followers.norm, followers));
      return run ? std::move(run) : FusedRun{1, *std::move(output)};
    }
  }
  return std::nullopt;
}

/// Runs `layer` (any module: `call` runs it) and `norm` behind it, adds `residual` and applies
/// `activation`, on the fused kernels for training; none where they don't apply.
template <class Call>
std::optional<torch::Tensor> fused_residual(const torch::nn::Module& layer,
                                            const torch::nn::BatchNorm2dImpl& norm,
                                            const torch::Tensor& input, Followers followers,
                                            const Call& call) {
  if (!norm.is_training() ||
      training_operators_for(input, norm.options.num_features()) == nullptr) {
    return std::nullopt;
  }
  followers.norm = &norm;
  if (const auto* bsconv = dynamic_cast<const BSConvUImpl*>(&layer)) {
    return fused_layer(input, bsconv->parts(), followers);
  }
  const auto* bsconv = dynamic_cast<const BSConvSImpl*>(&layer);
  if (bsconv != nullptr) {
    return bsconv->is_fused() ? std::nullopt : fused_layer(input, bsconv->parts(), followers);
  }
  const auto* conv = dynamic_cast<const torch::nn::Conv2dImpl*>(&layer);
  const auto output = conv == nullptr ? std::nullopt : fused_pointwise(input, *conv);
  return fused_norm(output ? *output : call(input), norm, followers);
}

}  // namespace bsconv::detail
