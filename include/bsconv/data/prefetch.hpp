// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <c10/core/Stream.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <bsconv/data/batch_source.hpp>

namespace bsconv::data {

namespace detail {

/// Makes LibTorch's operators in the calling thread, and in no other, run on one core.
inline void use_one_core() {
  // at::set_num_threads would also set the default of every thread made later. The first query
  // initializes the calling thread, which would otherwise undo the setting.
  (void)at::get_num_threads();
  using SetThreads = void (*)(int);
  static const auto set_threads =
      reinterpret_cast<SetThreads>(::dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (set_threads != nullptr) {
    set_threads(1);
  }
}

}  // namespace detail

/// Yields the batches of one epoch in order, made ahead by `workers` threads.
///
/// At most two batches a worker are finished or being made at any time. The batches do not depend
/// on the number of workers; 0 makes each when it is asked for. What a worker throws is thrown from
/// `next()`, in the batch's turn.
class Prefetcher {
 public:
  /// Starts with batch `first` of `epoch`. `source` must outlive this object.
  Prefetcher(const BatchSource& source, int64_t epoch, int64_t first, int64_t workers)
      : source_(source),
        epoch_(epoch),
        end_(source.num_batches()),
        wanted_(first),
        next_(first),
        ahead_(2 * std::min(workers, end_ - first)) {
    TORCH_CHECK(workers >= 0, "workers must not be negative, got ", workers);
    TORCH_CHECK(first >= 0 && first <= end_, "batch ", first, " is out of range; an epoch has ",
                end_, " batches");
    if (const auto device = source.device(); !device.is_cpu()) {
      stream_ = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
    }
    try {
      // Each has two batches ahead.
      for (int64_t i = 0; i < ahead_ / 2; ++i) {
        threads_.emplace_back([this] { work(); });
      }
    } catch (const std::system_error& error) {
      const auto started = threads_.size();
      stop();
      TORCH_CHECK(false, "only ", started, " of ", workers,
                  " workers could be started: ", error.what());
    }
  }

  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// Waits for the batches that are being made and drops what was not asked for.
  ~Prefetcher() { stop(); }

  /// Whether the epoch has another batch.
  bool has_next() const { return wanted_ < end_; }

  /// The next batch. Throws if there is none.
  Batch next() {
    TORCH_CHECK(has_next(), "the epoch's ", end_, " batches are used up");
    if (threads_.empty()) {
      return source_.get(epoch_, wanted_++);
    }
    Made made;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, [this] { return made_.count(wanted_) > 0; });
      made = std::move(made_.extract(wanted_).mapped());
      ++wanted_;
    }
    room_.notify_one();
    if (made.error) {
      std::rethrow_exception(made.error);
    }
    return std::move(made.batch);
  }

 private:
  void stop() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      next_ = end_;
    }
    room_.notify_all();
    for (auto& thread : threads_) {
      thread.join();
    }
    threads_.clear();
  }

  struct Made {
    Batch batch;
    std::exception_ptr error;
  };

  void work() {
    detail::use_one_core();
    // The caller's stream, so that it finds the batches finished.
    const c10::OptionalStreamGuard on_stream(stream_);
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      room_.wait(lock, [this] { return next_ >= end_ || next_ < wanted_ + ahead_; });
      if (next_ >= end_) {
        return;
      }
      const int64_t index = next_++;
      lock.unlock();
      Made made;
      try {
        made.batch = source_.get(epoch_, index);
      } catch (...) {
        made.error = std::current_exception();
      }
      lock.lock();
      made_.emplace(index, std::move(made));
      done_.notify_one();
    }
  }

  const BatchSource& source_;
  const int64_t epoch_;
  const int64_t end_;
  /// The batch that `next()` returns, and the first that no worker has begun.
  int64_t wanted_;
  int64_t next_;
  const int64_t ahead_;
  /// Of a device other than the CPU.
  std::optional<c10::Stream> stream_;
  std::mutex mutex_;
  std::condition_variable room_;
  std::condition_variable done_;
  std::map<int64_t, Made> made_;
  std::vector<std::thread> threads_;
};

}  // namespace bsconv::data
