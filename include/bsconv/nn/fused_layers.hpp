// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/autocast_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/types.h>
#include <bsconv/autograd/block.hpp>
#include <bsconv/autograd/fused_training.hpp>
#include <bsconv/autograd/operators.hpp>
#include <bsconv/capture/operator_capture.hpp>
#include <bsconv/nn/call_observer.hpp>
#include <bsconv/nn/graft.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

/// \file
/// When layers run on the fused kernels for training, and as what.

namespace bsconv::detail {

/// What follows a batch normalization: an activation and, in front of it, a residual, as far as
/// there are.
struct Followers {
  kernels::Activation activation = kernels::Activation::identity;
  torch::Tensor residual;
};

/// Whether `tensor` is a tensor of numbers on `device`, and no more than that: without a tangent of
/// forward-mode differentiation, too.
inline bool is_plain(const torch::Tensor& tensor, torch::Device device) {
  return tensor.device() == device && tensor.layout() == torch::kStrided &&
         !at::isTensorSubclassLike(tensor) && !tensor._fw_grad(/*level=*/0).defined();
}

/// Whether `tensor` is undefined, or plain and single precision: all that layers own. On a GPU its
/// elements must follow each other, as kernels there don't look at strides.
inline bool is_own(const torch::Tensor& tensor, torch::Device device) {
  return !tensor.defined() || (is_plain(tensor, device) && tensor.scalar_type() == torch::kFloat &&
                               (device.is_cpu() || tensor.is_contiguous() ||
                                tensor.is_contiguous(torch::MemoryFormat::ChannelsLast)));
}

/// Whether autocast is on for `tensor` on the CPU. Then only BSConv layers with what surrounds them
/// and normalizations of images in single precision run on fused kernels: other products are faster
/// in lower precision, and its images take longer to convert than LibTorch takes to normalize them.
inline bool is_autocast_on_cpu(const torch::Tensor& tensor) {
  return tensor.is_cpu() && at::autocast::is_autocast_enabled(torch::kCPU);
}

/// Whether `tensor` can be images for the fused operators of `device`: of any precision on a GPU
/// and, under autocast, on the CPU, whose operators compute in single precision; else single.
inline bool is_image(const torch::Tensor& tensor, torch::Device device) {
  const auto type = tensor.scalar_type();
  return is_plain(tensor, device) &&
         (type == torch::kFloat || ((type == torch::kHalf || type == torch::kBFloat16) &&
                                    (device.is_cuda() || is_autocast_on_cpu(tensor))));
}

/// The fused operators, if images `[N, C, H, W]` can be trained on them at this moment: nobody
/// watches operators, and nothing else has been switched on for them. Else null.
inline const TrainingOperators* training_operators_for(const torch::Tensor& input) {
  if (!input.defined() || input.dim() != 4 || input.numel() == 0) {
    return nullptr;
  }
  const auto device = input.device();
  const auto* operators = training_operators(device.type()).load();
  const bool applies =
      operators != nullptr && fused_training_enabled() && torch::GradMode::is_enabled() &&
      is_image(input, device) && CallObserver::current() == nullptr &&
      !c10::impl::tls_local_dispatch_key_set().included_.has_any(
          c10::DispatchKeySet({c10::DispatchKey::Tracer, c10::DispatchKey::FuncTorchVmapMode,
                               c10::DispatchKey::FuncTorchDynamicLayerFrontMode,
                               c10::DispatchKey::Python, capture_key}));
  return applies ? operators : nullptr;
}

/// The same for layers with `channels` output channels.
inline const TrainingOperators* training_operators_for(const torch::Tensor& input,
                                                       int64_t channels) {
  const auto* operators = training_operators_for(input);
  return operators != nullptr && operators->supports(channels, 1) ? operators : nullptr;
}

/// `norm` as the kernels of `device` take it; none if they can't, over `values` values a channel.
inline std::optional<TrainingBatchNorm> training_norm(const torch::nn::BatchNorm2dImpl& norm,
                                                      int64_t channels, int64_t values,
                                                      torch::Device device) {
  if (!norm.is_training() || norm.options.num_features() != channels || values < 2 ||
      !is_own(norm.weight, device) || !is_own(norm.bias, device) ||
      !is_own(norm.running_mean, device) || !is_own(norm.running_var, device)) {
    return std::nullopt;
  }
  TrainingBatchNorm result;
  result.weight = norm.weight;
  result.bias = norm.bias;
  result.running_mean = norm.running_mean;
  result.running_var = norm.running_var;
  result.num_batches_tracked = norm.num_batches_tracked;
  result.eps = norm.options.eps();
  result.momentum = norm.options.momentum();
  return result;
}

/// The geometry of `conv` as the kernels take it; none if they can't.
inline std::optional<DepthwiseGeometry> depthwise_geometry(const torch::nn::Conv2dImpl& conv) {
  const auto& options = conv.options;
  if (!std::holds_alternative<torch::enumtype::kZeros>(options.padding_mode())) {
    return std::nullopt;
  }
  DepthwiseGeometry result{*options.kernel_size(), *options.stride(), {}, *options.dilation()};
  const auto& padding = options.padding();
  for (std::size_t i = 0; i < 2; ++i) {
    const int64_t reach = result.reach(static_cast<int>(i));
    if (const auto* numbers = std::get_if<torch::ExpandingArray<2>>(&padding)) {
      result.padding[i] = (**numbers)[i];
    } else if (std::holds_alternative<torch::enumtype::kSame>(padding)) {
      if (reach % 2 != 0) {
        return std::nullopt;
      }
      result.padding[i] = reach / 2;
    }
    if (result.padding[i] > reach) {
      return std::nullopt;
    }
  }
  return result;
}

/// The parts of a BSConv-U (without `first`) or BSConv-S layer.
struct LayerParts {
  const torch::nn::Conv2dImpl* first = nullptr;
  const torch::nn::BatchNorm2dImpl* first_norm = nullptr;
  const torch::nn::Conv2dImpl* pointwise = nullptr;
  const torch::nn::BatchNorm2dImpl* pointwise_norm = nullptr;
  const torch::nn::Conv2dImpl* depthwise = nullptr;
};

/// The same with the batch normalization and the activation behind them, and in front of them, as
/// far as there are; activations only with a batch normalization.
struct NormalizedLayer {
  LayerParts parts;
  const torch::nn::BatchNorm2dImpl* norm = nullptr;
  kernels::Activation activation = kernels::Activation::identity;
  const torch::nn::BatchNorm2dImpl* input_norm = nullptr;
  kernels::Activation input_activation = kernels::Activation::identity;
};

/// `layer` as the kernels of `device` take it, on images of these sizes, `[N, C, H, W]`, which
/// become those of its output; none if the kernels can't.
inline std::optional<TrainingBlock> training_block(const NormalizedLayer& layer,
                                                   std::array<int64_t, 4>& sizes,
                                                   torch::Device device) {
  const auto& parts = layer.parts;
  const auto plain = [&](const torch::nn::Conv2dImpl* conv, bool pointwise) {
    return conv == nullptr ||
           (grafted_substitute(*conv) == nullptr && conv->weight.defined() &&
            is_own(conv->weight, device) && (!pointwise || !conv->bias.defined()));
  };
  const auto& reads = parts.first != nullptr ? *parts.first : *parts.pointwise;
  const auto geometry = depthwise_geometry(*parts.depthwise);
  if (!parts.depthwise->is_training() || !geometry || sizes[1] != reads.options.in_channels() ||
      !plain(parts.first, true) || !plain(parts.pointwise, true) ||
      !plain(parts.depthwise, false) || !is_own(parts.depthwise->bias, device)) {
    return std::nullopt;
  }
  const int64_t out = parts.depthwise->options.out_channels();
  const std::array<int64_t, 4> output = {sizes[0], out, geometry->output_size(0, sizes[2]),
                                         geometry->output_size(1, sizes[3])};
  if (output[2] < 1 || output[3] < 1) {
    return std::nullopt;
  }
  TrainingBlock block;
  const auto add = [&](auto& to, const torch::nn::BatchNorm2dImpl* norm, int64_t channels,
                       const std::array<int64_t, 4>& images) {
    if (norm != nullptr) {
      to = training_norm(*norm, channels, images[0] * images[2] * images[3], device);
    }
    return norm == nullptr || to.has_value();
  };
  if (!add(block.input_norm, layer.input_norm, sizes[1], sizes) ||
      !add(block.first_norm, parts.first_norm, parts.pointwise->options.in_channels(), sizes) ||
      !add(block.pointwise_norm, parts.pointwise_norm, out, sizes) ||
      !add(block.norm, layer.norm, out, output)) {
    return std::nullopt;
  }
  if (parts.first != nullptr) {
    block.first = parts.first->weight;
  }
  block.pointwise = parts.pointwise->weight;
  block.depthwise = parts.depthwise->weight;
  block.bias = parts.depthwise->bias;
  block.geometry = *geometry;
  block.activation = layer.activation;
  block.input_activation = layer.input_activation;
  sizes = output;
  return block;
}

/// Layers in a row as the fused kernels take them.
struct FusedLayers {
  /// The operators that run them; null if there are none.
  const TrainingOperators* operators = nullptr;
  /// The layers, from the first on, as far as the kernels apply.
  std::vector<TrainingBlock> blocks;
  /// Sizes of the output, `[N, C, H, W]`.
  std::array<int64_t, 4> sizes{};
};

/// `layers` on `input`, each on the output of the one before: the first ones that the fused kernels
/// apply to. All but the last have a batch normalization behind them, and none but the first in
/// front.
inline FusedLayers fused_layers(const torch::Tensor& input,
                                const std::vector<NormalizedLayer>& layers) {
  FusedLayers result;
  const auto* operators = training_operators_for(input);
  // Without autocast, LibTorch says that the weights are of another type.
  if (operators == nullptr || (input.scalar_type() != torch::kFloat &&
                               !at::autocast::is_autocast_enabled(input.device().type()))) {
    return result;
  }
  std::copy_n(input.sizes().begin(), 4, result.sizes.begin());
  if (layers.front().input_norm != nullptr &&
      !operators->supports(input.size(1), input.size(2) * input.size(3))) {
    return result;
  }
  for (const auto& layer : layers) {
    if (!operators->supports(layer.parts.depthwise->options.out_channels(), 1)) {
      break;
    }
    auto block = training_block(layer, result.sizes, input.device());
    if (!block) {
      break;
    }
    result.operators = operators;
    result.blocks.push_back(*std::move(block));
  }
  return result;
}

/// Runs `layers` on `input`, all of them, with `residual` (which may be undefined) in front of the
/// last activation; none where the kernels don't apply, so that LibTorch's operators have to do it.
inline std::optional<torch::Tensor> run_fused_layers(const torch::Tensor& input,
                                                     const std::vector<NormalizedLayer>& layers,
                                                     const torch::Tensor& residual = {}) {
  const auto found = fused_layers(input, layers);
  if (found.operators == nullptr || found.blocks.size() != layers.size() ||
      (residual.defined() && (!is_image(residual, input.device()) ||
                              residual.sizes() != torch::IntArrayRef(found.sizes)))) {
    return std::nullopt;
  }
  return found.operators->blocks(input, found.blocks, residual);
}

/// `conv` on `input`, a pointwise convolution without bias, on the fused kernels; none where they
/// don't apply, as under autocast on the CPU, or it is another one.
inline std::optional<torch::Tensor> fused_pointwise(const torch::Tensor& input,
                                                    const torch::nn::Conv2dImpl& conv) {
  const auto& options = conv.options;
  const auto* padding = std::get_if<torch::ExpandingArray<2>>(&options.padding());
  const bool is_pointwise = options.kernel_size()->at(0) == 1 &&
                            options.kernel_size()->at(1) == 1 && options.groups() == 1 &&
                            padding != nullptr && (*padding)->at(0) == 0 &&
                            (*padding)->at(1) == 0 && !conv.bias.defined();
  const auto* operators = is_pointwise && conv.is_training() && !is_autocast_on_cpu(input) &&
                                  grafted_substitute(conv) == nullptr
                              ? training_operators_for(input, options.out_channels())
                              : nullptr;
  if (operators == nullptr || operators->pointwise == nullptr ||
      !operators->supports(options.in_channels(), 1) || input.size(1) != options.in_channels() ||
      !conv.weight.defined() || !is_own(conv.weight, input.device())) {
    return std::nullopt;
  }
  return operators->pointwise(input, conv.weight, *options.stride());
}

/// `norm` on `input` with what follows it, on the fused kernels; none where they don't apply, as to
/// images of lower precision on the CPU.
inline std::optional<torch::Tensor> fused_norm(const torch::Tensor& input,
                                               const torch::nn::BatchNorm2dImpl& norm,
                                               const Followers& followers) {
  const bool is_exact = !input.is_cpu() || input.scalar_type() == torch::kFloat;
  const auto* operators = norm.is_training() && is_exact ? training_operators_for(input) : nullptr;
  if (operators == nullptr || !operators->supports(input.size(1), input.size(2) * input.size(3))) {
    return std::nullopt;
  }
  const auto settings =
      training_norm(norm, input.size(1), input.numel() / input.size(1), input.device());
  const auto& residual = followers.residual;
  if (!settings || (residual.defined() &&
                    (!is_image(residual, input.device()) || residual.sizes() != input.sizes()))) {
    return std::nullopt;
  }
  return operators->norm(input, *settings, followers.activation, residual);
}

}  // namespace bsconv::detail
