// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#include <exception>
#include <mutex>
#include <utility>

// This header needs LibTorch with CUDA and the CUDA toolkit's headers.

namespace bsconv::cuda {

namespace detail {

/// Gives back what the allocators have put aside for a recording on `device` that could not be
/// ended: LibTorch does so only for one that was.
inline void abandon(at::cuda::CUDAGraph& graph, c10::DeviceIndex device,
                    at::cuda::MempoolId_t pool) {
  const auto attempt = [](auto&& work) {
    try {
      work();
      return true;
    } catch (const c10::Error&) {
      return false;
    }
  };
  // It knows its pool once it has ended, and releases it itself.
  if (attempt([&] { static_cast<void>(graph.pool()); })) {
    return;
  }
  namespace allocator = c10::cuda::CUDACachingAllocator;
  if (attempt([&] { allocator::endAllocateToPool(device, pool); })) {
    attempt([&] { allocator::releasePool(device, pool); });
  }
  auto* host = at::getHostAllocator(at::kCUDA);
  if (attempt([&] { host->end_allocate_to_pool(pool); })) {
    attempt([&] { host->release_pool(pool); });
  }
}

/// One recording at a time: each is disturbed by what another needs before it begins.
inline std::mutex& recording_mutex() {
  static std::mutex mutex;
  return mutex;
}

}  // namespace detail

/// Records as `graph` what `work` launches on the current stream, which must not be the default
/// one. Other threads may go on working meanwhile, and record one after the other. If `work`
/// throws, the recording is ended and the error passed on.
template <class Work>
void record(at::cuda::CUDAGraph& graph, Work&& work) {
  const std::lock_guard lock(detail::recording_mutex());
  const auto device = c10::cuda::current_device();
  const auto pool = at::cuda::graph_pool_handle();
  graph.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
  std::exception_ptr failure;
  try {
    std::forward<Work>(work)();
  } catch (...) {
    failure = std::current_exception();
  }
  try {
    graph.capture_end();
  } catch (...) {
    detail::abandon(graph, device, pool);
    // The first error says more.
    failure = failure != nullptr ? failure : std::current_exception();
  }
  if (failure != nullptr) {
    static_cast<void>(cudaGetLastError());
    std::rethrow_exception(failure);
  }
}

}  // namespace bsconv::cuda
