// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/arg.h>
#include <torch/nn/modules/pooling.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>
#include <bsconv/nn/composite.hpp>
#include <bsconv/nn/regularization.hpp>
#include <bsconv/zoo/blocks.hpp>
#include <bsconv/zoo/model_name.hpp>
#include <bsconv/zoo/model_options.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::zoo {

/// A depthwise separable unit (arXiv 1704.04861): `conv_dw` (3x3 depthwise), then `conv_pw`, each
/// with batch normalization and ReLU. `[N, in, H, W]` to `[N, out, H / stride, W / stride]`.
class DepthwiseSeparableUnitImpl : public Composite<DepthwiseSeparableUnitImpl> {
 public:
  /// A unit from `in_channels` to `out_channels`.
  DepthwiseSeparableUnitImpl(int64_t in_channels, int64_t out_channels, int64_t stride)
      : in_channels(in_channels), out_channels(out_channels), stride(stride) {
    add("conv_dw",
        ConvBlock(
            ConvBlockOptions(in_channels, in_channels, 3).stride(stride).groups(in_channels)));
    add("conv_pw", ConvBlock(ConvBlockOptions(in_channels, out_channels, 1)));
  }

  torch::Tensor forward(const torch::Tensor& input) override { return call_all(input); }
  /// Prints the type and its options, without children.
  void pretty_print(std::ostream& stream) const override {
    stream << "bsconv::zoo::DepthwiseSeparableUnit";
  }

  /// The number of input channels.
  int64_t in_channels;
  /// The number of output channels.
  int64_t out_channels;
  /// The stride of `conv_dw`.
  int64_t stride;
};
/// A `ModuleHolder` for `DepthwiseSeparableUnitImpl`.
TORCH_MODULE(DepthwiseSeparableUnit);

/// Options for `InvertedResidual`.
struct InvertedResidualOptions {
  /// A unit `in_channels` -> `mid_channels` -> `out_channels`.
  InvertedResidualOptions(int64_t in_channels, int64_t mid_channels, int64_t out_channels)
      : in_channels_(in_channels), mid_channels_(mid_channels), out_channels_(out_channels) {}

  /// The number of input channels.
  TORCH_ARG(int64_t, in_channels);
  /// The number of channels of the depthwise convolution.
  TORCH_ARG(int64_t, mid_channels);
  /// The number of output channels.
  TORCH_ARG(int64_t, out_channels);
  /// The stride of the depthwise convolution. Default: 1
  TORCH_ARG(int64_t, stride) = 1;
  /// The size of the depthwise kernel. Default: 3
  TORCH_ARG(int64_t, kernel_size) = 3;
  /// The activation after `conv1` and `conv2`. Default: ReLU6
  TORCH_ARG(Activation, activation) = Activation::relu6;
  /// Whether a squeeze-and-excite unit follows `conv2`. Default: false
  TORCH_ARG(bool, squeeze_excite) = false;
  /// Whether `conv3` adds a regularization loss, which makes the unit a BSConv-S. Default: false
  TORCH_ARG(bool, regularized) = false;
};

/// An inverted residual unit with a linear bottleneck (arXiv 1801.04381): `conv1` (1x1), `conv2`
/// (depthwise), `se_unit` where there is one, `conv3` (1x1, no activation), added to the input if
/// the shapes agree. `[N, in, H, W]` to `[N, out, H / stride, W / stride]`.
///
/// Seen from `conv3` of one unit to `conv2` of the next it is a BSConv-S (paper, section 4.2), so
/// that variant differs in the regularization loss of `conv3`'s weight alone.
class InvertedResidualImpl : public Composite<InvertedResidualImpl>, public Regularized {
 public:
  /// A unit as `options` describe it.
  explicit InvertedResidualImpl(const InvertedResidualOptions& options) : options(options) {
    const int64_t mid = options.mid_channels();
    conv1_ =
        add("conv1",
            ConvBlock(
                ConvBlockOptions(options.in_channels(), mid, 1).activation(options.activation())));
    conv2_ = add("conv2", ConvBlock(ConvBlockOptions(mid, mid, options.kernel_size())
                                        .stride(options.stride())
                                        .groups(mid)
                                        .activation(options.activation())));
    if (options.squeeze_excite()) {
      se_unit_ = add("se_unit", SqueezeExcite(mid));
    }
    conv3_ = add(
        "conv3",
        ConvBlock(ConvBlockOptions(mid, options.out_channels(), 1).activation(Activation::none)));
  }

