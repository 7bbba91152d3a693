// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/nn/walk.hpp>

#include <string>
#include <utility>
#include <vector>

namespace bsconv::detail {

/// Puts the mode of a model and of each module in it, training or evaluation, back at its end.
class ModesGuard {
 public:
  explicit ModesGuard(torch::nn::Module& model) {
    for_each_module(model, [&](torch::nn::Module& module, const std::string&) {
      modes_.emplace_back(&module, module.is_training());
    });
  }
  ~ModesGuard() {
    // Parents come first, and `train` reaches down: each module's own mode is set last.
    for (const auto& [module, mode] : modes_) {
      module->train(mode);
    }
  }
  ModesGuard(const ModesGuard&) = delete;
  ModesGuard& operator=(const ModesGuard&) = delete;
  ModesGuard(ModesGuard&&) = delete;
  ModesGuard& operator=(ModesGuard&&) = delete;

 private:
  std::vector<std::pair<torch::nn::Module*, bool>> modes_;
};

}  // namespace bsconv::detail
