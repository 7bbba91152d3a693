// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gtest/gtest.h>
#include <bsconv/data/image_geometry.hpp>
#include <bsconv/util/split_mix.hpp>

#include <cstdint>

// Tests are compiled several files at a time.
namespace util_split_mix_test {
namespace {

TEST(SplitMix, GivesThePublishedNumbers) {
  uint64_t state = 1234567;
  for (const uint64_t expected : {uint64_t{6457827717110365317U}, uint64_t{3203168211198807973U},
                                  uint64_t{9817491932198370423U}, uint64_t{4593380528125082431U}}) {
    state += bsconv::detail::split_mix_step;
    EXPECT_EQ(bsconv::detail::split_mix(state), expected);
  }
  static_assert(bsconv::detail::split_mix(bsconv::detail::split_mix_step) == 0xe220a8397b1dcdafU);
}

TEST(SplitMix, IsWhatAnImageDrawsFrom) {
  bsconv::data::ImageRandom random(1234567);
  EXPECT_EQ(random.uniform(), static_cast<double>(6457827717110365317U >> 11U) * 0x1.0p-53);
  EXPECT_EQ(random.uniform(), static_cast<double>(3203168211198807973U >> 11U) * 0x1.0p-53);
}

}  // namespace
}  // namespace util_split_mix_test
