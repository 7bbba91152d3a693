// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/arg.h>
#include <torch/nn/init.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/pooling.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>
#include <bsconv/nn/any_layer.hpp>
#include <bsconv/nn/composite.hpp>
#include <bsconv/nn/fused_layers.hpp>
#include <bsconv/nn/fused_run.hpp>

#include <cstdint>
#include <optional>
#include <ostream>

/// \file
/// The blocks that the model zoo is built of. Child names are the state-dict names of the Python
/// package.

namespace bsconv::zoo {

/// The activation functions of the zoo.
enum class Activation { none, relu, relu6, hswish, hsigmoid };

/// `x * relu6(x + 3) / 6`, any shape (MobileNetV3, arXiv 1905.02244).
class HSwishImpl : public Composite<HSwishImpl> {
 public:
  /// Prints the type and its options, without children.
  void pretty_print(std::ostream& stream) const override { stream << "bsconv::zoo::HSwish()"; }
  torch::Tensor forward(const torch::Tensor& input) override { return torch::hardswish(input); }
};
/// A `ModuleHolder` for `HSwishImpl`.
TORCH_MODULE(HSwish);

/// `relu6(x + 3) / 6`, any shape (MobileNetV3, arXiv 1905.02244).
class HSigmoidImpl : public Composite<HSigmoidImpl> {
 public:
  /// Prints the type and its options, without children.
  void pretty_print(std::ostream& stream) const override { stream << "bsconv::zoo::HSigmoid()"; }
  torch::Tensor forward(const torch::Tensor& input) override { return torch::hardsigmoid(input); }
};
/// A `ModuleHolder` for `HSigmoidImpl`.
TORCH_MODULE(HSigmoid);

/// A module that computes `activation`, which must not be `none`.
inline AnyLayer make_activation(Activation activation) {
  switch (activation) {
    case Activation::relu:
      return torch::nn::ReLU(torch::nn::ReLUOptions().inplace(true));
    case Activation::relu6:
      return torch::nn::ReLU6(torch::nn::ReLU6Options().inplace(true));
    case Activation::hswish:
      return HSwish();
    case Activation::hsigmoid:
      return HSigmoid();
    case Activation::none:
      break;
  }
  TORCH_CHECK(false, "make_activation: there is no module for 'none'");
}

/// Options for `ConvBlock`.
struct ConvBlockOptions {
  /// A block with a `kernel_size` x `kernel_size` convolution, padded to keep the size.
  ConvBlockOptions(int64_t in_channels, int64_t out_channels, int64_t kernel_size)
      : in_channels_(in_channels), out_channels_(out_channels), kernel_size_(kernel_size) {}

  /// The number of input channels.
  TORCH_ARG(int64_t, in_channels);
  /// The number of output channels.
  TORCH_ARG(int64_t, out_channels);
  /// The kernel's height and width, odd.
  TORCH_ARG(int64_t, kernel_size);
  /// The stride. Default: 1
  TORCH_ARG(int64_t, stride) = 1;
  /// The number of groups. Default: 1
  TORCH_ARG(int64_t, groups) = 1;
  /// Whether a batch normalization follows. Default: true
  TORCH_ARG(bool, with_bn) = true;
  /// The activation at the end. Default: ReLU
  TORCH_ARG(Activation, activation) = Activation::relu;
};

/// `conv` (without bias), then `bn` and `activation` where the options have them.
/// `[N, in_channels, H, W]` to `[N, out_channels, H / stride, W / stride]`, rounded up.
class ConvBlockImpl : public Composite<ConvBlockImpl> {
 public:
  /// A block as `options` describe it.
  explicit ConvBlockImpl(const ConvBlockOptions& options) {
    conv_ = add("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(options.in_channels(),
                                                                   options.out_channels(),
                                                                   options.kernel_size())
                                              .stride(options.stride())
                                              .padding(options.kernel_size() / 2)
                                              .groups(options.groups())
                                              .bias(false)));
    if (options.with_bn()) {
      bn_ = add("bn", torch::nn::BatchNorm2d(options.out_channels()));
    }
    if (options.activation() != Activation::none) {
      activation_ = add("activation", make_activation(options.activation()));
    }
  }

  /// `activation(block(input) + residual)` on the fused kernels for training, as far as they apply;
  /// none where none of them can, or the block has an activation of its own.
  std::optional<torch::Tensor> forward_fused(const torch::Tensor& input,
                                             const torch::Tensor& residual,
                                             const torch::nn::Module& activation) {
    const auto kind = bsconv::detail::fusible_activation(&activation);
    const auto* norm =
        bn_ ? bsconv::detail::exactly<torch::nn::BatchNorm2dImpl>(module(bn_).get()) : nullptr;
    if (activation_ || !kind || norm == nullptr) {
      return std::nullopt;
    }
    return bsconv::detail::fused_residual(
        *module(conv_), *norm, input, {*kind, residual},
        [this](const torch::Tensor& x) { return call(conv_, x); },
        [this](const torch::Tensor& x) { return call(bn_, x); });
  }

  /// The block as one of several layers that run on the fused kernels for training together; none
  /// if they can't, as without a BSConv layer, or with an activation and no batch normalization.
  std::optional<bsconv::detail::NormalizedLayer> normalized_layer() const {
    const auto parts = bsconv::detail::bsconv_parts(module(conv_).get());
    const auto kind = activation_ ? bsconv::detail::fusible_activation(module(activation_).get())
                                  : kernels::Activation::identity;
    const auto* norm =
        bn_ ? bsconv::detail::exactly<torch::nn::BatchNorm2dImpl>(module(bn_).get()) : nullptr;
    if (!parts || !kind || (norm == nullptr && (bn_ || activation_))) {
      return std::nullopt;
    }
    return bsconv::detail::NormalizedLayer{*parts, norm, *kind};
  }

  torch::Tensor forward(const torch::Tensor& input) override { return call_all(input); }
  /// Prints the type and its options, without children.
  void pretty_print(std::ostream& stream) const override { stream << "bsconv::zoo::ConvBlock"; }

 private:
  Child conv_, bn_, activation_;
};
/// A `ModuleHolder` for `ConvBlockImpl`.
TORCH_MODULE(ConvBlock);

