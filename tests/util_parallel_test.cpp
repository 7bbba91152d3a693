// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <bsconv/util/parallel.hpp>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace util_parallel_test {
namespace {

class ParallelFor : public testing::Test {
 protected:
  void TearDown() override { torch::set_num_threads(before_); }
  int before_ = torch::get_num_threads();
};

TEST_F(ParallelFor, VisitsEveryIndexOnce) {
  for (const int threads : {1, 2, 3}) {
    torch::set_num_threads(threads);
    for (const int64_t count : {0, 1, 2, 3, 5, 64, 1000}) {
      std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
      std::atomic<int> calls{0};
      bsconv::detail::parallel_for(count, [&](int64_t begin, int64_t end) {
        ++calls;
        for (int64_t i = begin; i < end; ++i) {
          ++visits[static_cast<std::size_t>(i)];
        }
      });
      for (const auto& visit : visits) {
        EXPECT_EQ(visit, 1);
      }
      EXPECT_LE(calls, threads);
    }
  }
}

// Also in a translation unit that was compiled without OpenMP, as this one.
TEST_F(ParallelFor, RunsOnSeveralThreads) {
  torch::set_num_threads(2);
  std::mutex mutex;
  std::set<std::thread::id> seen;
  bsconv::detail::parallel_for(2, [&](int64_t, int64_t) {
    const std::lock_guard lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(seen.size(), 2U);
}

TEST_F(ParallelFor, HandsOnExceptions) {
  torch::set_num_threads(2);
  EXPECT_THROW(
      bsconv::detail::parallel_for(4, [](int64_t, int64_t) { throw std::runtime_error("inside"); }),
      std::runtime_error);
}

TEST_F(ParallelFor, RunsNestedCallsOnTheSameThread) {
  torch::set_num_threads(2);
  std::atomic<int> visits{0};
  bsconv::detail::parallel_for(2, [&](int64_t outer_begin, int64_t outer_end) {
    const auto outside = std::this_thread::get_id();
    for (int64_t i = outer_begin; i < outer_end; ++i) {
      bsconv::detail::parallel_for(3, [&](int64_t begin, int64_t end) {
        EXPECT_EQ(std::this_thread::get_id(), outside);
        visits += static_cast<int>(end - begin);
      });
    }
  });
  EXPECT_EQ(visits, 6);
}

}  // namespace
}  // namespace util_parallel_test
