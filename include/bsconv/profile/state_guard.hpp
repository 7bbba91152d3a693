// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <torch/utils.h>
#include <bsconv/nn/walk.hpp>
#include <bsconv/util/rng_guard.hpp>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::detail {

/// Puts a model into evaluation mode without gradients, and at its end back as it was: the mode of
/// each module, the buffers, and the random generators.
class ModelStateGuard {
 public:
  explicit ModelStateGuard(torch::nn::Module& model) {
    for_each_module(model, [&](torch::nn::Module& module, const std::string&) {
      modes_.emplace_back(&module, module.is_training());
    });
    for (const auto& buffer : model.buffers()) {
      if (buffer.defined()) {
        buffers_.push_back({buffer, buffer.detach().clone(), version(buffer)});
      }
    }
    model.eval();
  }
  ~ModelStateGuard() {
    // Parents come first, and `train` reaches down: each module's own mode is set last.
    for (const auto& [module, mode] : modes_) {
      module->train(mode);
    }
    for (auto& saved : buffers_) {
      if (version(saved.buffer) != saved.version) {
        saved.buffer.detach().copy_(saved.copy);
      }
    }
  }
  ModelStateGuard(const ModelStateGuard&) = delete;
  ModelStateGuard& operator=(const ModelStateGuard&) = delete;
  ModelStateGuard(ModelStateGuard&&) = delete;
  ModelStateGuard& operator=(ModelStateGuard&&) = delete;

 private:
  struct SavedBuffer {
    torch::Tensor buffer;
    torch::Tensor copy;
    int64_t version;
  };

  static int64_t version(const torch::Tensor& tensor) {
    return tensor.is_inference() ? 0 : tensor._version();
  }

  RngGuard rng_;
  torch::NoGradGuard no_grad_;
  std::vector<std::pair<torch::nn::Module*, bool>> modes_;
  std::vector<SavedBuffer> buffers_;
};

}  // namespace bsconv::detail