  torch::Tensor forward(const torch::Tensor& input) override {
    const auto output = call_all(input);
    const bool skip = options.in_channels() == options.out_channels() && options.stride() == 1;
    return skip ? output + input : output;
  }
  /// Prints the type and its options, without children.
  void pretty_print(std::ostream& stream) const override {
    stream << "bsconv::zoo::InvertedResidual"
           << (options.regularized() ? "(regularization_loss=attached)" : "");
  }

  /// The Frobenius norm of `W W^T - I`, with W the weight of `conv3`. Throws if that has none.
  torch::Tensor regularization_loss() const override {
    const auto weight = orthonormal_weight();
    TORCH_CHECK(weight.defined(), "InvertedResidual: what has replaced conv3 has no ",
                "regularization loss");
    return orthonormality_loss(weight);
  }
  /// The weight of `conv3`; undefined if another module that has none has taken its place.
  torch::Tensor orthonormal_weight() const override {
    const auto children = module(conv3_)->named_children();
    const auto* conv = children.find("conv");
    if (conv == nullptr) {
      return {};
    }
    const auto parameters = (*conv)->named_parameters(/*recurse=*/false);
    const auto* weight = parameters.find("weight");
    return weight == nullptr ? torch::Tensor() : *weight;
  }
  /// Whether it was made so and `conv3` still has such a weight: another layer may have taken its
  /// place.
  bool is_regularized() const override {
    return options.regularized() && orthonormal_weight().defined();
  }

  /// The options the unit was made with.
  InvertedResidualOptions options;

 private:
  Child conv1_, conv2_, se_unit_, conv3_;
};
/// A `ModuleHolder` for `InvertedResidualImpl`.
TORCH_MODULE(InvertedResidual);

namespace detail {

/// One stage of MobileNetV2 or V3 before the width multiplier.
struct BottleneckStage {
  int64_t stride;
  int64_t kernel_size;
  Activation activation;
  std::vector<int64_t> out_channels;
  std::vector<int64_t> mid_channels;
  std::vector<bool> squeeze_excite;
};

/// A MobileNetV2 or V3 before the width multiplier.
struct BottleneckNetwork {
  int64_t init_channels;
  Activation outer_activation;
  std::vector<BottleneckStage> stages;
  std::string final_conv;
  int64_t final_channels;
  bool final_squeeze_excite;
  std::string final_pool;
};

inline BottleneckNetwork mobilenetv2_layout() {
  constexpr auto relu6 = Activation::relu6;
  return {32,
          relu6,
          {{1, 3, relu6, {16}, {32}, {}},
           {2, 3, relu6, {24, 24}, {96, 144}, {}},
           {2, 3, relu6, {32, 32, 32}, {144, 192, 192}, {}},
           {2, 3, relu6, {64, 64, 64, 64, 96, 96, 96}, {192, 384, 384, 384, 384, 576, 576}, {}},
           {2, 3, relu6, {160, 160, 160, 320}, {576, 960, 960, 960}, {}}},
          "final_conv",
          1280,
          false,
          "global_pool"};
}

inline BottleneckNetwork mobilenetv3_small_layout() {
  constexpr auto relu = Activation::relu;
  constexpr auto hswish = Activation::hswish;
  return {16,
          hswish,
          {{2, 3, relu, {16}, {16}, {true}},
           {2, 3, relu, {24, 24}, {72, 88}, {}},
           {2,
            5,
            hswish,
            {40, 40, 40, 48, 48},
            {96, 240, 240, 120, 144},
            {true, true, true, true, true}},
           {2, 5, hswish, {96, 96, 96}, {288, 576, 576}, {true, true, true}}},
          "final_conv1",
          576,
          true,
          "final_pool"};
}

inline BottleneckNetwork mobilenetv3_large_layout() {
  constexpr auto relu = Activation::relu;
  constexpr auto hswish = Activation::hswish;
  return {16,
          hswish,
          {{1, 3, relu, {16}, {16}, {}},
           {2, 3, relu, {24, 24}, {64, 72}, {}},
           {2, 5, relu, {40, 40, 40}, {72, 120, 120}, {true, true, true}},
           {2,
            3,
            hswish,
            {80, 80, 80, 80, 112, 112},
            {240, 200, 184, 184, 480, 672},
            {false, false, false, false, true, true}},
           {2, 5, hswish, {160, 160, 160}, {672, 960, 960}, {true, true, true}}},
          "final_conv1",
          960,
          false,
          "final_pool"};
}

/// The stride of stage `index` of a layout: on CIFAR's small images the stem and one more stage
/// keep the resolution.
inline int64_t stage_stride(ModelFamily family, bool cifar, std::size_t index, int64_t stride) {
  const std::size_t kept = family == ModelFamily::mobilenetv3_small ? 0 : 1;
  return cifar && index <= kept ? 1 : stride;
}

}  // namespace detail

