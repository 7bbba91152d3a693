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
#include <bsconv/nn/regularization.hpp>

#include <cstdint>
#include <ostream>

namespace bsconv {

/// Subspace blueprint separable convolution (Haase and Amthor, "Rethinking Depthwise Separable
/// Convolutions", CVPR 2020, section 3.3): the pointwise part of `BSConvU` is split into `pw1`
/// (to `mid_channels`) and `pw2`, each with an optional batch normalization, before the depthwise
/// convolution `dw`.
///
/// It stands for a `Conv2d` of the same geometry: input `[N, in_channels, H, W]`, output
/// `[N, out_channels, H', W']`. Children and state-dict names are those of the Python package.
/// The rows of `pw1` are kept near orthonormal by `regularization_loss`.
class BSConvSImpl : public torch::nn::Cloneable<BSConvSImpl>,
                    public Regularized,
                    public ModeOfChildren {
 public:
  /// A layer `in_channels` -> `out_channels` with defaults for all else.
  BSConvSImpl(int64_t in_channels, int64_t out_channels, torch::ExpandingArray<2> kernel_size)
      : BSConvSImpl(BSConvSOptions(in_channels, out_channels, kernel_size)) {}

  /// A layer as `options` describe it. Throws `c10::ValueError` if they are out of range.
  explicit BSConvSImpl(const BSConvSOptions& options_) : options(options_) {
    options.validate();
    reset();
  }

  /// Makes the children anew, as `options` say.
  void reset() override {
    const int64_t in = options.in_channels();
    const int64_t mid = options.mid_channels();
    const int64_t out = options.out_channels();
    const bool folded = fusion_ != Fusion::none;
    const bool bn = options.with_bn() && !folded;
    pw = nullptr, pw1 = nullptr, bn1 = nullptr, pw2 = nullptr, bn2 = nullptr;
    if (fusion_ == Fusion::merged) {
      pw = register_module("pw", torch::nn::Conv2d(detail::pointwise_options(in, out, true)));
    } else {
      pw1 = register_module("pw1", torch::nn::Conv2d(detail::pointwise_options(in, mid, folded)));
      if (bn) {
        bn1 = register_module("bn1",
                              torch::nn::BatchNorm2d(detail::batch_norm_options(options, mid)));
      }
      pw2 = register_module("pw2", torch::nn::Conv2d(detail::pointwise_options(mid, out, folded)));
      if (bn) {
        bn2 = register_module("bn2",
                              torch::nn::BatchNorm2d(detail::batch_norm_options(options, out)));
      }
    }
    dw = register_module("dw", torch::nn::Conv2d(detail::depthwise_options(options)));
  }

  /// Prints the type and its options, without children.
  void pretty_print(std::ostream& stream) const override {
    stream << "bsconv::BSConvS(";
    detail::print_options(stream, options);
    stream << ", p=" << options.p() << ", mid_channels=" << options.mid_channels();
    stream << (fusion_ == Fusion::none ? ", regularization_loss=attached)" : ", fused)");
  }

  /// Maps `input` `[N, in_channels, H, W]` to `[N, out_channels, H', W']`.
  torch::Tensor forward(const torch::Tensor& input) {
    detail::check_input("BSConvS", input, options.in_channels());
    if (pw) {
      return dw->forward(pw->forward(input));
    }
    if (auto output = detail::run_fused_layers(input, {{parts()}})) {
      return detail::laid_out(*output, input, {pw1->weight, pw2->weight, dw->weight});
    }
    auto x = pw1->forward(input);
    if (bn1) {
      x = bn1->forward(x);
    }
    x = pw2->forward(x);
    if (bn2) {
      x = bn2->forward(x);
    }
    return dw->forward(x);
  }

  /// The Frobenius norm of `W W^T - I`, a tensor without dimensions; `W` is the weight of `pw1`
  /// as a `[mid_channels, in_channels]` matrix (paper, equation 7).
  ///
  /// Throws after `fuse()`: a fused layer is for evaluation.
  torch::Tensor regularization_loss() const override {
    TORCH_CHECK(fusion_ == Fusion::none,
                "BSConvS: a fused layer has no regularization loss; fuse() is for evaluation");
    return orthonormality_loss(pw1->weight);
  }

  /// Whether there is a loss: true until `fuse()`.
  bool is_regularized() const override { return !is_fused(); }

  /// The weight of `pw1`; undefined after `fuse()`.
  torch::Tensor orthonormal_weight() const override {
    return is_fused() ? torch::Tensor() : pw1->weight;
  }

  /// Folds the batch normalizations and multiplies `pw1` and `pw2` together where the product
  /// `pw` takes fewer multiplications, in place, for evaluation.
  ///
  /// Outputs stay the same to rounding. Throws, and changes nothing, if a part of the layer is in
  /// training mode or keeps no running statistics.
  void fuse() {
    check_fuse();
    const int64_t in = options.in_channels();
    const int64_t mid = options.mid_channels();
    const int64_t out = options.out_channels();
    const bool merge = mid * (in + out) > in * out;
    if (is_fused() || (!merge && !options.with_bn())) {
      return;
    }
    auto first = detail::pointwise_of(*pw1);
    auto second = detail::pointwise_of(*pw2);
    if (bn1) {
      first = detail::fold(first, *bn1, "BSConvS");
      second = detail::fold(second, *bn2, "BSConvS");
    }
    // Rebuilding the children keeps `pw` ahead of `dw` in the state dict.
    auto merged = detail::make_pointwise(merge ? detail::merge(first, second) : first, *pw1);
    auto last = merge ? torch::nn::Conv2d(nullptr) : detail::make_pointwise(second, *pw1);
    auto depthwise = dw;
    const auto children = named_children();
    for (const char* part : {"pw1", "bn1", "pw2", "bn2", "dw"}) {
      if (children.contains(part)) {
        unregister_module(part);
      }
    }
    pw1 = nullptr, bn1 = nullptr, pw2 = nullptr, bn2 = nullptr;
    if (merge) {
      pw = register_module("pw", merged);
    } else {
      pw1 = register_module("pw1", merged);
      pw2 = register_module("pw2", last);
    }
    dw = register_module("dw", depthwise);
    fusion_ = merge ? Fusion::merged : Fusion::folded;
  }

  /// Throws where `fuse()` would.
  void check_fuse() const {
    for (const auto& norm : {bn1, bn2}) {
      TORCH_CHECK(!dw->is_training() && (!norm || !norm->is_training()),
                  "BSConvS: fuse() is for evaluation; call eval() first");
      if (norm) {
        detail::check_fold(*norm, "BSConvS");
      }
    }
  }

  /// The layer's parts, for operators that run several layers as one; not of a fused layer.
  detail::LayerParts parts() const {
    return {pw1.get(), bn1 ? bn1.get() : nullptr, pw2.get(), bn2 ? bn2.get() : nullptr, dw.get()};
  }

  /// Whether `fuse()` has changed the layer.
  bool is_fused() const { return fusion_ != Fusion::none; }

  /// The options the layer was made with.
  BSConvSOptions options;
  /// The product of both pointwise convolutions, only after a `fuse()` that merged them.
  torch::nn::Conv2d pw{nullptr};
  /// The first pointwise convolution, 1x1, `in_channels` -> `mid_channels`.
  torch::nn::Conv2d pw1{nullptr};
  /// The batch normalization after `pw1`, empty without `with_bn` or after `fuse()`.
  torch::nn::BatchNorm2d bn1{nullptr};
  /// The second pointwise convolution, 1x1, `mid_channels` -> `out_channels`.
  torch::nn::Conv2d pw2{nullptr};
  /// The batch normalization after `pw2`, empty without `with_bn` or after `fuse()`.
  torch::nn::BatchNorm2d bn2{nullptr};
  /// The depthwise convolution with the layer's kernel, stride, padding, dilation and bias.
  torch::nn::Conv2d dw{nullptr};

 private:
  enum class Fusion { none, folded, merged };
  Fusion fusion_ = Fusion::none;
};

/// A `ModuleHolder` for `BSConvSImpl`.
TORCH_MODULE(BSConvS);

}  // namespace bsconv
