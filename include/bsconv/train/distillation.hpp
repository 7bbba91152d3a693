// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cmath>
#include <utility>

#include <torch/arg.h>
#include <torch/types.h>

namespace bsconv::train {

/// What a network learns from another one's logits for the same images (Hinton, Vinyals and Dean,
/// "Distilling the Knowledge in a Neural Network", 2015, section 2).
struct Distillation {
  Distillation() = default;

  /// From `logits` [N, classes] of the teacher.
  explicit Distillation(torch::Tensor logits) : logits_(std::move(logits)) {}

  /// The teacher's logits [N, classes]; if undefined, nothing is learned from them.
  TORCH_ARG(torch::Tensor, logits) = {};
  /// Its part of the loss, 0 to 1; the labels have the rest. Default: 0.9.
  TORCH_ARG(double, weight) = 0.9;
  /// What logits are divided by before softmax: the higher, the more the classes that are not
  /// right count. Default: 4.
  TORCH_ARG(double, temperature) = 4;
};

/// The divergence KL(teacher || student) between the softmax of the logits divided by the
/// temperature, a mean over the images, times the square of the temperature, so that gradients are
/// of the size of cross entropy's. Throws if `logits` [N, classes] and the teacher's differ in
/// shape.
inline torch::Tensor distillation_loss(const torch::Tensor& logits, const Distillation& teacher) {
  TORCH_CHECK(teacher.logits().defined() && teacher.logits().sizes() == logits.sizes(),
              "the teacher's logits must be [N, classes] as the model's, ", logits.sizes(),
              ", got ", teacher.logits().defined() ? teacher.logits().sizes() : c10::IntArrayRef());
  const double temperature = teacher.temperature();
  TORCH_CHECK(std::isfinite(temperature) && temperature > 0,
              "the temperature of a distillation must be above 0, got ", temperature);
  const auto log_softmax = [temperature](const torch::Tensor& values) {
    return (values.to(torch::kFloat) / temperature).log_softmax(1);
  };
  const auto expected = log_softmax(teacher.logits().detach());
  const auto divergence = at::kl_div(log_softmax(logits), expected, at::Reduction::Sum,
                                     /*log_target=*/true);
  return divergence * (temperature * temperature / static_cast<double>(logits.size(0)));
}

}  // namespace bsconv::train
