// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/replace/components.hpp>
#include <bsconv/replace/layer_weights.hpp>
#include <bsconv/replace/moments.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>
#include <utility>

namespace bsconv::detail {

/// Fits the weights of a layer to what it should put out: minimizes, over the kernels `w_o` that
/// the layer can have, the mean of `(w_o . patch + bias_o - target_o)^2` plus `damping * s * |w_o -
/// old_o|^2`, where `s` is the mean squared entry of a patch.
///
/// The kernel is a product, so one factor is fitted exactly while the others are held, in turn: the
/// error falls in each step.
class LayerFit {
 public:
  /// `old_weight` is `[out, in, height, width]`.
  LayerFit(const LayerMoments& moments, const torch::Tensor& old_weight, bool with_bias,
           double damping)
      : out_(old_weight.size(0)),
        in_(old_weight.size(1)),
        area_(old_weight.size(2) * old_weight.size(3)),
        with_bias_(with_bias),
        patch_mean_(moments.patch_mean()),
        target_mean_(moments.target_mean()),
        patch_product_(moments.patch_product()),
        cross_product_(moments.cross_product()),
        target_square_(moments.target_square().sum().item<double>()),
        target_variance_(target_square_ - target_mean_.square().sum().item<double>()) {
    if (with_bias_) {
      patch_product_ -= patch_mean_.outer(patch_mean_);
      cross_product_ -= target_mean_.outer(patch_mean_);
      target_square_ = target_variance_;
    }
    const auto old = old_weight.detach().to(torch::kCPU, torch::kDouble).flatten(1);
    // Inputs that are all zero say nothing: far above what `solve` adds.
    constexpr double least = 1e-24;
    const double weight =
        std::max(damping * patch_product_.diagonal().mean().item<double>(), least);
    product_ = patch_product_ + weight * torch::eye(in_ * area_, torch::kDouble);
    right_ = cross_product_ + weight * old;
    constant_ = target_square_ + weight * old.square().sum().item<double>();
  }

  /// The best weights that are found from `start` on in at most `iterations` rounds.
  LayerWeights run(LayerWeights start, int64_t iterations) const {
    const torch::NoGradGuard no_grad;
    auto weights = std::move(start);
    const auto kernel = weights.depthwise.sizes().vec();
    weights.depthwise = weights.depthwise.flatten(2);
    double before = std::numeric_limits<double>::infinity();
    for (int64_t round = 0; round < iterations; ++round) {
      weights.depthwise = normalized(weights.depthwise, weights);
      fit_pointwise(weights);
      if (weights.basis.defined()) {
        fit_basis(weights);
      }
      fit_depthwise(weights);
      const double now = objective(weights);
      if (!(now < before * (1.0 - tolerance))) {
        break;
      }
      before = now;
    }
    weights.depthwise = weights.depthwise.view(kernel);
    balance(weights);
    if (with_bias_) {
      weights.bias = target_mean_ - weights.dense().flatten(1).matmul(patch_mean_);
    }
    return weights;
  }

  /// The mean squared error of the outputs relative to their variance, without the damping; 0 or
  /// more.
  double output_error(const LayerWeights& weights) const {
    const auto kernel = weights.dense().flatten(1);
    const double error = quadratic(kernel, patch_product_, cross_product_) + target_square_;
    return target_variance_ > 0.0 ? std::max(0.0, error / target_variance_) : 0.0;
  }

 private:
  /// The share by which a round must improve on the one before.
  static constexpr double tolerance = 1e-4;

  static double quadratic(const torch::Tensor& kernel, const torch::Tensor& product,
                          const torch::Tensor& right) {
    return (kernel * (kernel.matmul(product) - 2.0 * right)).sum().item<double>();
  }

  double objective(const LayerWeights& weights) const {
    return quadratic(flat(weights.pointwise, weights.depthwise), product_, right_) + constant_;
  }

  torch::Tensor flat(const torch::Tensor& pointwise, const torch::Tensor& depthwise) const {
    return pointwise.transpose(1, 2).matmul(depthwise).flatten(1);
  }

