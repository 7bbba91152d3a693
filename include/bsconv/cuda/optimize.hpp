// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/cuda/device_compiler.hpp>
#include <bsconv/gpu/planner.hpp>
#include <bsconv/infer/executable.hpp>
#include <bsconv/infer/graph.hpp>
#include <bsconv/infer/optimize.hpp>

#include <memory>
#include <utility>

/// \file
/// Makes `optimize` plan models on CUDA devices: including this header in one source file of a
/// program is enough. bsconv/cuda.hpp includes it.

namespace bsconv::cuda {

namespace detail {

inline const bool planner_is_registered =
    infer::register_gpu_planner([](infer::Graph graph, const torch::Tensor& example,
                                   torch::ScalarType dtype) -> std::unique_ptr<infer::Executable> {
      return gpu::make_plan(device_compiler(example.device()), std::move(graph), example, dtype);
    });

}  // namespace detail

}  // namespace bsconv::cuda
