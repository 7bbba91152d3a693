// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// What runs on CUDA devices alone: `optimize` for models there, fused training operators, and
/// training steps as CUDA graphs.
/// Needs LibTorch with CUDA and the CUDA toolkit's headers: the CMake component `bsconv::cuda`.

#include <bsconv/cuda/cuda_runtime.hpp>     // IWYU pragma: export
#include <bsconv/cuda/device_compiler.hpp>  // IWYU pragma: export
#include <bsconv/cuda/fused_training.hpp>   // IWYU pragma: export
#include <bsconv/cuda/optimize.hpp>         // IWYU pragma: export
#include <bsconv/cuda/record.hpp>           // IWYU pragma: export
#include <bsconv/cuda/step_graph.hpp>       // IWYU pragma: export
