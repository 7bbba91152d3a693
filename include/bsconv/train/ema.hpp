// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/types.h>

#include <bsconv/util/restore.hpp>
#include <bsconv/weights/state_dict.hpp>

namespace bsconv::train {

/// An exponential moving average (EMA) of a module's parameters and floating-point buffers; other
/// buffers are copied.
///
/// Update number n weighs the average so far by min(decay, (1 + n) / (10 + n)), so that the first
/// weights are soon forgotten.
class Ema {
 public:
  /// Starts from the present weights of `module`. `decay` lies in 0..1, 1 excluded.
  Ema(const torch::nn::Module& module, double decay) : decay_(decay) {
    TORCH_CHECK(decay_ >= 0 && decay_ < 1, "the decay must lie in 0..1, 1 excluded, got ", decay_);
    restart(module);
  }

  /// Starts anew from the present weights of `module`.
  void restart(const torch::nn::Module& module) {
    average_.clear();
    for (const auto& item : weights::state_dict(module)) {
      average_.insert(item.key(), item.value().detach().clone());
    }
    updates_ = 0;
  }

  /// Takes the present weights of `module`, the one it was made for, into the average.
  void update(const torch::nn::Module& module) {
    const torch::NoGradGuard no_grad;
    ++updates_;
    const auto count = static_cast<double>(updates_);
    const double weight = 1 - std::min(decay_, (1 + count) / (10 + count));
    std::vector<torch::Tensor> averages;
    std::vector<torch::Tensor> values;
    for (const auto& item : weights::state_dict(module)) {
      auto& average = average_[item.key()];
      if (average.is_floating_point()) {
        averages.push_back(average);
        values.push_back(item.value().detach());
      } else {
        average.copy_(item.value());
      }
    }
    at::_foreach_lerp_(averages, values, weight);
  }

  /// The average under the module's names.
  const weights::StateDict& average() const noexcept { return average_; }
  /// How many updates there were.
  int64_t updates() const noexcept { return updates_; }

  /// Goes on from an average and its number of updates. Throws `c10::Error` that lists what does
  /// not fit `module`; nothing is then changed.
  void load(const torch::nn::Module& module, const weights::StateDict& average, int64_t updates) {
    const auto difference = weights::compare_state_dict(module, average);
    TORCH_CHECK(difference.empty() && updates >= 0, "the moving average does not fit the model:\n",
                difference.to_string());
    const torch::NoGradGuard no_grad;
    for (auto& item : average_) {
      item.value().copy_(average[item.key()]);
    }
    updates_ = updates;
  }

 private:
  double decay_;
  weights::StateDict average_;
  int64_t updates_ = 0;
};

/// While an object of this class lives, a module has the weights of an average; afterwards it has
/// its own again, bit for bit.
class EmaScope {
 public:
  /// Does nothing if `ema` is null. Both must outlive this object.
  EmaScope(const torch::nn::Module& module, const Ema* ema) {
    if (ema == nullptr) {
      return;
    }
    const torch::NoGradGuard no_grad;
    // First all copies, for which there may be no memory, so that none or all are changed.
    const auto state = weights::state_dict(module);
    for (const auto& item : state) {
      const auto value = item.value().detach();
      own_.emplace_back(value, value.clone());
    }
    auto own = own_.begin();
    for (const auto& item : state) {
      (own++)->first.copy_(ema->average()[item.key()]);
    }
  }

  EmaScope(const EmaScope&) = delete;
  EmaScope& operator=(const EmaScope&) = delete;

  ~EmaScope() {
    bsconv::detail::restore("the weights of a model", [this] {
      const torch::NoGradGuard no_grad;
      for (const auto& [value, own] : own_) {
        value.copy_(own);
      }
    });
  }

 private:
  std::vector<std::pair<torch::Tensor, torch::Tensor>> own_;
};

}  // namespace bsconv::train
