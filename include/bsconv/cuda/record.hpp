// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/cuda/CUDAGraph.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#include <utility>

// This header needs LibTorch with CUDA and the CUDA toolkit's headers.

namespace bsconv::cuda {

/// Records as `graph` what `work` launches on the current stream, which must not be the default
/// one. Other threads may go on working meanwhile. If `work` throws, the recording is ended and the
/// error passed on.
template <class Work>
void record(at::cuda::CUDAGraph& graph, Work&& work) {
  graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
  try {
    std::forward<Work>(work)();
  } catch (...) {
    try {
      graph.capture_end();
    } catch (const c10::Error&) {
      // The first error says more.
    }
    throw;
  }
  graph.capture_end();
}

}  // namespace bsconv::cuda
