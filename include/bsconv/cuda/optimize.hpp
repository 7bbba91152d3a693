// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/cuda/cuda_runtime.hpp>
#include <bsconv/gpu/compiler.hpp>
#include <bsconv/gpu/planner.hpp>
#include <bsconv/infer/executable.hpp>
#include <bsconv/infer/graph.hpp>
#include <bsconv/infer/optimize.hpp>

#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace bsconv::cuda {

namespace detail {

/// The compiler of a device, which all plans on it share.
inline std::shared_ptr<gpu::Compiler> compiler_of(torch::Device device) {
  static std::mutex mutex;
  static std::map<c10::DeviceIndex, std::shared_ptr<gpu::Compiler>> compilers;
  const std::lock_guard lock(mutex);
  auto& found = compilers[device.index()];
  if (found == nullptr) {
    found = std::make_shared<gpu::Compiler>(std::make_shared<CudaRuntime>(device));
  }
  return found;
}

// Including this header is what `optimize` asks for to plan models on GPUs.
inline const bool planner_is_registered =
    infer::register_gpu_planner([](infer::Graph graph, const torch::Tensor& example,
                                   torch::ScalarType dtype) -> std::unique_ptr<infer::Executable> {
      return gpu::make_plan(compiler_of(example.device()), std::move(graph), example, dtype);
    });

}  // namespace detail

}  // namespace bsconv::cuda
