// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/pooling.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>
#include <bsconv/nn/composite.hpp>
#include <bsconv/nn/fused_layers.hpp>
#include <bsconv/nn/fused_run.hpp>
#include <bsconv/zoo/blocks.hpp>
#include <bsconv/zoo/model_name.hpp>
#include <bsconv/zoo/model_options.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::zoo {

namespace detail {

/// Both convolutions of a unit in training as layers that run on the fused kernels together; none
/// where they can't: `conv1` needs a batch normalization, and `conv2` may have no activation.
inline std::optional<std::array<bsconv::detail::NormalizedLayer, 2>> layers_of_unit(
    const torch::nn::Module& conv1, const torch::nn::Module& conv2) {
  const auto* first = bsconv::detail::exactly<ConvBlockImpl>(&conv1);
  const auto* second = bsconv::detail::exactly<ConvBlockImpl>(&conv2);
  if (first == nullptr || second == nullptr) {
    return std::nullopt;
  }
  const auto layer1 = first->normalized_layer();
  const auto layer2 = second->normalized_layer();
  if (!layer1 || !layer2 || layer1->norm == nullptr ||
      layer2->activation != kernels::Activation::identity) {
    return std::nullopt;
  }
  return std::array{*layer1, *layer2};
}

}  // namespace detail

/// A residual unit (arXiv 1512.03385): `conv1`, `conv2`, added to the input or to its `projection`,
/// then `relu`. `[N, in, H, W]` to `[N, out, H / stride, W / stride]`.
class ResidualUnitImpl : public Composite<ResidualUnitImpl> {
 public:
  /// A unit from `in_channels` to `out_channels`.
  ResidualUnitImpl(int64_t in_channels, int64_t out_channels, int64_t stride) {
    conv1_ = add("conv1", ConvBlock(ConvBlockOptions(in_channels, out_channels, 3).stride(stride)));
    conv2_ = add(
        "conv2",
        ConvBlock(ConvBlockOptions(out_channels, out_channels, 3).activation(Activation::none)));
    if (in_channels != out_channels || stride != 1) {
      projection_ = add("projection", ConvBlock(ConvBlockOptions(in_channels, out_channels, 1)
                                                    .stride(stride)
                                                    .activation(Activation::none)));
    }
    relu_ = add("relu", make_activation(Activation::relu));
  }

  torch::Tensor forward(const torch::Tensor& input) override {
    const auto residual = projection_ ? call(projection_, input) : input;
    if (auto output = forward_fused(input, residual)) {
      return *std::move(output);
    }
    const auto hidden = call(conv1_, input);
    if (auto* block = bsconv::detail::exactly<ConvBlockImpl>(module(conv2_).get())) {
      if (auto output = block->forward_fused(hidden, residual, *module(relu_))) {
        return *std::move(output);
      }
    }
    return call(relu_, call(conv2_, hidden) + residual);
  }
  /// Prints the type and its options, without children.
  void pretty_print(std::ostream& stream) const override { stream << "bsconv::zoo::ResidualUnit"; }

 private:
  // Both convolutions at once, on the fused kernels for training; none where they don't apply.
  std::optional<torch::Tensor> forward_fused(const torch::Tensor& input,
                                             const torch::Tensor& residual) {
    const auto activation = bsconv::detail::fusible_activation(module(relu_).get());
    auto layers =
        is_training() ? detail::layers_of_unit(*module(conv1_), *module(conv2_)) : std::nullopt;
    if (!activation || !layers || layers->back().norm == nullptr) {
      return std::nullopt;
    }
    layers->back().activation = *activation;
    return bsconv::detail::run_fused_layers(input, {layers->front(), layers->back()}, residual);
  }

  Child conv1_, conv2_, projection_, relu_;
};
/// A `ModuleHolder` for `ResidualUnitImpl`.
TORCH_MODULE(ResidualUnit);

/// A pre-activation residual unit (arXiv 1603.05027): `bn`, `relu`, `conv1`, `conv2`, added to the
/// input, or to the `projection` of the activated input.
/// `[N, in, H, W]` to `[N, out, H / stride, W / stride]`.
class PreactivationUnitImpl : public Composite<PreactivationUnitImpl> {
 public:
  /// A unit from `in_channels` to `out_channels`.
  PreactivationUnitImpl(int64_t in_channels, int64_t out_channels, int64_t stride) {
    bn_ = add("bn", torch::nn::BatchNorm2d(in_channels));
    relu_ = add("relu", make_activation(Activation::relu));
    conv1_ = add("conv1", ConvBlock(ConvBlockOptions(in_channels, out_channels, 3).stride(stride)));
    const auto bare = [](ConvBlockOptions options) {
      return ConvBlock(options.with_bn(false).activation(Activation::none));
    };
    conv2_ = add("conv2", bare(ConvBlockOptions(out_channels, out_channels, 3)));
    if (in_channels != out_channels || stride != 1) {
      projection_ =
          add("projection", bare(ConvBlockOptions(in_channels, out_channels, 1).stride(stride)));
    }
  }

