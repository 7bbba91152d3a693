// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>
#include <torch/utils.h>
#include <bsconv/nn/modes_guard.hpp>
#include <bsconv/util/restore.hpp>
#include <bsconv/util/rng_guard.hpp>

#include <cstdint>
#include <vector>

namespace bsconv::detail {

/// Puts a model into evaluation mode without gradients, and at its end back as it was: the mode of
/// each module, the buffers, and the random generators.
class ModelStateGuard {
 public:
  explicit ModelStateGuard(torch::nn::Module& model) : modes_(model) {
    for (const auto& buffer : model.buffers()) {
      if (buffer.defined()) {
        buffers_.push_back({buffer, buffer.detach().clone(), version(buffer)});
      }
    }
    model.eval();
  }
  ~ModelStateGuard() {
    restore("the buffers of a model", [this] {
      for (auto& saved : buffers_) {
        if (version(saved.buffer) != saved.version) {
          saved.buffer.detach().copy_(saved.copy);
        }
      }
    });
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
  ModesGuard modes_;
  std::vector<SavedBuffer> buffers_;
};

}  // namespace bsconv::detail
