// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gtest/gtest.h>
#include <bsconv/data/digits.hpp>

#include <cmath>
#include <tuple>

// Tests are compiled several files at a time.
namespace data_digits_test {
namespace {

using bsconv::data::digits;
using bsconv::data::Split;

TEST(DataDigits, AreTheReleasedValues) {
  const auto [images, labels] = bsconv::data::detail::decode_digits();
  EXPECT_EQ(images.sizes(), torch::IntArrayRef({1797, 1, 8, 8}));
  EXPECT_EQ(images.max().item<int>(), 16);
  // sklearn.datasets.load_digits(): data.sum(), (data * arange(64)).sum(), bincount(target).
  EXPECT_EQ(images.sum().item<int64_t>(), 561718);
  const auto weighted = images.view({-1, 64}).to(torch::kLong) * torch::arange(64);
  EXPECT_EQ(weighted.sum().item<int64_t>(), 17660653);
  EXPECT_TRUE(labels.bincount().equal(
      torch::tensor({178, 182, 177, 183, 181, 182, 181, 179, 174, 180}, torch::kLong)));
}

TEST(DataDigits, AreSplitWithoutOverlapIntoRgbImages) {
  const auto& train = digits(Split::train);
  const auto& test = digits(Split::test);
  EXPECT_EQ(train.images().sizes(), torch::IntArrayRef({1438, 3, 32, 32}));
  EXPECT_EQ(test.images().sizes(), torch::IntArrayRef({359, 3, 32, 32}));
  EXPECT_EQ(train.num_classes(), 10);
  EXPECT_EQ(test.class_names().back(), "9");
  const auto labels = std::get<1>(bsconv::data::detail::decode_digits());
  EXPECT_EQ(test.labels()[0].item<int64_t>(), labels[4].item<int64_t>());
  EXPECT_EQ(train.labels()[4].item<int64_t>(), labels[5].item<int64_t>());
  EXPECT_EQ(test.labels().bincount().min().item<int64_t>(), 21);
}

TEST(DataDigits, AreScaledBilinearlyToFullRange) {
  const auto& train = digits(Split::train);
  EXPECT_TRUE(train.images().select(1, 0).equal(train.images().select(1, 2)));
  const auto values = std::get<0>(bsconv::data::detail::decode_digits())[0][0];
  const auto image = train.images()[0][0];
  // The corner lies outside the centers of the original's pixels, so it is the corner's value.
  EXPECT_EQ(image[0][0].item<int>(), std::lround(values[0][0].item<int>() * 255.0 / 16));
  // Output pixel 5 lies at (5 + 0.5) / 4 - 0.5 = 0.875.
  const auto at = [&](int64_t y, int64_t x) { return values[y][x].item<double>(); };
  const double top = 0.125 * at(0, 2) + 0.875 * at(0, 3);
  const double bottom = 0.125 * at(1, 2) + 0.875 * at(1, 3);
  EXPECT_EQ(image[5][13].item<int>(), std::lround((0.125 * top + 0.875 * bottom) * 255.0 / 16));
}

}  // namespace
}  // namespace data_digits_test
