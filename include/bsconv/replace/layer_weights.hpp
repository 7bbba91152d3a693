// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>
#include <torch/types.h>
#include <bsconv/nn/bsconv_s.hpp>
#include <bsconv/nn/bsconv_sum.hpp>
#include <bsconv/nn/bsconv_u.hpp>
#include <bsconv/nn/describe.hpp>
#include <bsconv/replace/components.hpp>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace bsconv {

namespace detail {

/// The weights of a BSConv layer or a sum of them, without its batch normalizations. All double.
struct LayerWeights {
  /// What the pointwise part does as a whole, `[out, terms, in]`.
  torch::Tensor pointwise;
  /// The depthwise part, `[out, terms, height, width]`.
  torch::Tensor depthwise;
  /// `BSConvS` only: the rows of `pw1`, `[terms, mid, in]`.
  torch::Tensor basis;
  /// `BSConvS` only: the rows of `pw2`, `[out, terms, mid]`.
  torch::Tensor coordinates;
  /// The bias `[out]`, or undefined.
  torch::Tensor bias;

  /// The kernel of the plain convolution that computes the same, `[out, in, height, width]`.
  torch::Tensor dense() const {
    return pointwise.transpose(1, 2)
        .matmul(depthwise.flatten(2))
        .view({pointwise.size(0), pointwise.size(2), depthwise.size(2), depthwise.size(3)});
  }
};

/// What a layer can take over.
struct LayerShape {
  /// The number of terms.
  int64_t terms = 1;
  /// The rows of a term's `pw1`; 0 for `BSConvU`.
  int64_t mid_channels = 0;
};

/// The weights that come closest to `weight`.
inline LayerWeights closest_weights(const torch::Tensor& weight, const LayerShape& shape) {
  const torch::NoGradGuard no_grad;
  const auto components = kernel_components(weight, shape.terms);
  LayerWeights made;
  made.pointwise = components.pointwise;
  made.depthwise = components.depthwise;
  if (shape.mid_channels > 0) {
    // The basis in which the pointwise weights lose least, weighted by their blueprints' norms.
    const auto norms = made.depthwise.flatten(2).norm(2, 2, /*keepdim=*/true);
    const auto weighted = (made.pointwise * norms).transpose(0, 1);
    const auto [values, vectors] = torch::linalg_eigh(weighted.transpose(1, 2).matmul(weighted));
    made.basis =
        vectors.slice(2, vectors.size(2) - shape.mid_channels).flip({2}).transpose(1, 2).clone();
    made.coordinates = torch::einsum("orc,rmc->orm", {made.pointwise, made.basis});
    made.pointwise = torch::einsum("orm,rmc->orc", {made.coordinates, made.basis});
  }
  return made;
}

/// The share, 0 to 1, of the squared norm of `weight` that `made` has.
inline double explained_share(const LayerWeights& made, const torch::Tensor& weight) {
  const auto old = weight.detach().to(torch::kCPU, torch::kDouble);
  const double total = old.square().sum().item<double>();
  const double lost = (old - made.dense()).square().sum().item<double>();
  return total > 0.0 ? std::clamp(1.0 - lost / total, 0.0, 1.0) : 1.0;
}

/// Calls `visit(module, index)` for the layer `module`, or for each term of a sum; `module` is a
/// `BSConvUImpl` or a `BSConvSImpl`.
template <class Visitor>
void for_each_term(torch::nn::Module& module, Visitor&& visit) {
  const auto visit_one = [&](torch::nn::Module& term, int64_t index) {
    if (auto* unconstrained = dynamic_cast<BSConvUImpl*>(&term)) {
      visit(*unconstrained, index);
    } else if (auto* subspace = dynamic_cast<BSConvSImpl*>(&term)) {
      visit(*subspace, index);
    } else {
      TORCH_CHECK(false, "expected a BSConvU, a BSConvS or a sum of them, got ", describe(term));
    }
  };
  if (auto* sum = dynamic_cast<BSConvSumImpl*>(&module)) {
    for (int64_t index = 0; index < sum->terms(); ++index) {
      visit_one(*sum->term(index), index);
    }
  } else {
    visit_one(module, 0);
  }
}

/// What `module` can take over.
inline LayerShape shape_of(torch::nn::Module& module) {
  LayerShape shape;
  const auto visit = [&](auto& layer, int64_t index) {
    shape.terms = index + 1;
    if constexpr (std::is_same_v<std::decay_t<decltype(layer)>, BSConvSImpl>) {
      TORCH_CHECK(!layer.is_fused(), "initialize_from: the layer is fused");
      shape.mid_channels = layer.options.mid_channels();
    }
  };
  for_each_term(module, visit);
  return shape;
}

/// Copies `weights` into `module`, whose further terms become zero.
inline void set_weights(torch::nn::Module& module, const LayerWeights& weights) {
  const torch::NoGradGuard no_grad;
  const int64_t terms = weights.pointwise.size(1);
  const auto assign = [&](torch::nn::Conv2d& conv, const torch::Tensor& rows, int64_t index) {
    if (index < terms) {
      conv->weight.copy_(rows.view_as(conv->weight));
    } else {
      conv->weight.zero_();
    }
  };
  const auto of_term = [&](const torch::Tensor& all, int64_t index, int64_t dim) {
    return index < terms ? all.select(dim, index).contiguous() : torch::Tensor();
  };
  for_each_term(module, [&](auto& layer, int64_t index) {
    TORCH_CHECK(index > 0 || !weights.bias.defined() || layer.dw->bias.defined(),
                "initialize_from: the convolution has a bias, the layer has none");
    if constexpr (std::is_same_v<std::decay_t<decltype(layer)>, BSConvSImpl>) {
      // A further term keeps the orthonormal basis of the first.
      layer.pw1->weight.copy_(
          weights.basis.select(0, index < terms ? index : 0).view_as(layer.pw1->weight));
      assign(layer.pw2, of_term(weights.coordinates, index, 1), index);
    } else {
      assign(layer.pw, of_term(weights.pointwise, index, 1), index);
    }
    assign(layer.dw, of_term(weights.depthwise, index, 1), index);
    if (layer.dw->bias.defined()) {
      if (weights.bias.defined()) {
        layer.dw->bias.copy_(weights.bias);
      } else {
        layer.dw->bias.zero_();
      }
    }
  });
}

}  // namespace detail

/// Gives `layer`, a `BSConvU`, a `BSConvS` or a `BSConvSum`, the weights that come closest to those
/// of `conv`, which has the same geometry and one group, and its bias, zero if it has none. Returns
/// the share of the squared norm of `conv`'s weight that they have, 0 to 1. Throws if only `conv`
/// has a bias.
///
/// `BSConvU` gets the best rank-one approximation of each filter as an `in x (height * width)`
/// matrix, with the root of the singular value on each side, a sum the next components too.
/// `pw1` of a `BSConvS` holds the orthonormal basis in which the pointwise weights lose least, so
/// that the regularization loss starts at zero. A batch normalization inside `layer` is left alone:
/// estimate its statistics anew.
inline double initialize_from(torch::nn::Module& layer, const torch::nn::Conv2dImpl& conv) {
  const torch::NoGradGuard no_grad;
  auto weights = detail::closest_weights(conv.weight, detail::shape_of(layer));
  if (conv.bias.defined()) {
    weights.bias = conv.bias.detach().to(torch::kCPU, torch::kDouble);
  }
  detail::set_weights(layer, weights);
  return detail::explained_share(weights, conv.weight);
}

}  // namespace bsconv
