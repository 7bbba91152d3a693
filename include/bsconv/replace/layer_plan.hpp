// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/modules/conv.h>
#include <torch/types.h>
#include <bsconv/replace/layer_weights.hpp>
#include <bsconv/replace/options.hpp>

#include <algorithm>
#include <cstdint>
#include <string>

namespace bsconv::detail {

/// What takes the place of one convolution.
struct LayerPlan {
  /// The convolution.
  torch::nn::Conv2dImpl* conv = nullptr;
  /// Where it stands.
  std::string path;
  /// What replaces it.
  LayerShape shape;
  /// The share of the squared norm of its weights that the new layer can have, 0 to 1; 0 with more
  /// than one group.
  double explained_variance = 0.0;
};

/// The most terms that have no more weights than the convolution, at least 1.
inline int64_t most_terms(const torch::Tensor& weight, int64_t mid_channels) {
  const int64_t out = weight.size(0);
  const int64_t in = weight.size(1);
  const int64_t area = weight.size(2) * weight.size(3);
  const int64_t pointwise = mid_channels == 0 ? in * out : mid_channels * (in + out);
  return std::max<int64_t>(1, weight.numel() / (pointwise + area * out));
}

/// Chooses the terms of the layer that replaces `conv`.
template <class Options>
LayerPlan make_plan(torch::nn::Conv2dImpl& conv, const std::string& path, const Options& options) {
  const bool grouped = conv.options.groups() != 1;
  TORCH_CHECK_VALUE(!grouped || options.initialization() == Initialization::random, "'", path,
                    "': the weights of a convolution with ", conv.options.groups(),
                    " groups can't be kept");
  LayerPlan plan;
  plan.conv = &conv;
  plan.path = path;
  plan.shape.mid_channels = options.mid_channels(conv);
  const auto& weight = conv.weight;
  const int64_t exact = std::min(conv.options.in_channels(), weight.size(2) * weight.size(3));
  // Only layers at its paths are selected.
  const auto& given = options.layer_terms();
  const bool fixed = given.has_value();
  plan.shape.terms = std::min(fixed ? given->at(path) : options.terms(), exact);
  const bool by_share = !fixed && options.explained_variance() > 0.0;
  if (grouped || (options.initialization() == Initialization::random && !by_share &&
                  options.min_explained_variance() == 0.0)) {
    return plan;
  }
  const int64_t most =
      by_share ? std::min(exact, most_terms(weight, plan.shape.mid_channels)) : plan.shape.terms;
  for (;; ++plan.shape.terms) {
    plan.explained_variance = explained_share(closest_weights(weight, plan.shape), weight);
    if (plan.shape.terms >= most || plan.explained_variance >= options.explained_variance()) {
      return plan;
    }
  }
}

}  // namespace bsconv::detail
