// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <torch/optim/adamw.h>
#include <torch/optim/optimizer.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>

#include <bsconv/train/options.hpp>
#include <bsconv/weights/state_dict.hpp>

namespace bsconv::train {

/// The optimizer that `options` describes for `parameters`, at the schedule's first learning rate.
///
/// With `exempt_norm_bias`, parameters of at most one dimension (biases, the weights of norms) are
/// a second group, without weight decay.
inline std::unique_ptr<torch::optim::Optimizer> make_optimizer(
    const TrainOptions& options, const weights::StateDict& parameters) {
  const auto make = [&](const auto& defaults,
                        auto* type) -> std::unique_ptr<torch::optim::Optimizer> {
    using Optimizer = std::remove_pointer_t<decltype(type)>;
    if (!options.exempt_norm_bias()) {
      return std::make_unique<Optimizer>(parameters.values(), defaults);
    }
    std::vector<torch::Tensor> decayed;
    std::vector<torch::Tensor> exempt;
    for (const auto& parameter : parameters.values()) {
      (parameter.dim() > 1 ? decayed : exempt).push_back(parameter);
    }
    std::vector<torch::optim::OptimizerParamGroup> groups;
    if (!decayed.empty()) {
      groups.emplace_back(std::move(decayed));
    }
    if (!exempt.empty()) {
      auto without = defaults;
      without.weight_decay(0);
      groups.emplace_back(std::move(exempt),
                          std::make_unique<std::decay_t<decltype(defaults)>>(without));
    }
    return std::make_unique<Optimizer>(groups, defaults);
  };
  const double rate = options.learning_rates().at(0, 0, 1);
  if (options.optimizer() == OptimizerType::adamw) {
    return make(torch::optim::AdamWOptions(rate)
                    .betas(std::make_tuple(options.beta1(), options.beta2()))
                    .eps(options.epsilon())
                    .weight_decay(options.weight_decay()),
                static_cast<torch::optim::AdamW*>(nullptr));
  }
  return make(torch::optim::SGDOptions(rate)
                  .momentum(options.momentum())
                  .nesterov(options.nesterov())
                  .weight_decay(options.weight_decay()),
              static_cast<torch::optim::SGD*>(nullptr));
}

/// Sets the learning rate of all groups of `optimizer`.
inline void set_learning_rate(torch::optim::Optimizer& optimizer, double rate) {
  for (auto& group : optimizer.param_groups()) {
    group.options().set_lr(rate);
  }
}

}  // namespace bsconv::train