  torch::Tensor forward(const torch::Tensor& input) override {
    if (!projection_) {
      if (auto output = forward_fused(input, input, /*with_norm=*/true)) {
        return *std::move(output);
      }
    }
    const auto activated = call_all(bn_, relu_, input);
    const auto residual = projection_ ? call(projection_, activated) : input;
    if (auto output = forward_fused(activated, residual, /*with_norm=*/false)) {
      return *std::move(output);
    }
    return call(conv2_, call(conv1_, activated)) + residual;
  }
  /// Prints the type and its options, without children.
  void pretty_print(std::ostream& stream) const override {
    stream << "bsconv::zoo::PreactivationUnit";
  }

 private:
  // Both convolutions at once, with `bn` and `relu` in front if `with_norm`, on the fused kernels
  // for training; none where they don't apply.
  std::optional<torch::Tensor> forward_fused(const torch::Tensor& input,
                                             const torch::Tensor& residual, bool with_norm) {
    auto layers =
        is_training() ? detail::layers_of_unit(*module(conv1_), *module(conv2_)) : std::nullopt;
    if (!layers) {
      return std::nullopt;
    }
    if (with_norm) {
      const auto activation = bsconv::detail::fusible_activation(module(relu_).get());
      auto& first = layers->front();
      first.input_norm = bsconv::detail::exactly<torch::nn::BatchNorm2dImpl>(module(bn_).get());
      if (first.input_norm == nullptr || !activation) {
        return std::nullopt;
      }
      first.input_activation = *activation;
    }
    return bsconv::detail::run_fused_layers(input, {layers->front(), layers->back()}, residual);
  }

  Child bn_, relu_, conv1_, conv2_, projection_;
};
/// A `ModuleHolder` for `PreactivationUnitImpl`.
TORCH_MODULE(PreactivationUnit);

/// The number of units in each stage of a ResNet or WRN of this name.
inline std::vector<int64_t> resnet_units(const ModelName& name) {
  if (name.cifar) {
    // Two convolutions a unit, three stages, and two layers (WRN: four) outside them.
    const int64_t outside = name.family == ModelFamily::wrn ? 4 : 2;
    return std::vector<int64_t>(3, (name.depth - outside) / 6);
  }
  static const std::map<int64_t, std::vector<int64_t>> units = {
      {10, {1, 1, 1, 1}}, {18, {2, 2, 2, 2}},  {26, {3, 3, 3, 3}},
      {34, {3, 4, 6, 3}}, {68, {3, 4, 23, 3}}, {102, {3, 8, 36, 3}}};
  return units.at(name.depth);
}

/// A ResNet, PreResNet or WRN, without blueprint separable convolutions.
inline Network make_resnet(const ModelName& name, const ModelOptions& options) {
  const bool preactivation = name.family != ModelFamily::resnet;
  const std::vector<int64_t> widths =
      name.cifar ? std::vector<int64_t>{16, 32, 64} : std::vector<int64_t>{64, 128, 256, 512};
  int64_t channels = widths[0];

  Chain backbone;
  backbone->push_back("data_bn", data_normalization(options.in_channels()));
  Chain init_unit;
  if (name.cifar) {
    init_unit->push_back(
        "conv", ConvBlock(ConvBlockOptions(options.in_channels(), channels, 3)
                              .with_bn(!preactivation)
                              .activation(preactivation ? Activation::none : Activation::relu)));
  } else {
    init_unit->push_back("conv",
                         ConvBlock(ConvBlockOptions(options.in_channels(), channels, 7).stride(2)));
    init_unit->push_back("pool",
                         torch::nn::MaxPool2d(torch::nn::MaxPool2dOptions(3).stride(2).padding(1)));
  }
  backbone->push_back("init_unit", init_unit);

  const auto units = resnet_units(name);
  for (std::size_t stage_index = 0; stage_index < units.size(); ++stage_index) {
    const int64_t stage_channels = scale_channels(widths[stage_index], name.width.value());
    Chain stage;
    for (int64_t unit_index = 0; unit_index < units[stage_index]; ++unit_index) {
      const int64_t stride = unit_index == 0 && stage_index != 0 ? 2 : 1;
      const std::string unit_name = "unit" + std::to_string(unit_index + 1);
      if (preactivation) {
        stage->push_back(unit_name, PreactivationUnit(channels, stage_channels, stride));
      } else {
        stage->push_back(unit_name, ResidualUnit(channels, stage_channels, stride));
      }
      channels = stage_channels;
    }
    backbone->push_back("stage" + std::to_string(stage_index + 1), stage);
  }
  if (preactivation) {
    Chain final_activation;
    final_activation->push_back("bn", torch::nn::BatchNorm2d(channels));
    final_activation->push_back("relu", make_activation(Activation::relu));
    backbone->push_back("final_activation", final_activation);
  }
  backbone->push_back("global_pool", torch::nn::AdaptiveAvgPool2d(1));
  return Network(backbone, Classifier(channels, options.num_classes()));
}

}  // namespace bsconv::zoo
