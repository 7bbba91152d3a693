// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>
#include <bsconv/nn/bsconv_s.hpp>
#include <bsconv/nn/bsconv_u.hpp>
#include <bsconv/nn/fused_run.hpp>
#include <bsconv/nn/graft.hpp>
#include <bsconv/nn/walk.hpp>

#include <cstddef>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

namespace bsconv {

namespace detail {

/// Calls `visit(layer)` if `module` is a `BSConvU` or `BSConvS`. A class derived from them, whose
/// `forward` may need the parts, is none.
template <class Visitor>
void visit_layer(torch::nn::Module& module, Visitor&& visit) {
  if (auto* unconstrained = exactly<BSConvUImpl>(&module)) {
    visit(*unconstrained);
  } else if (auto* subspace = exactly<BSConvSImpl>(&module)) {
    visit(*subspace);
  }
}

}  // namespace detail

/// Calls `fuse()` on every `BSConvU` and `BSConvS` of `model`, in place, for evaluation: batch
/// normalizations inside them are folded, pointwise convolutions merged where that is cheaper.
/// Classes derived from them stay as they are.
///
/// Returns how many layers changed. Outputs stay the same to rounding (1e-5 relative in float).
/// Throws, and changes nothing, if such a layer is in training mode or keeps no running statistics.
inline std::size_t fuse(torch::nn::Module& model) {
  std::vector<torch::nn::Module*> layers;
  std::unordered_set<const torch::nn::Module*> known;
  std::vector<std::pair<torch::nn::Conv2dImpl*, torch::nn::Module*>> grafted;
  for_each_module(model, [&](torch::nn::Module& module, const std::string&) {
    const auto substitute = grafted_substitute(module);
    auto& target = substitute == nullptr ? module : *substitute;
    detail::visit_layer(target, [&](auto& layer) {
      if (layer.is_fused()) {
        return;
      }
      layer.check_fuse();
      if (known.insert(&target).second) {
        layers.push_back(&target);
      }
      if (substitute != nullptr) {
        grafted.emplace_back(dynamic_cast<torch::nn::Conv2dImpl*>(&module), &target);
      }
    });
  });
  std::size_t changed = 0;
  std::unordered_set<const torch::nn::Module*> fused;
  for (auto* module : layers) {
    detail::visit_layer(*module, [&](auto& layer) {
      layer.fuse();
      if (layer.is_fused()) {
        ++changed;
        fused.insert(module);
      }
    });
  }
  for (const auto& [conv, layer] : grafted) {
    if (fused.count(layer) != 0) {
      detail::adopt(*conv);
    }
  }
  return changed;
}

}  // namespace bsconv
