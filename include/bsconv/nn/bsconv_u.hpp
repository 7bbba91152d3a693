// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>
#include <bsconv/nn/fold.hpp>
#include <bsconv/nn/fused_layers.hpp>
#include <bsconv/nn/mode_of_children.hpp>
#include <bsconv/nn/options.hpp>
#include <bsconv/nn/output_layout.hpp>

#include <cstdint>
#include <ostream>

namespace bsconv {

/// Unconstrained blueprint separable convolution (Haase and Amthor, "Rethinking Depthwise
/// Separable Convolutions", CVPR 2020, section 3.2): a pointwise convolution `pw`, an optional
/// batch normalization `bn`, and a depthwise convolution `dw`, in this order and without an
/// activation between them.
///
/// It stands for a `Conv2d` of the same geometry: input `[N, in_channels, H, W]`, output
/// `[N, out_channels, H', W']`. Children and state-dict names are those of the Python package.
class BSConvUImpl : public torch::nn::Cloneable<BSConvUImpl>, public ModeOfChildren {
 public:
  /// A layer `in_channels` -> `out_channels` with defaults for all else.
  BSConvUImpl(int64_t in_channels, int64_t out_channels, torch::ExpandingArray<2> kernel_size)
      : BSConvUImpl(BSConvUOptions(in_channels, out_channels, kernel_size)) {}

  /// A layer as `options` describe it. Throws `c10::ValueError` if they are out of range.
  explicit BSConvUImpl(const BSConvUOptions& options_) : options(options_) {
    options.validate();
    reset();
  }

  /// Makes the children anew, as `options` say.
  void reset() override {
    pw = register_module("pw", torch::nn::Conv2d(detail::pointwise_options(
                                   options.in_channels(), options.out_channels(), fused_)));
    bn = nullptr;
    if (options.with_bn() && !fused_) {
      bn = register_module("bn", torch::nn::BatchNorm2d(
                                     detail::batch_norm_options(options, options.out_channels())));
    }
    dw = register_module("dw", torch::nn::Conv2d(detail::depthwise_options(options)));
  }

  /// Prints the type and its options, without children.
  void pretty_print(std::ostream& stream) const override {
    stream << "bsconv::BSConvU(";
    detail::print_options(stream, options);
    stream << (fused_ ? ", fused)" : ")");
  }

  /// Maps `input` `[N, in_channels, H, W]` to `[N, out_channels, H', W']`.
  torch::Tensor forward(const torch::Tensor& input) {
    detail::check_input("BSConvU", input, options.in_channels());
    if (auto output = detail::run_fused_layers(input, {{parts()}})) {
      return detail::laid_out(*output, input, {pw->weight, dw->weight});
    }
    auto x = pw->forward(input);
    if (bn) {
      x = bn->forward(x);
    }
    return dw->forward(x);
  }

  /// Folds the batch normalization into the pointwise convolution, in place, for evaluation.
  ///
  /// Outputs stay the same to rounding. Without a batch normalization nothing changes. Throws, and
  /// changes nothing, if a part of the layer is in training mode or keeps no running statistics.
  void fuse() {
    check_fuse();
    if (fused_ || !bn) {
      return;
    }
    const auto map = detail::fold(detail::pointwise_of(*pw), *bn, "BSConvU");
    pw = replace_module("pw", detail::make_pointwise(map, *pw));
    unregister_module("bn");
    bn = nullptr;
    fused_ = true;
  }

  /// Throws where `fuse()` would.
  void check_fuse() const {
    TORCH_CHECK(!dw->is_training() && (!bn || !bn->is_training()),
                "BSConvU: fuse() is for evaluation; call eval() first");
    if (bn) {
      detail::check_fold(*bn, "BSConvU");
    }
  }

  /// The layer's parts, for operators that run several layers as one.
  detail::LayerParts parts() const {
    return {nullptr, nullptr, pw.get(), bn ? bn.get() : nullptr, dw.get()};
  }

  /// Whether `fuse()` has folded the batch normalization.
  bool is_fused() const { return fused_; }

  /// The options the layer was made with.
  BSConvUOptions options;
  /// The pointwise convolution, 1x1, `in_channels` -> `out_channels`.
  torch::nn::Conv2d pw{nullptr};
  /// The batch normalization between the two, empty without `with_bn` or after `fuse()`.
  torch::nn::BatchNorm2d bn{nullptr};
  /// The depthwise convolution with the layer's kernel, stride, padding, dilation and bias.
  torch::nn::Conv2d dw{nullptr};

 private:
  bool fused_ = false;
};

/// A `ModuleHolder` for `BSConvUImpl`.
TORCH_MODULE(BSConvU);

}  // namespace bsconv
