// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <string>

namespace bsconv::detail {

/// Weight and bias of an affine map over channels; `weight` is a pointwise `[out, in, 1, 1]`
/// kernel in double precision.
struct Pointwise {
  torch::Tensor weight;
  torch::Tensor bias;
};

/// The map of a 1x1 convolution.
inline Pointwise pointwise_of(const torch::nn::Conv2dImpl& conv) {
  Pointwise map;
  map.weight = conv.weight.detach().to(torch::kDouble);
  map.bias = conv.bias.defined() ? conv.bias.detach().to(torch::kDouble)
                                 : torch::zeros({conv.weight.size(0)}, map.weight.options());
  return map;
}

/// Throws if `bn`, a part of a `type`, keeps no running statistics.
inline void check_fold(const torch::nn::BatchNorm2dImpl& bn, const std::string& type) {
  TORCH_CHECK(bn.running_mean.defined() && bn.running_var.defined(), type,
              ": fuse() needs running statistics, but a batch norm has track_running_stats=false");
}

/// The map of `map` followed by `bn` in evaluation mode: `y = (x - mean) / sqrt(var + eps) * gamma
/// + beta`. Throws if `bn` keeps no running statistics.
inline Pointwise fold(const Pointwise& map, const torch::nn::BatchNorm2dImpl& bn,
                      const std::string& type) {
  check_fold(bn, type);
  auto scale = (bn.running_var.to(torch::kDouble) + bn.options.eps()).rsqrt();
  if (bn.weight.defined()) {
    scale = scale * bn.weight.detach().to(torch::kDouble);
  }
  Pointwise result;
  result.weight = map.weight * scale.view({-1, 1, 1, 1});
  result.bias = (map.bias - bn.running_mean.to(torch::kDouble)) * scale;
  if (bn.bias.defined()) {
    result.bias = result.bias + bn.bias.detach().to(torch::kDouble);
  }
  return result;
}

/// The map of `first` followed by `second` as one.
inline Pointwise merge(const Pointwise& first, const Pointwise& second) {
  const auto outer = second.weight.flatten(1);
  Pointwise result;
  result.weight = outer.matmul(first.weight.flatten(1)).unsqueeze(-1).unsqueeze(-1);
  result.bias = second.bias + outer.matmul(first.bias);
  return result;
}

/// A 1x1 convolution with a bias that computes `map`, with the dtype, device, mode and
/// `requires_grad` of `like`.
inline torch::nn::Conv2d make_pointwise(const Pointwise& map, const torch::nn::Conv2dImpl& like) {
  torch::NoGradGuard no_grad;
  torch::nn::Conv2d conv(
      torch::nn::Conv2dOptions(map.weight.size(1), map.weight.size(0), 1).bias(true));
  conv->to(like.weight.device(), like.weight.scalar_type());
  conv->weight.copy_(map.weight);
  conv->bias.copy_(map.bias);
  conv->weight.set_requires_grad(like.weight.requires_grad());
  conv->bias.set_requires_grad(like.weight.requires_grad());
  conv->train(like.is_training());
  return conv;
}

}  // namespace bsconv::detail