/// A MobileNetV1 of depthwise separable units.
inline Network make_mobilenetv1(const ModelName& name, const ModelOptions& options) {
  const double width = name.width.value();
  const std::vector<std::pair<int64_t, int64_t>> stages = {
      {64, 1}, {128, 2}, {256, 2}, {512, 6}, {1024, 2}};
  int64_t channels = scale_channels(32, width);

  Chain backbone;
  backbone->push_back("data_bn", data_normalization(options.in_channels()));
  backbone->push_back(
      "init_conv",
      ConvBlock(ConvBlockOptions(options.in_channels(), channels, 3).stride(name.cifar ? 1 : 2)));
  for (std::size_t index = 0; index < stages.size(); ++index) {
    const int64_t stage_channels = scale_channels(stages[index].first, width);
    Chain stage;
    for (int64_t unit = 0; unit < stages[index].second; ++unit) {
      const int64_t first_stride =
          index == 0 ? 1 : detail::stage_stride(name.family, name.cifar, index, 2);
      stage->push_back(
          "unit" + std::to_string(unit + 1),
          DepthwiseSeparableUnit(channels, stage_channels, unit == 0 ? first_stride : 1));
      channels = stage_channels;
    }
    backbone->push_back("stage" + std::to_string(index + 1), stage);
  }
  backbone->push_back("global_pool", torch::nn::AdaptiveAvgPool2d(1));
  return Network(backbone, Classifier(channels, options.num_classes()));
}

/// A MobileNetV2, V3-small or V3-large; the BSConv-S variant has regularized bottlenecks.
inline Network make_bottleneck_mobilenet(const ModelName& name, const ModelOptions& options) {
  const auto layout = name.family == ModelFamily::mobilenetv2 ? detail::mobilenetv2_layout()
                      : name.family == ModelFamily::mobilenetv3_small
                          ? detail::mobilenetv3_small_layout()
                          : detail::mobilenetv3_large_layout();
  const double width = name.width.value();
  int64_t channels = scale_channels(layout.init_channels, width);

  Chain backbone;
  backbone->push_back("data_bn", data_normalization(options.in_channels()));
  backbone->push_back("init_conv", ConvBlock(ConvBlockOptions(options.in_channels(), channels, 3)
                                                 .stride(name.cifar ? 1 : 2)
                                                 .activation(layout.outer_activation)));
  for (std::size_t index = 0; index < layout.stages.size(); ++index) {
    const auto& from = layout.stages[index];
    Chain stage;
    for (std::size_t unit = 0; unit < from.out_channels.size(); ++unit) {
      const int64_t stride =
          unit == 0 ? detail::stage_stride(name.family, name.cifar, index, from.stride) : 1;
      const int64_t out = scale_channels(from.out_channels[unit], width);
      stage->push_back(
          "unit" + std::to_string(unit + 1),
          InvertedResidual(
              InvertedResidualOptions(channels, scale_channels(from.mid_channels[unit], width), out)
                  .stride(stride)
                  .kernel_size(from.kernel_size)
                  .activation(from.activation)
                  .squeeze_excite(!from.squeeze_excite.empty() && from.squeeze_excite[unit])
                  .regularized(name.variant == ModelVariant::bsconvs)));
      channels = out;
    }
    backbone->push_back("stage" + std::to_string(index + 1), stage);
  }
  const int64_t final_channels = scale_channels(layout.final_channels, std::max(1.0, width));
  backbone->push_back(
      layout.final_conv,
      ConvBlock(ConvBlockOptions(channels, final_channels, 1).activation(layout.outer_activation)));
  if (layout.final_squeeze_excite) {
    backbone->push_back("final_se", SqueezeExcite(final_channels));
  }
  backbone->push_back(layout.final_pool, torch::nn::AdaptiveAvgPool2d(1));
  return Network(backbone, Classifier(final_channels, options.num_classes()));
}

}  // namespace bsconv::zoo
