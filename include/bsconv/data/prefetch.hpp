// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <deque>
#include <future>

#include <ATen/Parallel.h>

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

/// Yields the batches of one epoch in order, made ahead by up to `workers` threads.
///
/// The batches do not depend on the number of workers; 0 makes each when it is asked for. What a
/// worker throws is thrown from `next()`.
class Prefetcher {
 public:
  /// Starts with batch `first` of `epoch`. `source` must outlive this object.
  Prefetcher(const BatchSource& source, int64_t epoch, int64_t first, int64_t workers)
      : source_(source), epoch_(epoch), next_(first), workers_(workers) {
    TORCH_CHECK(workers >= 0, "workers must not be negative, got ", workers);
    TORCH_CHECK(first >= 0 && first <= source.num_batches(), "batch ", first,
                " is out of range; an epoch has ", source.num_batches(), " batches");
    fill();
  }

  /// Whether the epoch has another batch.
  bool has_next() const { return !ready_.empty() || next_ < source_.num_batches(); }

  /// The next batch. Throws if there is none.
  Batch next() {
    TORCH_CHECK(has_next(), "the epoch's ", source_.num_batches(), " batches are used up");
    if (workers_ == 0) {
      return source_.get(epoch_, next_++);
    }
    Batch batch = ready_.front().get();
    ready_.pop_front();
    fill();
    return batch;
  }

 private:
  void fill() {
    while (static_cast<int64_t>(ready_.size()) < workers_ && next_ < source_.num_batches()) {
      ready_.push_back(std::async(std::launch::async, [this, index = next_] {
        detail::use_one_core();
        return source_.get(epoch_, index);
      }));
      ++next_;
    }
  }

  const BatchSource& source_;
  int64_t epoch_;
  int64_t next_;
  int64_t workers_;
  std::deque<std::future<Batch>> ready_;
};

}  // namespace bsconv::data
