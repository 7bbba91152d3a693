// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/types.h>
#include <bsconv/autograd/reference.hpp>
#include <bsconv/nn/bsconv_s.hpp>
#include <bsconv/nn/bsconv_u.hpp>
#include <bsconv/nn/fused_layers.hpp>

#include <cstddef>
#include <optional>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

namespace bsconv::detail {

/// `module` as a `Type`, null if it is another one; a derived class, which may have a `forward` of
/// its own, is another one.
template <class Type, class Module>
auto exactly(Module* module) {
  using Found = std::conditional_t<std::is_const_v<Module>, const Type, Type>;
  return module != nullptr && typeid(*module) == typeid(Type) ? dynamic_cast<Found*>(module)
                                                              : nullptr;
}

/// The activation that `module` is, if the fused kernels for training know it.
inline std::optional<kernels::Activation> fusible_activation(const torch::nn::Module* module) {
  if (exactly<torch::nn::ReLUImpl>(module) != nullptr) {
    return kernels::Activation::relu;
  }
  if (exactly<torch::nn::ReLU6Impl>(module) != nullptr) {
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

/// The parts of the BSConv layer that `module` is; none if it is another module, or one that
/// `fuse()` has changed.
inline std::optional<LayerParts> bsconv_parts(const torch::nn::Module* module) {
  if (const auto* layer = exactly<BSConvUImpl>(module)) {
    return layer->parts();
  }
  const auto* layer = exactly<BSConvSImpl>(module);
  return layer != nullptr && !layer->is_fused() ? std::optional(layer->parts()) : std::nullopt;
}

/// Runs the first of the modules `at(0)`, `at(1)`, … (null behind the last), each on the output of
/// the one before, as far as they fit together, on the fused kernels for training: BSConv layers
/// with a batch normalization behind each, a pointwise convolution with one, or a batch
/// normalization, and in all cases an activation. None where nothing fits.
template <class At>
std::optional<FusedRun> fused_run(const At& at, const torch::Tensor& input) {
  const auto* first = at(0);
  if (!first->is_training()) {
    return std::nullopt;
  }
  const auto norm_at = [&](std::size_t index) {
    return exactly<torch::nn::BatchNorm2dImpl>(at(index));
  };
  std::vector<NormalizedLayer> layers;
  std::vector<std::size_t> modules = {0};
  for (std::size_t i = 0;;) {
    const auto parts = bsconv_parts(at(i));
    const auto* norm = parts ? norm_at(i + 1) : nullptr;
    if (norm == nullptr) {
      break;
    }
    const auto activation = fusible_activation(at(i + 2));
    layers.push_back({*parts, norm, activation.value_or(kernels::Activation::identity)});
    i += activation ? 3 : 2;
    modules.push_back(i);
  }
  if (!layers.empty()) {
    const auto found = fused_layers(input, layers);
    if (found.operators == nullptr) {
      return std::nullopt;
    }
    return FusedRun{modules.at(found.blocks.size()),
                    found.operators->blocks(input, found.blocks, {})};
  }
  const auto* conv = exactly<torch::nn::Conv2dImpl>(first);
  const std::size_t norm_index = conv != nullptr ? 1 : 0;
  const auto* norm = norm_at(norm_index);
  if (norm == nullptr) {
    return std::nullopt;
  }
  const auto convolved = conv != nullptr ? fused_pointwise(input, *conv) : input;
  if (!convolved) {
    return std::nullopt;
  }
  const auto activation = fusible_activation(at(norm_index + 1));
  auto output =
      fused_norm(*convolved, *norm, {activation.value_or(kernels::Activation::identity), {}});
  if (output) {
    return FusedRun{norm_index + (activation ? 2 : 1), *std::move(output)};
  }
  return conv != nullptr ? std::optional(FusedRun{1, *convolved}) : std::nullopt;
}

/// Runs `layer` (any module) and `norm` behind it, adds `residual` and applies `activation`, on the
/// fused kernels for training as far as they apply; none where they don't at all. `call_layer` and
/// `call_norm` run the modules otherwise.
template <class CallLayer, class CallNorm>
std::optional<torch::Tensor> fused_residual(const torch::nn::Module& layer,
                                            const torch::nn::BatchNorm2dImpl& norm,
                                            const torch::Tensor& input, const Followers& followers,
                                            const CallLayer& call_layer,
                                            const CallNorm& call_norm) {
  if (!norm.is_training() ||
      training_operators_for(input, norm.options.num_features()) == nullptr) {
    return std::nullopt;
  }
  if (const auto parts = bsconv_parts(&layer)) {
    return run_fused_layers(input, {{*parts, &norm, followers.activation}}, followers.residual);
  }
  if (is_autocast_on_cpu(input)) {
    return std::nullopt;
  }
  const auto* conv = exactly<torch::nn::Conv2dImpl>(&layer);
  auto output = conv == nullptr ? std::nullopt : fused_pointwise(input, *conv);
  if (!output) {
    output = call_layer(input);
  }
  auto result = fused_norm(*output, norm, followers);
  return result
             ? result
             : reference_activation(call_norm(*output), followers.residual, followers.activation);
}

}  // namespace bsconv::detail
