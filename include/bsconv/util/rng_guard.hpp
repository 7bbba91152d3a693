// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <torch/types.h>
#include <bsconv/util/restore.hpp>

#include <mutex>
#include <utility>
#include <vector>

namespace bsconv {

/// Puts the default random generators back as they were when it was made: the CPU's and, where
/// CUDA has been used, every CUDA device's.
class RngGuard {
 public:
  /// Remembers the states.
  RngGuard() {
    save(at::globalContext().defaultGenerator(at::kCPU));
    const auto& cuda = at::detail::getCUDAHooks();
    for (c10::DeviceIndex i = 0; i < cuda.deviceCount(); ++i) {
      if (cuda.hasPrimaryContext(i)) {
        save(at::globalContext().defaultGenerator(at::Device(at::kCUDA, i)));
      }
    }
  }
  /// Restores the states.
  ~RngGuard() {
    for (auto& saved : saved_) {
      detail::restore("the state of a random generator", [&saved] {
        auto& [generator, state] = saved;
        const std::lock_guard<std::mutex> lock(generator.mutex());
        generator.set_state(state);
      });
    }
  }
  RngGuard(const RngGuard&) = delete;
  RngGuard& operator=(const RngGuard&) = delete;
  RngGuard(RngGuard&&) = delete;
  RngGuard& operator=(RngGuard&&) = delete;

 private:
  void save(at::Generator generator) {
    const std::lock_guard<std::mutex> lock(generator.mutex());
    auto state = generator.get_state();
    saved_.emplace_back(std::move(generator), std::move(state));
  }

  std::vector<std::pair<at::Generator, at::Tensor>> saved_;
};

}  // namespace bsconv
