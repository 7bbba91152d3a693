// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/types.h>
#include <bsconv/capture/operator_capture.hpp>
#include <bsconv/nn/modes_guard.hpp>
#include <bsconv/replace/calibration.hpp>
#include <bsconv/replace/layer_plan.hpp>
#include <bsconv/replace/layer_weights.hpp>
#include <bsconv/replace/least_squares.hpp>
#include <bsconv/replace/moments.hpp>
#include <bsconv/util/restore.hpp>
#include <bsconv/util/rng_guard.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

namespace bsconv::detail {

/// A layer fitted to its outputs.
struct CalibratedLayer {
  LayerWeights weights;
  /// The mean squared error of its outputs relative to their variance.
  double output_error = 0.0;
  /// The mean `[in]` and the covariance `[in, in]` of its inputs.
  torch::Tensor input_mean;
  torch::Tensor input_covariance;
};

/// Fitted layers by the convolution they stand for.
using CalibratedLayers = std::unordered_map<const torch::nn::Module*, CalibratedLayer>;

/// Exchanges the values of convolutions' weights, and puts the old ones back at its end. A product
/// of pointwise and depthwise weights is a dense kernel, so that the convolution itself can compute
/// what its replacement will.
class WeightSwitch {
 public:
  WeightSwitch() = default;
  ~WeightSwitch() {
    restore("the weights of convolutions", [this] { use_old(); });
  }
  WeightSwitch(const WeightSwitch&) = delete;
  WeightSwitch& operator=(const WeightSwitch&) = delete;
  WeightSwitch(WeightSwitch&&) = delete;
  WeightSwitch& operator=(WeightSwitch&&) = delete;

  /// Adds a tensor and the values it has with `use_new()`.
  void add(const torch::Tensor& tensor, const torch::Tensor& values) {
    entries_.push_back({tensor, tensor.detach().clone(), values.to(tensor.options())});
  }
  /// The values from before.
  void use_old() {
    const torch::NoGradGuard no_grad;
    for (auto& entry : entries_) {
      entry.tensor.copy_(entry.before);
    }
  }
  /// The new values.
  void use_new() {
    const torch::NoGradGuard no_grad;
    for (auto& entry : entries_) {
      entry.tensor.copy_(entry.after);
    }
  }

