// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>
#include <bsconv/nn/bsconv_s.hpp>
#include <bsconv/nn/bsconv_u.hpp>
#include <bsconv/nn/convert.hpp>
#include <bsconv/nn/describe.hpp>
#include <bsconv/nn/walk.hpp>
#include <bsconv/replace/batch_norm_statistics.hpp>
#include <bsconv/replace/calibrate.hpp>
#include <bsconv/replace/layer_plan.hpp>
#include <bsconv/replace/layer_weights.hpp>
#include <bsconv/replace/options.hpp>
#include <bsconv/replace/replacer.hpp>
#include <bsconv/replace/report.hpp>
#include <bsconv/util/rng_guard.hpp>
#include <bsconv/util/text.hpp>

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace bsconv {

namespace detail {

/// The convolutions that are parts of a BSConv layer of `model`.
inline std::unordered_set<const torch::nn::Module*> parts_of_layers(
    const torch::nn::Module& model) {
  std::unordered_set<const torch::nn::Module*> parts;
  for_each_module(model, [&](const torch::nn::Module& module, const std::string&) {
    if (dynamic_cast<const BSConvUImpl*>(&module) != nullptr ||
        dynamic_cast<const BSConvSImpl*>(&module) != nullptr) {
      for (const auto& child : module.children()) {
        parts.insert(child.get());
      }
    }
  });
  return parts;
}

/// Layers for the convolutions of `model` that `options` select, parts of BSConv layers left out,
/// in tree order.
template <class Options>
std::vector<LayerPlan> make_plans(torch::nn::Module& model, const Options& options) {
  const auto parts = parts_of_layers(model);
  std::vector<LayerPlan> plans;
  for_each_module(model, [&](torch::nn::Module& module, const std::string& path) {
    if (parts.count(&module) == 0 && options.selects(module, path)) {
      plans.push_back(make_plan(dynamic_cast<torch::nn::Conv2dImpl&>(module), path, options));
    }
  });
  return plans;
}

/// Why the convolution of `plan` stays: the new layer would not come near enough to it. Empty if it
/// is replaced.
template <class Options>
std::string reason_to_keep(const LayerPlan& plan, const Options& options) {
  std::string reason;
  if (plan.explained_variance < options.min_explained_variance()) {
    reason.append("the new layer would have ").append(fixed(100.0 * plan.explained_variance, 1));
    reason.append(" % of its weights' squared norm, less than ");
    reason.append(fixed(100.0 * options.min_explained_variance(), 1)).append(" %");
  }
  return reason;
}

/// The layer of `plan`, with the weights that `options` want: those of `fitted`, unless it is null.
/// One that keeps what the convolution has learned is as frozen as that.
template <class Options>
torch::nn::AnyModule make_layer(const LayerPlan& plan, const Options& options,
                                const CalibratedLayer* fitted) {
  auto layer = options.make(*plan.conv, plan.shape.terms);
  auto& module = *layer.ptr();
  const auto& weight = plan.conv->weight;
  if (weight.scalar_type() == torch::kDouble) {
    // Before it takes over weights, which float32 would round.
    convert(module, torch::kCPU, torch::kDouble);
  }
  if (fitted != nullptr) {
    set_weights(module, fitted->weights);
    set_inner_statistics(module, *fitted);
  } else if (options.initialization() == Initialization::svd) {
    initialize_from(module, *plan.conv);
  }
  if (options.initialization() != Initialization::random) {
    for (const auto& parameter : module.parameters()) {
      parameter.set_requires_grad(weight.requires_grad());
    }
  }
  return layer;
}

/// Adds to `row` what is known of `plan`, and of the `fitted` layer unless it is null.
template <class Options>
void describe_plan(Replacement& row, const LayerPlan& plan, const Options& options,
                   const CalibratedLayer* fitted) {
  if (row.kind == ReplacementKind::kept) {
    const RngGuard rng;
    row.new_type = describe(*options.make(*plan.conv, plan.shape.terms).ptr());
    row.explained_variance = plan.explained_variance;
    return;
  }
  row.terms = plan.shape.terms;
  if (options.initialization() != Initialization::random) {
    row.explained_variance = plan.explained_variance;
  }
  if (fitted != nullptr) {
    row.output_error = fitted->output_error;
  }
}

/// Replaces the convolutions of `model` that `options` select by the layers that they make.
template <class Options>
ReplacementReport replace_convolutions(torch::nn::Module& model, const Options& options) {
  options.validate();
  std::unordered_map<const torch::nn::Module*, LayerPlan> plans;
  std::vector<LayerPlan> replaced;
  for (const auto& plan : make_plans(model, options)) {
    plans.emplace(plan.conv, plan);
    if (reason_to_keep(plan, options).empty()) {
      replaced.push_back(plan);
    }
  }
  CalibratedLayers calibrated;
  if (options.initialization() == Initialization::data && !options.dry_run()) {
    calibrated = calibrate(model, options.calibration(), replaced);
  }
  const auto fitted = [&](const torch::nn::Module& module) -> const CalibratedLayer* {
    const auto found = calibrated.find(&module);
    return found == calibrated.end() ? nullptr : &found->second;
  };
  ReplacementRule rule;
  rule.filter = [&](const torch::nn::Module& module, const std::string&) {
    return plans.count(&module) != 0;
  };
  rule.keep = [&](const torch::nn::Module& module, const std::string&) {
    return reason_to_keep(plans.at(&module), options);
  };
  rule.transformer = [&](const torch::nn::Module& module, const std::string&) {
    return make_layer(plans.at(&module), options, fitted(module));
  };
  rule.annotate = [&](Replacement& row, const torch::nn::Module& module) {
    describe_plan(row, plans.at(&module), options, fitted(module));
  };
  auto report = Replacer({rule}).apply(model, options.dry_run());
  if (!calibrated.empty() && options.calibration().batch_norm_statistics()) {
    estimate_batch_norm_statistics(model, options.calibration().forward(),
                                   options.calibration().batches());
  }
  return report;
}

}  // namespace detail

/// Replaces the convolutions of `model` by `BSConvU` layers of the same geometry, in place: the
/// Python package's `BSConvU_Replacer`. By default every ungrouped 3x3 and 5x5 `Conv2d`; never
/// the parts of a `BSConvU` or `BSConvS` that is there already.
///
/// Works on any model (see `Replacer` for how). The new layers are initialized as the options say,
/// in tree order, on the old ones' device, dtype and mode. The parameters of a layer that keeps
/// what the convolution has learned (`svd` or `data`) require a gradient if its weight does, those
/// of a `random` one always. Make optimizers afterwards.
inline ReplacementReport replace_with_bsconv_u(torch::nn::Module& model,
                                               const BSConvUReplacementOptions& options = {}) {
  return detail::replace_convolutions(model, options);
}

/// Replaces the convolutions of `model` by `BSConvS` layers of the same geometry, in place: the
/// Python package's `BSConvS_Replacer`. By default every ungrouped 3x3 and 5x5 `Conv2d`.
///
/// Add `regularization_loss(model)` to the training loss. See `replace_with_bsconv_u` for the rest.
inline ReplacementReport replace_with_bsconv_s(torch::nn::Module& model,
                                               const BSConvSReplacementOptions& options = {}) {
  return detail::replace_convolutions(model, options);
}

/// The same for a module holder, `replace_with_bsconv_u(model)` with a `torch::nn::Sequential`.
template <class Contained>
ReplacementReport replace_with_bsconv_u(torch::nn::ModuleHolder<Contained>& model,
                                        const BSConvUReplacementOptions& options = {}) {
  return replace_with_bsconv_u(*model, options);
}

/// The same for a module holder, `replace_with_bsconv_s(model)` with a `torch::nn::Sequential`.
template <class Contained>
ReplacementReport replace_with_bsconv_s(torch::nn::ModuleHolder<Contained>& model,
                                        const BSConvSReplacementOptions& options = {}) {
  return replace_with_bsconv_s(*model, options);
}

}  // namespace bsconv
