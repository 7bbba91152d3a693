// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <c10/util/ScopeExit.h>
#include <cuda_runtime_api.h>

#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <utility>
#include <vector>

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

/// Held alone while something is recorded, or a graph destroyed, and by many while graphs are
/// replayed: a recording is disturbed by what another needs before it begins, and LibTorch's random
/// generator of the device, which every graph is registered with, refuses replays meanwhile.
inline std::shared_mutex& recording_mutex() {
  static std::shared_mutex mutex;
  return mutex;
}

/// Whether this thread records.
inline bool& is_recording() {
  static thread_local bool recording = false;
  return recording;
}

/// The mutex, held by a `Lock`; by none within a recording, whose thread has it already.
template <class Lock>
Lock lock_out_recordings() {
  return is_recording() ? Lock() : Lock(recording_mutex());
}

/// Destroys a graph.
struct DestroyGraph {
  void operator()(at::cuda::CUDAGraph* graph) const {
    const auto lock = lock_out_recordings<std::unique_lock<std::shared_mutex>>();
    delete graph;
  }
};

/// Ends the recording state of the device's random generator, which a recording leaves behind that
/// could not be ended, by one that can.
inline void restore_generator(c10::DeviceIndex device) {
  try {
    at::cuda::CUDAGraph graph;
    graph.capture_begin(at::cuda::graph_pool_handle(), cudaStreamCaptureModeThreadLocal);
    static_cast<void>(at::zeros({1}, at::TensorOptions(at::Device(at::kCUDA, device))));
    graph.capture_end();
  } catch (const c10::Error&) {
    static_cast<void>(cudaGetLastError());
  }
}

}  // namespace detail

/// A graph, which is destroyed while nothing is recorded.
using Graph = std::unique_ptr<at::cuda::CUDAGraph, detail::DestroyGraph>;

/// A graph that nothing is recorded in yet.
inline Graph make_graph() { return Graph(new at::cuda::CUDAGraph()); }

/// Records as `graph` what `work` launches on the current stream, which must not be the default
/// one, nor another thread's. Other threads may go on working meanwhile, but for random numbers on
/// the same device; they record one after the other, and `replay` waits. If `work` throws, the
/// recording is ended and the error passed on.
template <class Work>
void record(at::cuda::CUDAGraph& graph, Work&& work) {
  TORCH_CHECK(!detail::is_recording(), "a CUDA graph can't be recorded within another");
  const std::lock_guard lock(detail::recording_mutex());
  detail::is_recording() = true;
  const auto done = c10::make_scope_exit([] { detail::is_recording() = false; });
  const auto device = c10::cuda::current_device();
  const auto pool = at::cuda::graph_pool_handle();
  TORCH_CHECK(c10::cuda::getCurrentCUDAStream() != c10::cuda::getDefaultCUDAStream(),
              "a CUDA graph can't be recorded on the default stream");
  try {
    graph.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
  } catch (...) {
    detail::abandon(graph, device, pool);
    static_cast<void>(cudaGetLastError());
    detail::restore_generator(device);
    throw;
  }
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
    static_cast<void>(cudaGetLastError());
    detail::restore_generator(device);
    // The first error says more.
    failure = failure != nullptr ? failure : std::current_exception();
  }
  if (failure != nullptr) {
    static_cast<void>(cudaGetLastError());
    std::rethrow_exception(failure);
  }
}

/// Launches what `graph` has recorded, on the current stream. LibTorch refuses it within a
/// recording.
inline void replay(at::cuda::CUDAGraph& graph) {
  const auto lock = detail::lock_out_recordings<std::shared_lock<std::shared_mutex>>();
  graph.replay();
}

/// A stream to record on, which is no one else's while this object lives: those of LibTorch's pool
/// are handed out to all in turn, and what another thread launches would be recorded, too.
class RecordingStream {
 public:
  /// On `device`, of a stream's `priority`.
  RecordingStream(c10::DeviceIndex device, int priority)
      : key_{device, priority}, stream_(take(key_)) {}
  RecordingStream(const RecordingStream&) = delete;
  RecordingStream& operator=(const RecordingStream&) = delete;
  RecordingStream(RecordingStream&&) = delete;
  RecordingStream& operator=(RecordingStream&&) = delete;
  ~RecordingStream() {
    const std::lock_guard lock(mutex());
    idle()[key_].push_back(stream_);
  }

  /// The stream.
  c10::cuda::CUDAStream get() const {
    return c10::cuda::getStreamFromExternal(stream_, key_.first);
  }

 private:
  using Key = std::pair<c10::DeviceIndex, int>;

  static std::mutex& mutex() {
    static std::mutex mutex;
    return mutex;
  }

  // They are never destroyed: LibTorch's allocator keeps memory by the stream that it was taken on.
  static std::map<Key, std::vector<cudaStream_t>>& idle() {
    static std::map<Key, std::vector<cudaStream_t>> streams;
    return streams;
  }

  static cudaStream_t take(const Key& key) {
    const std::lock_guard lock(mutex());
    auto& free = idle()[key];
    if (!free.empty()) {
      const auto stream = free.back();
      free.pop_back();
      return stream;
    }
    const c10::cuda::CUDAGuard guard(key.first);
    cudaStream_t stream = nullptr;
    const auto status = cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, key.second);
    TORCH_CHECK(status == cudaSuccess,
                "cudaStreamCreateWithPriority: ", cudaGetErrorString(status));
    return stream;
  }

  Key key_;
  cudaStream_t stream_;
};

}  // namespace bsconv::cuda
