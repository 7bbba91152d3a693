// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/nn/walk.hpp>

#include <cstddef>
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
    // `train` reaches down, and a module may stand below several: until all are as they were, which
    // takes no more passes than there are modules.
    bool changed = true;
    for (std::size_t pass = 0; changed && pass < modes_.size(); ++pass) {
      changed = false;
      for (const auto& [module, mode] : modes_) {
        if (module->is_training() != mode) {
          module->train(mode);
          changed = true;
        }
      }
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
