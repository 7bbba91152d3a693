// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <bsconv/profile.hpp>

#include <stdexcept>

namespace profile_peak_memory_test {
namespace {

constexpr int64_t megabyte = 1 << 20;

torch::Tensor megabytes(int64_t count) { return torch::empty({count * megabyte}, torch::kByte); }

TEST(PeakMemory, IsWhatIsAliveAtOnce) {
  const auto before = megabytes(7);
  EXPECT_EQ(bsconv::peak_memory([] {}), 0);
  EXPECT_EQ(bsconv::peak_memory([] {
              megabytes(3);
              megabytes(2);
            }),
            3 * megabyte);
  torch::Tensor kept;
  EXPECT_EQ(bsconv::peak_memory([&] {
              kept = megabytes(3);
              megabytes(2);
            }),
            5 * megabyte);
}

TEST(PeakMemory, KnowsWhatABackwardPassKeeps) {
  const auto x = torch::ones({megabyte / 4}).requires_grad_(true);
  // exp keeps its results, each a megabyte; a sum's gradient is as large.
  const auto peak = bsconv::peak_memory([&] { x.exp().exp().exp().sum().backward(); });
  EXPECT_GE(peak, 4 * megabyte);
  EXPECT_LE(peak, 6 * megabyte);
}

TEST(PeakMemory, EndsWithTheFunction) {
  EXPECT_THROW(bsconv::peak_memory([] { throw std::runtime_error("no"); }), std::runtime_error);
  EXPECT_FALSE(c10::memoryProfilingEnabled());
}

}  // namespace
}  // namespace profile_peak_memory_test