/// Squeeze-and-excite (arXiv 1709.01507): scales each channel by a factor between 0 and 1 that
/// depends on all channels' means. `[N, channels, H, W]` to the same shape.
class SqueezeExciteImpl : public Composite<SqueezeExciteImpl> {
 public:
  /// A unit for `channels`, with `channels / 4` in the middle.
  explicit SqueezeExciteImpl(int64_t channels) {
    constexpr int64_t squeeze_factor = 4;
    const int64_t squeezed = channels / squeeze_factor;
    TORCH_CHECK_VALUE(squeezed > 0, "SqueezeExcite: channels must be at least ", squeeze_factor,
                      ", got ", channels);
    add("pool", torch::nn::AdaptiveAvgPool2d(1));
    add("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(channels, squeezed, 1)));
    add("activation1", make_activation(Activation::relu));
    add("conv2", torch::nn::Conv2d(torch::nn::Conv2dOptions(squeezed, channels, 1)));
    add("activation2", make_activation(Activation::hsigmoid));
  }

  torch::Tensor forward(const torch::Tensor& input) override { return input * call_all(input); }
  /// Prints the type and its options, without children.
  void pretty_print(std::ostream& stream) const override { stream << "bsconv::zoo::SqueezeExcite"; }
};
/// A `ModuleHolder` for `SqueezeExciteImpl`.
TORCH_MODULE(SqueezeExcite);

/// The classification head: a 1x1 convolution `conv` with bias, flattened.
/// `[N, channels, 1, 1]` to `[N, num_classes]`.
class ClassifierImpl : public Composite<ClassifierImpl> {
 public:
  /// A head for `num_classes`.
  ClassifierImpl(int64_t channels, int64_t num_classes)
      : conv_(add("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(channels, num_classes, 1)))) {}

  torch::Tensor forward(const torch::Tensor& input) override {
    return call(conv_, input).flatten(1);
  }
  /// Prints the type and its options, without children.
  void pretty_print(std::ostream& stream) const override { stream << "bsconv::zoo::Classifier"; }

 private:
  Child conv_;
};
/// A `ModuleHolder` for `ClassifierImpl`.
TORCH_MODULE(Classifier);

/// A network of the zoo: `backbone`, then `classifier`.
/// `[N, in_channels, H, W]` with values from 0 to 1, to logits `[N, num_classes]`.
class NetworkImpl : public Composite<NetworkImpl> {
 public:
  /// A network of these two parts, freshly initialized as the reference does it: convolutions of
  /// the backbone Kaiming uniform with zero bias, the classifier's weight Xavier normal.
  NetworkImpl(const Chain& backbone, const Classifier& classifier) {
    add("backbone", backbone);
    add("classifier", classifier);
    for (const auto& module : backbone->modules()) {
      if (auto* conv = module->as<torch::nn::Conv2d>()) {
        torch::nn::init::kaiming_uniform_(conv->weight);
        if (conv->bias.defined()) {
          torch::nn::init::zeros_(conv->bias);
        }
      }
    }
    for (const auto& module : classifier->modules()) {
      if (auto* conv = module->as<torch::nn::Conv2d>()) {
        torch::nn::init::xavier_normal_(conv->weight);
      }
    }
  }

  torch::Tensor forward(const torch::Tensor& input) override { return call_all(input); }
  /// Prints the type and its options, without children.
  void pretty_print(std::ostream& stream) const override { stream << "bsconv::zoo::Network"; }
};
/// A `ModuleHolder` for `NetworkImpl`.
TORCH_MODULE(Network);

/// The layer that every backbone begins with: normalizes the images, `[N, channels, H, W]`.
inline torch::nn::BatchNorm2d data_normalization(int64_t in_channels) {
  return torch::nn::BatchNorm2d(in_channels);
}

/// `channels` scaled by a width multiplier, rounded down. Throws `c10::ValueError` below 1.
inline int64_t scale_channels(int64_t channels, double width) {
  const auto scaled = static_cast<int64_t>(static_cast<double>(channels) * width);
  TORCH_CHECK_VALUE(scaled > 0, "create_model: a width of ", width, " leaves ", channels,
                    " channels without any; use a wider one");
  return scaled;
}

}  // namespace bsconv::zoo
