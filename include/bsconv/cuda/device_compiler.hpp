// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/cuda/cuda_runtime.hpp>
#include <bsconv/gpu/compiler.hpp>

#include <map>
#include <memory>
#include <mutex>

namespace bsconv::cuda {

/// The compiler of `device`, a CUDA device, which all that runs there shares.
inline std::shared_ptr<gpu::Compiler> device_compiler(torch::Device device) {
  static std::mutex mutex;
  static std::map<c10::DeviceIndex, std::shared_ptr<gpu::Compiler>> compilers;
  const std::lock_guard lock(mutex);
  auto& found = compilers[device.index()];
  if (found == nullptr) {
    found = std::make_shared<gpu::Compiler>(std::make_shared<CudaRuntime>(device));
  }
  return found;
}

}  // namespace bsconv::cuda
