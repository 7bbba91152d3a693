// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/modules/conv.h>
#include <torch/types.h>
#include <bsconv/nn/bsconv_s.hpp>
#include <bsconv/nn/bsconv_u.hpp>

#include <algorithm>
#include <cstdint>
#include <utility>

/// \file
/// Convolution kernels as products of a pointwise and a depthwise part (Haase and Amthor, CVPR
/// 2020, section 3.1: most of a filter's variance lies along one blueprint).

namespace bsconv {

/// The best approximation of every filter `[in, height, width]` of a convolution by one blueprint
/// `[height, width]` times a weight for each input channel: the first singular vectors of the
/// filter as an `in x (height * width)` matrix, with the root of the singular value on each side.
struct KernelComponents {
  /// The weights of the input channels, `[out, in]`, double.
  torch::Tensor pointwise;
  /// The blueprints, `[out, height, width]`, double.
  torch::Tensor depthwise;
  /// The share of each filter's squared norm that the product has, `[out]`, double, 0 to 1; 1 for
  /// a filter of zeros.
  torch::Tensor explained;
  /// The squared norm of each filter, `[out]`, double.
  torch::Tensor energy;

  /// The share of the squared norm of all filters together that the products have, 0 to 1.
  double explained_variance() const {
    const double total = energy.sum().item<double>();
    return total > 0.0 ? (explained * energy).sum().item<double>() / total : 1.0;
  }
};

/// The components of `weight` `[out, in, height, width]`, computed in double precision.
inline KernelComponents kernel_components(const torch::Tensor& weight) {
  TORCH_CHECK_VALUE(weight.dim() == 4,
                    "kernel_components: the weight must be [out, in, height, width]", ", got ",
                    weight.sizes());
  const torch::NoGradGuard no_grad;
  const auto filters = weight.detach().to(torch::kCPU, torch::kDouble).flatten(2);
  TORCH_CHECK_VALUE(filters.isfinite().all().item<bool>(),
                    "kernel_components: the weight has values that are not finite");
  // The right singular vectors are the eigenvectors of a matrix no larger than the kernel's area.
  const auto gram = filters.transpose(1, 2).matmul(filters);
  const auto [values, vectors] = torch::linalg_eigh(gram);
  const auto blueprint = vectors.select(2, -1);
  const auto scaled = filters.matmul(blueprint.unsqueeze(-1)).squeeze(-1);
  const auto norm = scaled.norm(2, 1, /*keepdim=*/true);
  const auto root = norm.sqrt();
  KernelComponents components;
  components.pointwise = torch::where(root > 0, scaled / root, torch::zeros_like(scaled));
  components.depthwise = (blueprint * root).view({weight.size(0), weight.size(2), weight.size(3)});
  components.energy = filters.square().sum({1, 2});
  components.explained =
      torch::where(components.energy > 0, norm.squeeze(1).square() / components.energy,
                   torch::ones_like(components.energy))
          .clamp(0.0, 1.0);
  return components;
}

namespace detail {

inline void copy_bias(const torch::nn::Conv2dImpl& from, torch::nn::Conv2dImpl& to) {
  if (from.bias.defined() && to.bias.defined()) {
    to.bias.copy_(from.bias);
  }
}

}  // namespace detail

/// Gives `layer` the weights that come closest to those of `conv`, which has the same geometry and
/// one group, and its bias. Returns the share of the squared norm of `conv`'s weight that they
/// have, 0 to 1.
///
/// A batch normalization inside `layer` is left alone: estimate its statistics anew.
inline double initialize_from(BSConvUImpl& layer, const torch::nn::Conv2dImpl& conv) {
  const torch::NoGradGuard no_grad;
  const auto components = kernel_components(conv.weight);
  layer.pw->weight.copy_(components.pointwise.unsqueeze(-1).unsqueeze(-1));
  layer.dw->weight.copy_(components.depthwise.unsqueeze(1));
  detail::copy_bias(conv, *layer.dw);
  return components.explained_variance();
}

/// The same for the layer with two pointwise convolutions: `pw1` holds the orthonormal basis in
/// which the pointwise weights lose least, weighted by their blueprints' norms, so that the
/// regularization loss starts at zero.
inline double initialize_from(BSConvSImpl& layer, const torch::nn::Conv2dImpl& conv) {
  const torch::NoGradGuard no_grad;
  TORCH_CHECK(!layer.is_fused(), "initialize_from: the layer is fused");
  const auto components = kernel_components(conv.weight);
  const auto& pointwise = components.pointwise;
  const auto norms = components.depthwise.flatten(1).norm(2, 1, /*keepdim=*/true);
  const auto weighted = pointwise * norms;
  const auto [values, vectors] = torch::linalg_eigh(weighted.t().matmul(weighted));
  const int64_t mid = layer.options.mid_channels();
  const auto basis = vectors.slice(1, vectors.size(1) - mid).flip({1}).t();
  const auto coordinates = pointwise.matmul(basis.t());
  layer.pw1->weight.copy_(basis.unsqueeze(-1).unsqueeze(-1));
  layer.pw2->weight.copy_(coordinates.unsqueeze(-1).unsqueeze(-1));
  layer.dw->weight.copy_(components.depthwise.unsqueeze(1));
  detail::copy_bias(conv, *layer.dw);
  // What is left of a product of orthogonal parts.
  const double total = components.energy.sum().item<double>();
  const double kept = (coordinates * norms).square().sum().item<double>();
  return total > 0.0 ? std::clamp(kept / total, 0.0, 1.0) : 1.0;
}

}  // namespace bsconv
