// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gtest/gtest.h>
#include <bsconv/util/text.hpp>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace util_text_test {
namespace {

namespace text = bsconv::detail;
using Strings = std::vector<std::string>;

TEST(Text, LowerLeavesEverythingButCapitalLetters) {
  EXPECT_EQ(text::lower("ResNet_20 ÄZ[`{"), "resnet_20 Äz[`{");
  EXPECT_EQ(text::lower(""), "");
}

TEST(Text, MatchesShellPatterns) {
  EXPECT_TRUE(text::matches("*", ""));
  EXPECT_TRUE(text::matches("stage?.*", "stage1.unit2"));
  EXPECT_TRUE(text::matches("*.conv[12]", "a.b.conv2"));
  EXPECT_FALSE(text::matches("*.conv[12]", "a.b.conv3"));
  EXPECT_FALSE(text::matches("stage1", "stage1.unit1"));
  EXPECT_FALSE(text::matches("", "x"));
}

TEST(Text, JoinSeparates) {
  EXPECT_EQ(text::join(Strings{}, ", "), "");
  EXPECT_EQ(text::join(Strings{"a"}, ", "), "a");
  EXPECT_EQ(text::join(Strings{"a", "b", "c"}, ", "), "a, b, c");
  EXPECT_EQ(text::join(Strings{"", "b", "", ""}, ", "), ", b, , ");
}

TEST(Text, EditDistanceIsAMetric) {
  EXPECT_EQ(text::edit_distance("", ""), 0U);
  EXPECT_EQ(text::edit_distance("", "abc"), 3U);
  EXPECT_EQ(text::edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(text::edit_distance("resnet20", "resnet21"), 1U);
  const Strings words = {"", "a", "ab", "ba", "abc", "resnet", "wrn", "preresnet", "sern"};
  for (const auto& a : words) {
    for (const auto& b : words) {
      EXPECT_EQ(text::edit_distance(a, b), text::edit_distance(b, a));
      EXPECT_EQ(text::edit_distance(a, b) == 0, a == b);
      for (const auto& c : words) {
        EXPECT_LE(text::edit_distance(a, c), text::edit_distance(a, b) + text::edit_distance(b, c));
      }
    }
  }
}

TEST(Text, NearestIsTheFirstOfTheClosest) {
  EXPECT_EQ(text::nearest("x", {}), "");
  EXPECT_EQ(text::nearest("resnet21", {"wrn", "resnet18", "resnet20", "resnet22"}), "resnet20");
}

TEST(Text, NumbersAreReadable) {
  EXPECT_EQ(text::with_commas(0), "0");
  EXPECT_EQ(text::with_commas(999), "999");
  EXPECT_EQ(text::with_commas(1000), "1,000");
  EXPECT_EQ(text::with_commas(-1234567), "-1,234,567");
  EXPECT_EQ(text::with_commas(-123), "-123");
  EXPECT_EQ(text::with_commas(std::numeric_limits<int64_t>::min()), "-9,223,372,036,854,775,808");
  EXPECT_EQ(text::fixed(1.005, 1), "1.0");
  EXPECT_EQ(text::fixed(-2.5, 0), "-2");
  EXPECT_EQ(text::with_unit(0), "0");
  EXPECT_EQ(text::with_unit(999), "999");
  EXPECT_EQ(text::with_unit(1000), "1.00 k");
  EXPECT_EQ(text::with_unit(7856484), "7.86 M");
  EXPECT_EQ(text::with_unit(1.82e9), "1.82 G");
  EXPECT_EQ(text::with_unit(5e15), "5000.00 T");
  EXPECT_EQ(text::with_unit(-1500), "-1.50 k");
  EXPECT_EQ(text::with_unit(999999), "1.00 M");
}

}  // namespace
}  // namespace util_text_test
