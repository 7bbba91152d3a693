// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

namespace bsconv {

namespace detail {

/// Adds up what LibTorch's allocators report.
class AllocationObserver : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void* /*memory*/, int64_t bytes, std::size_t /*allocated*/,
                         std::size_t /*reserved*/, c10::Device /*device*/) override {
    const std::lock_guard lock(mutex_);
    alive_ += bytes;
    peak_ = std::max(peak_, alive_);
  }

  bool memoryProfilingEnabled() const override { return true; }

  /// The most bytes that were alive at once.
  int64_t peak() const {
    const std::lock_guard lock(mutex_);
    return peak_;
  }

 private:
  mutable std::mutex mutex_;
  int64_t alive_ = 0;
  int64_t peak_ = 0;
};

}  // namespace detail

/// The most bytes of tensors, on whatever device, that are alive at once while `function()` runs,
/// beyond those that were before: activations, gradients and what operators need meanwhile. What
/// LibTorch's allocators don't hand out (memory within libraries, scratch of a few hundred KiB
/// within this library's kernels) isn't counted.
///
/// LibTorch prints a warning if tensors end meanwhile that were there before. Takes the place of a
/// running profiler of LibTorch.
template <class Function>
int64_t peak_memory(Function&& function) {
  const auto observer = std::make_shared<detail::AllocationObserver>();
  {
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, observer);
    function();
  }
  return observer->peak();
}

}  // namespace bsconv
