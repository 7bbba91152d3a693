// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>

#include <algorithm>
#include <cstdint>

/// \file
/// Convolution kernels as products of a pointwise and a depthwise part (Haase and Amthor, CVPR
/// 2020, section 3.1: most of a filter's variance lies along one blueprint).

namespace bsconv {

/// The best approximation of every filter `[in, height, width]` of a convolution by a sum of terms,
/// each a blueprint `[height, width]` times a weight for each input channel: the first singular
/// vectors of the filter as an `in x (height * width)` matrix, with the root of the singular value
/// on each side.
struct KernelComponents {
  /// The weights of the input channels, `[out, terms, in]`, double.
  torch::Tensor pointwise;
  /// The blueprints, `[out, terms, height, width]`, double; those of one filter are orthogonal.
  torch::Tensor depthwise;
  /// The share of each filter's squared norm that each term has, `[out, terms]`, double, 0 to 1,
  /// falling along the terms; 1 for the first term of a filter of zeros.
  torch::Tensor explained;
  /// The squared norm of each filter, `[out]`, double.
  torch::Tensor energy;

  /// The number of terms.
  int64_t terms() const { return pointwise.size(1); }

  /// The share of the squared norm of all filters together that the first `terms` terms have, 0 to
  /// 1.
  double explained_variance(int64_t terms) const {
    const double total = energy.sum().item<double>();
    const auto shares = explained.slice(1, 0, terms).sum(1).clamp_max(1.0);
    return total > 0.0 ? (shares * energy).sum().item<double>() / total : 1.0;
  }
  /// The share that all terms have.
  double explained_variance() const { return explained_variance(terms()); }
};

/// The components of `weight` `[out, in, height, width]`, computed in double precision: `terms` of
/// them, or as many as are exact if that is less.
inline KernelComponents kernel_components(const torch::Tensor& weight, int64_t terms = 1) {
  TORCH_CHECK_VALUE(weight.dim() == 4,
                    "kernel_components: the weight must be [out, in, height, width]", ", got ",
                    weight.sizes());
  TORCH_CHECK_VALUE(terms > 0, "kernel_components: terms must be at least 1, got ", terms);
  const torch::NoGradGuard no_grad;
  const auto filters = weight.detach().to(torch::kCPU, torch::kDouble).flatten(2);
  TORCH_CHECK_VALUE(filters.isfinite().all().item<bool>(),
                    "kernel_components: the weight has values that are not finite");
  terms = std::min({terms, filters.size(1), filters.size(2)});
  // The right singular vectors are the eigenvectors of a matrix no larger than the kernel's area.
  const auto gram = filters.transpose(1, 2).matmul(filters);
  const auto [values, vectors] = torch::linalg_eigh(gram);
  const auto blueprints = vectors.slice(2, vectors.size(2) - terms).flip({2}).transpose(1, 2);
  const auto scaled = blueprints.matmul(filters.transpose(1, 2));
  const auto norm = scaled.norm(2, 2, /*keepdim=*/true);
  const auto root = norm.sqrt();
  KernelComponents components;
  components.pointwise = torch::where(root > 0, scaled / root, torch::zeros_like(scaled));
  components.depthwise =
      (blueprints * root).reshape({weight.size(0), terms, weight.size(2), weight.size(3)});
  components.energy = filters.square().sum({1, 2});
  const auto energy = components.energy.unsqueeze(1);
  auto of_nothing = torch::zeros_like(norm.squeeze(2));
  of_nothing.select(1, 0).fill_(1.0);
  components.explained =
      torch::where(energy > 0, norm.squeeze(2).square() / energy, of_nothing).clamp(0.0, 1.0);
  return components;
}

}  // namespace bsconv
