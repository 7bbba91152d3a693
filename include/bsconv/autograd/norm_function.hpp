// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/autograd.h>
#include <torch/types.h>
#include <bsconv/autograd/normalization_backward.hpp>
#include <bsconv/autograd/normalization_forward.hpp>
#include <bsconv/autograd/reference.hpp>

#include <cstdint>
#include <optional>

namespace bsconv::detail {

/// What the backward pass of `NormFunction` has to know beside its tensors.
struct NormContext : torch::CustomClassHolder {
  /// The batch normalization, without tensors that autograd keeps.
  TrainingBatchNorm norm;
  /// What follows it.
  kernels::Activation activation = kernels::Activation::identity;
  /// The kernels of the forward pass.
  const kernels::TrainingKernelTable* kernels = nullptr;
  /// What it does to the batch.
  Normalization normalization;
};

/// A batch normalization and what follows it, `activation(norm(input) + residual)`, as one
/// operator.
class NormFunction : public torch::autograd::Function<NormFunction> {
 public:
  /// Images are channels_last. Weight and bias are those of `norm`, as arguments of their own so
  /// that autograd sees them.
  static torch::Tensor forward(torch::autograd::AutogradContext* context,
                               const torch::Tensor& input,
                               const std::optional<torch::Tensor>& residual_part,
                               const std::optional<torch::Tensor>& /*weight*/,
                               const std::optional<torch::Tensor>& /*bias*/,
                               const TrainingBatchNorm& norm, kernels::Activation activation,
                               const kernels::TrainingKernelTable* kernels) {
    const auto residual = residual_part.value_or(torch::Tensor());
    auto kept = c10::make_intrusive<NormContext>();
    kept->norm = norm;
    kept->norm.weight = kept->norm.bias = torch::Tensor();
    kept->activation = activation;
    kept->kernels = kernels;
    kept->normalization = normalization_in_step(input, norm, *kernels);
    auto output =
        normalized_images(input, kept->normalization, activation, residual, *kernels->forward);
    context->saved_data["norm"] = torch::IValue::make_capsule(kept);
    const bool keeps_output = residual.defined() && activation != kernels::Activation::identity;
    context->save_for_backward(
        {input, residual, norm.weight, norm.bias, keeps_output ? output : torch::Tensor()});
    return output;
  }

  /// Gradients in the order of the arguments of `forward`.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto capsule = context->saved_data["norm"].toCapsule();
    const auto& kept = static_cast<const NormContext&>(*capsule);
    if (torch::GradMode::is_enabled()) {
      return reference_gradients(
          [&kept](const torch::autograd::variable_list& own) {
            auto norm = kept.norm;
            norm.weight = own[2];
            norm.bias = own[3];
            return reference_activation(reference_norm(own[0], norm), own[1], kept.activation);
          },
          gradients[0], saved, 4, argument_count);
    }
    const NormalizationBackward backward(channels_last(gradients[0]), saved[0], saved[4],
                                         saved[1].defined(), kept.normalization, kept.activation,
                                         *kept.kernels);
    torch::autograd::variable_list result(argument_count);
    if (context->needs_input_grad(0)) {
      result[0] = empty_images(saved[0], saved[0].size(1), saved[0].size(2), saved[0].size(3));
      backward.write({}, result[0]);
    }
    result[1] = backward.residual_gradient;
    if (saved[2].defined()) {
      result[2] = float_tensor(backward.weight);
    }
    if (saved[3].defined()) {
      result[3] = float_tensor(backward.bias);
    }
    return result;
  }

 private:
  static constexpr std::size_t argument_count = 7;
};

/// Computes `activation(norm(input) + residual)` on `kernels`, as a part of the graph.
inline torch::Tensor run_norm(const torch::Tensor& input, const TrainingBatchNorm& norm,
                              kernels::Activation activation, const torch::Tensor& residual,
                              const kernels::TrainingKernelTable& kernels) {
  return NormFunction::apply(channels_last(input), if_defined(channels_last_if_any(residual)),
                             if_defined(norm.weight), if_defined(norm.bias), norm, activation,
                             &kernels);
}

}  // namespace bsconv::detail