 private:
  struct Entry {
    torch::Tensor tensor;
    torch::Tensor before;
    torch::Tensor after;
  };
  std::vector<Entry> entries_;
};

/// `plans` in the order in which their convolutions run first; those that share a weight once.
inline std::vector<LayerPlan> running_order(const Calibration& calibration,
                                            const std::vector<LayerPlan>& plans) {
  std::vector<torch::Tensor> weights;
  weights.reserve(plans.size());
  for (const auto& plan : plans) {
    weights.push_back(plan.conv->weight);
  }
  std::vector<LayerPlan> ordered;
  const auto known = [](const std::vector<LayerPlan>& list, const torch::Tensor& weight) {
    return std::find_if(list.begin(), list.end(),
                        [&](const LayerPlan& plan) { return plan.conv->weight.is_same(weight); });
  };
  ConvolutionObserver observer(weights, [&](const torch::Tensor& weight, const ConvolutionCall&) {
    if (known(ordered, weight) == ordered.end()) {
      ordered.push_back(*known(plans, weight));
    }
  });
  {
    const OperatorCapture capture(observer);
    calibration.forward()(calibration.batches().front());
  }
  for (const auto& plan : plans) {
    TORCH_CHECK_VALUE(known(ordered, plan.conv->weight) != ordered.end(), "'", plan.path,
                      "': the calibration doesn't run this convolution; exclude it, or run the ",
                      "model that holds it");
  }
  return ordered;
}

/// Runs one batch and returns the runs of the convolution with `weight`.
inline std::vector<ConvolutionCall> runs_of(const torch::Tensor& weight,
                                            const Calibration& calibration,
                                            const torch::Tensor& batch) {
  std::vector<ConvolutionCall> calls;
  ConvolutionObserver observer(
      {weight}, [&](const torch::Tensor&, const ConvolutionCall& call) { calls.push_back(call); });
  const OperatorCapture capture(observer);
  calibration.forward()(batch);
  return calls;
}

/// Fits what stands for the convolutions of `plans`, one after the other in the order in which they
/// run. Nothing in `model` is changed in the end. Throws if the calibration doesn't run one of
/// them, or if some share their weight and not their bias.
inline CalibratedLayers calibrate(torch::nn::Module& model, const Calibration& calibration,
                                  const std::vector<LayerPlan>& plans) {
  CalibratedLayers fitted;
  if (plans.empty()) {
    return fitted;
  }
  const torch::NoGradGuard no_grad;
  const RngGuard rng;
  const ModesGuard modes(model);
  model.eval();
  WeightSwitch layers_before;
  for (const auto& plan : running_order(calibration, plans)) {
    const auto& conv = *plan.conv;
    LayerMoments moments(conv.weight);
    for (const auto& batch : calibration.batches()) {
      layers_before.use_old();
      const auto original = runs_of(conv.weight, calibration, batch);
      layers_before.use_new();
      const auto replaced = fitted.empty() ? original : runs_of(conv.weight, calibration, batch);
      TORCH_CHECK(original.size() == replaced.size(), "'", plan.path,
                  "': this convolution runs another number of times once the layers before it are ",
                  "replaced; use svd instead");
      for (std::size_t run = 0; run < original.size(); ++run) {
        moments.add(replaced[run], original[run].output);
      }
    }
    layers_before.use_old();
    const LayerFit fit(moments, conv.weight, conv.bias.defined(), calibration.damping());
    CalibratedLayer layer;
    layer.weights = fit.run(closest_weights(conv.weight, plan.shape), calibration.iterations());
    layer.output_error = fit.output_error(layer.weights);
    layer.input_mean = moments.pixel_mean();
    layer.input_covariance = moments.pixel_covariance();
    layers_before.add(conv.weight, layer.weights.dense());
    if (conv.bias.defined()) {
      layers_before.add(conv.bias, layer.weights.bias);
    }
    for (const auto& same : plans) {
      if (same.conv->weight.is_same(conv.weight)) {
        TORCH_CHECK_VALUE(same.conv->bias.is_same(conv.bias), "'", same.path,
                          "': this convolution shares its weight with '", plan.path,
                          "', but not its bias; use svd instead");
        fitted.emplace(same.conv, layer);
      }
    }
  }
  return fitted;
}

/// Gives the batch normalizations inside `module` the statistics of what they get, and factors
/// that undo them, so that they leave its outputs as they were fitted.
inline void set_inner_statistics(torch::nn::Module& module, const CalibratedLayer& layer) {
  const torch::NoGradGuard no_grad;
  const auto set = [&](torch::nn::BatchNorm2d& norm, const torch::Tensor& rows) {
    if (!norm) {
      return;
    }
    TORCH_CHECK_VALUE(norm->weight.defined() && norm->running_mean.defined(),
                      "Initialization::data needs affine batch normalizations with running ",
                      "statistics; bn_options say otherwise");
    const auto mean = rows.matmul(layer.input_mean);
    const auto variance = (rows.matmul(layer.input_covariance) * rows).sum(1).clamp_min(0.0);
    norm->running_mean.copy_(mean);
    norm->running_var.copy_(variance);
    norm->weight.copy_((variance + norm->options.eps()).sqrt());
    norm->bias.copy_(mean);
  };
  const auto& weights = layer.weights;
  for_each_term(module, [&](auto& term, int64_t index) {
    if (index >= weights.pointwise.size(1)) {
      return;
    }
    if constexpr (std::is_same_v<std::decay_t<decltype(term)>, BSConvSImpl>) {
      set(term.bn1, weights.basis.select(0, index));
      set(term.bn2, weights.pointwise.select(1, index));
    } else {
      set(term.bn, weights.pointwise.select(1, index));
    }
  });
}

}  // namespace bsconv::detail
