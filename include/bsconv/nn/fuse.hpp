// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/nn/bsconv_s.hpp>
#include <bsconv/nn/bsconv_u.hpp>
#include <bsconv/nn/walk.hpp>

#include <cstddef>
#include <string>

namespace bsconv {

/// Calls `fuse()` on every `BSConvU` and `BSConvS` of `model`, in place, for evaluation: batch
/// normalizations inside them are folded, pointwise convolutions merged where that is cheaper.
///
/// Returns how many layers changed. Outputs stay the same to rounding (1e-5 relative in float).
/// Throws if such a layer is in training mode.
inline std::size_t fuse(torch::nn::Module& model) {
  std::size_t changed = 0;
  const auto fuse_layer = [&](auto* layer) {
    if (layer == nullptr || layer->is_fused()) {
      return false;
    }
    layer->fuse();
    changed += layer->is_fused() ? 1 : 0;
    return layer->is_fused();
  };
  for_each_module(model, [&](torch::nn::Module& module, const std::string&) {
    const auto substitute = grafted_substitute(module);
    auto& target = substitute == nullptr ? module : *substitute;
    const bool fused = fuse_layer(dynamic_cast<BSConvUImpl*>(&target)) ||
                       fuse_layer(dynamic_cast<BSConvSImpl*>(&target));
    if (fused && substitute != nullptr) {
      detail::adopt(dynamic_cast<torch::nn::Conv2dImpl&>(module));
    }
  });
  return changed;
}

}  // namespace bsconv
