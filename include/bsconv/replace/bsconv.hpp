// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/modules/container/any.h>
#include <torch/nn/modules/conv.h>
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
#include <utility>
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

/// A row for a convolution that the new layer would not come near enough to.
template <class Options>
Replacement too_far(const LayerPlan& plan, const Options& options) {
  Replacement row;
  row.path = plan.path;
  row.old_type = describe(*plan.conv);
  row.new_type = describe(*options.make(*plan.conv, plan.shape.terms).ptr());
  row.parameters_before = row.parameters_after = parameter_count(*plan.conv);
  row.reason = "the new layer would have " + fixed(100.0 * plan.explained_variance, 1);
  row.reason += " % of its weights' squared norm, less than " +
                fixed(100.0 * options.min_explained_variance(), 1) + " %";
  row.explained_variance = plan.explained_variance;
  return row;
}

template <class Options>
ReplacementReport replace_convolutions(torch::nn::Module& model, const Options& options) {
  options.validate();
  const auto parts = parts_of_layers(model);
  std::unordered_map<const torch::nn::Module*, LayerPlan> plans;
  std::vector<LayerPlan> chosen;
  std::vector<Replacement> kept;
  for_each_module(model, [&](torch::nn::Module& module, const std::string& path) {
    if (parts.count(&module) != 0 || !options.selects(module, path)) {
      return;
    }
    const auto plan = make_plan(dynamic_cast<torch::nn::Conv2dImpl&>(module), path, options);
    if (plan.explained_variance < options.min_explained_variance()) {
      const RngGuard rng;
      kept.push_back(too_far(plan, options));
    } else {
      plans.emplace(&module, plan);
      chosen.push_back(plan);
    }
  });
  CalibratedLayers calibrated;
  if (options.initialization() == Initialization::data && !options.dry_run()) {
    calibrated = calibrate(model, options.calibration(), chosen);
  }
  const auto transformer = [&](const torch::nn::Module& module, const std::string&) {
    const auto& plan = plans.at(&module);
    auto layer = options.make(*plan.conv, plan.shape.terms);
    if (plan.conv->weight.scalar_type() == torch::kDouble) {
      // Before it takes over weights, which float32 would round.
      convert(*layer.ptr(), torch::kCPU, torch::kDouble);
    }
    const auto fitted = calibrated.find(&module);
    if (fitted != calibrated.end()) {
      set_weights(*layer.ptr(), fitted->second.weights);
      set_inner_statistics(*layer.ptr(), fitted->second);
    } else if (options.initialization() == Initialization::svd) {
      initialize_from(*layer.ptr(), *plan.conv);
    }
    return layer;
  };
  const auto filter = [&](const torch::nn::Module& module, const std::string&) {
    return plans.count(&module) != 0;
  };
  std::unordered_map<std::string, const torch::nn::Module*> places;
  for (const auto& plan : chosen) {
    places.emplace(plan.path, plan.conv);
  }
  auto report = Replacer({{filter, transformer}}).apply(model, options.dry_run());
  for (auto& row : report.rows) {
    const auto place = places.find(row.path);
    if (place == places.end()) {
      continue;
    }
    const auto& plan = plans.at(place->second);
    row.terms = plan.shape.terms;
    if (options.initialization() != Initialization::random) {
      row.explained_variance = plan.explained_variance;
    }
    const auto fitted = calibrated.find(place->second);
    if (fitted != calibrated.end()) {
      row.output_error = fitted->second.output_error;
    }
  }
  report.rows.insert(report.rows.end(), kept.begin(), kept.end());
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
/// in tree order, on the old ones' device, dtype and mode. Make optimizers afterwards.
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
