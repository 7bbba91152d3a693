// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <limits>
#include <tuple>

#include <torch/nn/module.h>
#include <torch/types.h>

#include <bsconv/nn/regularization.hpp>
#include <bsconv/train/distillation.hpp>
#include <bsconv/train/metrics.hpp>

namespace bsconv::train {

/// Cross entropy of `logits` [N, classes] against `labels` (int64 [N]) plus the regularization
/// loss of `module` weighted by `alpha`, and how many of the images are right.
///
/// `targets`, if defined, are probabilities [N, classes] that are learned instead of the labels;
/// `label_smoothing` spreads that share of the probability over all classes. With a `teacher`'s
/// logits, the distillation loss has its weight beside the cross entropy. Throws if the shapes do
/// not fit or, on the CPU, if a label has no logit.
inline StepResult classification_loss(const torch::nn::Module& module, const torch::Tensor& logits,
                                      const torch::Tensor& labels, double alpha,
                                      double label_smoothing = 0, const torch::Tensor& targets = {},
                                      const Distillation& teacher = {}) {
  TORCH_CHECK(logits.dim() == 2 && labels.dim() == 1 && logits.size(0) == labels.size(0),
              "logits must be [N, classes] and labels [N], got ", logits.sizes(), " and ",
              labels.sizes());
  TORCH_CHECK(!targets.defined() || targets.sizes() == logits.sizes(),
              "targets must be [N, classes] as the logits, ", logits.sizes(), ", got ",
              targets.defined() ? targets.sizes() : c10::IntArrayRef());
  constexpr int64_t no_ignored_index = std::numeric_limits<int64_t>::min();
  StepResult result;
  result.examples = labels.size(0);
  result.cross_entropy = at::cross_entropy_loss(
      logits.to(torch::kFloat), targets.defined() ? targets.to(torch::kFloat) : labels,
      /*weight=*/{}, at::Reduction::Mean, no_ignored_index, label_smoothing);
  result.loss = result.cross_entropy;
  if (teacher.logits().defined()) {
    result.distillation = distillation_loss(logits, teacher);
    result.loss =
        (1 - teacher.weight()) * result.cross_entropy + teacher.weight() * result.distillation;
    result.distillation = result.distillation.detach();
  }
  if (has_regularization(module)) {
    result.regularization = regularization_loss(module, alpha);
    result.loss = result.loss + result.regularization;
    result.regularization = result.regularization.detach();
  }
  result.cross_entropy = result.cross_entropy.detach();
  const auto scores = logits.detach();
  result.correct = scores.argmax(1).eq(labels).sum();
  if (logits.size(1) > 5) {
    result.correct_top5 = std::get<1>(scores.topk(5, 1)).eq(labels.unsqueeze(1)).sum();
  }
  return result;
}

}  // namespace bsconv::train
