// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <bsconv/nn/walk.hpp>
#include <bsconv/util/restore.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace bsconv::detail {

/// Puts the mode of a model and of each module in it, training or evaluation, back at its end.
class ModesGuard {
 public:
  explicit ModesGuard(torch::nn::Module& model) {
    for_each_module(model, [&](torch::nn::Module& module, const std::string&) {
      modes_.push_back({&module, module.is_training()});
    });
  }
  ~ModesGuard() {
    // `train` reaches down, and a module may stand below several: until all are as they were, which
    // takes no more passes than there are modules.
    bool changed = true;
    for (std::size_t pass = 0; changed && pass < modes_.size(); ++pass) {
      changed = false;
      for (auto& entry : modes_) {
        if (entry.module != nullptr && entry.module->is_training() != entry.mode) {
          changed = true;
          if (!restore("the mode of a module", [&entry] { entry.module->train(entry.mode); })) {
            // It would fail again.
            entry.module = nullptr;
          }
        }
      }
    }
  }
  ModesGuard(const ModesGuard&) = delete;
  ModesGuard& operator=(const ModesGuard&) = delete;
  ModesGuard(ModesGuard&&) = delete;
  ModesGuard& operator=(ModesGuard&&) = delete;

 private:
  struct Entry {
    torch::nn::Module* module;
    bool mode;
  };
  std::vector<Entry> modes_;
};

}  // namespace bsconv::detail