  /// The same factors in a form that keeps the equations of the other factor well-conditioned. Only
  /// their span matters where terms may mix, only their direction where each has its own basis.
  static torch::Tensor normalized(const torch::Tensor& factors, const LayerWeights& weights) {
    if (!weights.basis.defined()) {
      return std::get<0>(torch::linalg_qr(factors.transpose(1, 2))).transpose(1, 2).contiguous();
    }
    const auto norm = factors.norm(2, 2, /*keepdim=*/true);
    return torch::where(norm > 0, factors / norm, factors);
  }

  /// Solves symmetric systems `[n, size, size]` for `[n, size]`.
  static torch::Tensor solve(const torch::Tensor& matrices, const torch::Tensor& right) {
    const auto diagonal = matrices.diagonal(0, 1, 2);
    const auto ridge = 1e-10 * diagonal.mean(1, /*keepdim=*/true) + 1e-30;
    const auto regular = matrices + torch::diag_embed(ridge.expand_as(diagonal));
    const auto [factor, info] = torch::linalg_cholesky_ex(regular);
    if (info.any().item<bool>()) {
      return torch::linalg_pinv(regular, 1e-12, /*hermitian=*/true)
          .matmul(right.unsqueeze(-1))
          .squeeze(-1);
    }
    return torch::cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1);
  }

  /// Calls `step(first, last)` for ranges of filters whose equations take at most 64 MiB.
  template <class Step>
  void for_filters(int64_t terms, Step&& step) const {
    const int64_t size = terms * in_ * in_ * (terms + 2 * area_);
    const int64_t part = std::max<int64_t>(1, (int64_t{1} << 23) / size);
    for (int64_t first = 0; first < out_; first += part) {
      step(first, std::min(first + part, out_));
    }
  }

  void fit_depthwise(LayerWeights& weights) const {
    const int64_t terms = weights.pointwise.size(1);
    if (!weights.basis.defined()) {
      weights.pointwise = normalized(weights.pointwise, weights);
    }
    const auto by_channel = product_.view({in_, area_ * in_ * area_});
    auto depthwise = torch::empty({out_, terms, area_}, torch::kDouble);
    for_filters(terms, [&](int64_t first, int64_t last) {
      const int64_t count = last - first;
      const auto rows = weights.pointwise.slice(0, first, last);
      const auto half = rows.reshape({count * terms, in_})
                            .matmul(by_channel)
                            .view({count, terms, area_, in_, area_})
                            .permute({0, 3, 1, 2, 4})
                            .reshape({count, in_, terms * area_ * area_});
      const auto matrices = rows.bmm(half)
                                .view({count, terms, terms, area_, area_})
                                .permute({0, 2, 3, 1, 4})
                                .reshape({count, terms * area_, terms * area_});
      const auto right = rows.bmm(right_.slice(0, first, last).view({count, in_, area_}));
      depthwise.slice(0, first, last)
          .copy_(solve(matrices, right.flatten(1)).view({count, terms, area_}));
    });
    weights.depthwise = depthwise;
  }

