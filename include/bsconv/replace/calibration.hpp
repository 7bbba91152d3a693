// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/arg.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>
#include <bsconv/nn/forward_function.hpp>
#include <bsconv/nn/tensor_module.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace bsconv {

/// Sample inputs of a model, and how to run it on them: what `Initialization::data` learns from.
///
/// Some hundred images will do, without labels, on the model's device. They should be what the
/// model was trained on, augmentation included: the statistics of its batch normalizations are
/// those of augmented images.
struct Calibration {
  /// None; `Initialization::data` refuses it.
  Calibration() = default;

  /// `forward` runs the model that is to be replaced, as it stands; what it returns is not looked
  /// at.
  Calibration(ForwardFunction forward, std::vector<torch::Tensor> batches)
      : forward_(std::move(forward)), batches_(std::move(batches)) {}

  /// The model's own `forward`; shares the module.
  template <class Contained>
  Calibration(const torch::nn::ModuleHolder<Contained>& model, std::vector<torch::Tensor> batches)
      : Calibration(
            [module = model.ptr()](const torch::Tensor& batch) { return module->forward(batch); },
            std::move(batches)) {}

  /// The same for a pointer, as `std::make_shared<Net>()` returns it.
  template <detail::TensorModule Impl>
  Calibration(std::shared_ptr<Impl> model, std::vector<torch::Tensor> batches)
      : Calibration([module = std::move(model)](
                        const torch::Tensor& batch) { return module->forward(batch); },
                    std::move(batches)) {}

  /// Runs the model on a batch.
  TORCH_ARG(ForwardFunction, forward);
  /// The inputs, `[N, C, H, W]` each as a rule.
  TORCH_ARG(std::vector<torch::Tensor>, batches);
  /// How much a weight that the inputs say nothing about is held to its old value, relative to the
  /// mean squared input. Default: 1e-3
  TORCH_ARG(double, damping) = 1e-3;
  /// After how many rounds of least squares a layer is done at the latest. Default: 30
  TORCH_ARG(int64_t, iterations) = 30;
  /// Whether the statistics of the model's batch normalizations are estimated anew at the end.
  /// Default: true
  TORCH_ARG(bool, batch_norm_statistics) = true;
};

namespace detail {

/// Throws `c10::ValueError` naming `function` if there is nothing to run.
inline void check_calibration(const char* function, const ForwardFunction& forward,
                              const std::vector<torch::Tensor>& batches) {
  TORCH_CHECK_VALUE(forward != nullptr, function, ": there is no function that runs the model");
  TORCH_CHECK_VALUE(!batches.empty(), function, ": there are no batches to run the model on");
  for (std::size_t index = 0; index < batches.size(); ++index) {
    TORCH_CHECK_VALUE(batches[index].defined() && batches[index].numel() > 0, function, ": batch ",
                      index, " is empty");
  }
}

/// Throws `c10::ValueError` naming `function` if `calibration` can't be used.
inline void check_calibration(const char* function, const Calibration& calibration) {
  check_calibration(function, calibration.forward(), calibration.batches());
  TORCH_CHECK_VALUE(std::isfinite(calibration.damping()) && calibration.damping() > 0.0, function,
                    ": damping must be finite and above 0, got ", calibration.damping());
  TORCH_CHECK_VALUE(calibration.iterations() > 0, function, ": iterations must be at least 1, got ",
                    calibration.iterations());
}

}  // namespace detail

}  // namespace bsconv
