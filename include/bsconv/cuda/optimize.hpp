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

namespace bsconv::cuda {

namespace detail {

// Including this header is what `optimize` asks for to plan models on GPUs.
inline const bool planner_is_registered =
    infer::register_gpu_planner([](infer::Graph graph, const torch::Tensor& example,
                                   torch::ScalarType dtype) -> std::unique_ptr<infer::Executable> {
      return gpu::make_plan(device_compiler(example.device()), std::move(graph), example, dtype);
    });

}  // namespace detail

}  // namespace bsconv::cuda