  void fit_pointwise(LayerWeights& weights) const {
    const int64_t terms = weights.pointwise.size(1);
    const auto by_area = product_.view({in_, area_, in_, area_})
                             .permute({1, 0, 2, 3})
                             .reshape({area_, in_ * in_ * area_});
    const int64_t width = weights.basis.defined() ? weights.basis.size(1) : in_;
    auto solved = torch::empty({out_, terms, width}, torch::kDouble);
    for_filters(terms, [&](int64_t first, int64_t last) {
      const int64_t count = last - first;
      const auto blueprints = weights.depthwise.slice(0, first, last);
      const auto half = blueprints.reshape({count * terms, area_})
                            .matmul(by_area)
                            .view({count, terms, in_, in_, area_})
                            .permute({0, 4, 1, 2, 3})
                            .reshape({count, area_, terms * in_ * in_});
      auto matrices =
          blueprints.bmm(half).view({count, terms, terms, in_, in_}).permute({0, 2, 3, 1, 4});
      auto right =
          blueprints.bmm(right_.slice(0, first, last).view({count, in_, area_}).transpose(1, 2));
      if (weights.basis.defined()) {
        matrices = torch::einsum("orcsd,rmc->ormsd", {matrices, weights.basis});
        matrices = torch::einsum("ormsd,snd->ormsn", {matrices, weights.basis});
        right = torch::einsum("orc,rmc->orm", {right, weights.basis});
      }
      solved.slice(0, first, last)
          .copy_(solve(matrices.reshape({count, terms * width, terms * width}), right.flatten(1))
                     .view({count, terms, width}));
    });
    if (weights.basis.defined()) {
      weights.coordinates = solved;
      weights.pointwise = torch::einsum("orm,rmc->orc", {solved, weights.basis});
    } else {
      weights.pointwise = solved;
    }
  }

  /// The bases of all terms together, by conjugate gradients: their equations are too many to be
  /// written down.
  void fit_basis(LayerWeights& weights) const {
    const auto gather = [&](const torch::Tensor& kernels) {
      const auto rows =
          torch::einsum("ock,ork->orc", {kernels.view({out_, in_, area_}), weights.depthwise});
      return torch::einsum("orm,orc->rmc", {weights.coordinates, rows});
    };
    const auto apply = [&](const torch::Tensor& basis) {
      const auto pointwise = torch::einsum("orm,rmc->orc", {weights.coordinates, basis});
      return gather(flat(pointwise, weights.depthwise).matmul(product_));
    };
    auto basis = weights.basis;
    auto residual = gather(right_) - apply(basis);
    auto direction = residual;
    double square = residual.square().sum().item<double>();
    const double enough = 1e-8 * square;
    for (int step = 0; step < basis_steps && square > enough; ++step) {
      const auto image = apply(direction);
      const double curvature = (direction * image).sum().item<double>();
      if (!(curvature > 0.0)) {
        break;
      }
      basis = basis + (square / curvature) * direction;
      residual = residual - (square / curvature) * image;
      const double next = residual.square().sum().item<double>();
      direction = residual + (next / square) * direction;
      square = next;
    }
    weights.basis = basis;
    weights.pointwise = torch::einsum("orm,rmc->orc", {weights.coordinates, basis});
  }

  /// Makes both sides of each product equally large, and the bases orthonormal; the products stay.
  static void balance(LayerWeights& weights) {
    if (!weights.basis.defined()) {
      const auto components = kernel_components(weights.dense(), weights.pointwise.size(1));
      weights.pointwise = components.pointwise;
      weights.depthwise = components.depthwise;
      return;
    }
    const auto [rows, triangle] = torch::linalg_qr(weights.basis.transpose(1, 2));
    weights.basis = rows.transpose(1, 2).contiguous();
    weights.coordinates = torch::einsum("orm,rnm->orn", {weights.coordinates, triangle});
    const auto left = weights.coordinates.norm(2, 2, /*keepdim=*/true);
    const auto right = weights.depthwise.flatten(2).norm(2, 2, /*keepdim=*/true);
    const auto scale =
        torch::where((left > 0) & (right > 0), (right / left).sqrt(), torch::ones_like(left));
    weights.coordinates = weights.coordinates * scale;
    weights.depthwise = weights.depthwise / scale.unsqueeze(-1);
    weights.pointwise = torch::einsum("orm,rmc->orc", {weights.coordinates, weights.basis});
  }

  static constexpr int basis_steps = 20;

  int64_t out_;
  int64_t in_;
  int64_t area_;
  bool with_bias_;
  torch::Tensor patch_mean_;
  torch::Tensor target_mean_;
  torch::Tensor patch_product_;
  torch::Tensor cross_product_;
  double target_square_;
  double target_variance_;
  torch::Tensor product_;
  torch::Tensor right_;
  double constant_ = 0.0;
};

}  // namespace bsconv::detail
