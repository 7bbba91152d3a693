// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <ATen/CPUGeneratorImpl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/data/augment.hpp>

#include <set>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace data_augment_test {
namespace {

using bsconv::data::RandomCrop;
using bsconv::data::RandomHorizontalFlip;
using bsconv_test::error_of;
using testing::HasSubstr;

torch::Generator generator(uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

/// Every pixel of every image has another value, none is 0.
torch::Tensor numbered(int64_t count) {
  return (torch::arange(count * 3 * 6 * 5) + 1).view({count, 3, 6, 5});
}

TEST(DataAugment, CropIsAShiftedWindowOfThePaddedImage) {
  const auto images = numbered(200);
  auto random = generator(1);
  const auto cropped = RandomCrop(0, 2).apply(images, random);
  ASSERT_EQ(cropped.sizes(), images.sizes());
  std::set<std::pair<int64_t, int64_t>> seen;
  for (int64_t i = 0; i < images.size(0); ++i) {
    const auto padded = torch::constant_pad_nd(images[i], {2, 2, 2, 2});
    bool found = false;
    for (int64_t y = 0; y <= 4; ++y) {
      for (int64_t x = 0; x <= 4; ++x) {
        if (padded.slice(1, y, y + 6).slice(2, x, x + 5).equal(cropped[i])) {
          found = true;
          seen.emplace(y, x);
        }
      }
    }
    EXPECT_TRUE(found) << "image " << i;
  }
  EXPECT_EQ(seen.size(), 25U);
}

TEST(DataAugment, FlipMirrorsAboutHalfOfTheImages) {
  const auto images = numbered(400);
  auto random = generator(2);
  const auto flipped = RandomHorizontalFlip().apply(images, random);
  int64_t mirrored = 0;
  for (int64_t i = 0; i < images.size(0); ++i) {
    const bool changed = !flipped[i].equal(images[i]);
    EXPECT_TRUE(flipped[i].equal(changed ? images[i].flip({2}) : images[i]));
    mirrored += changed ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(mirrored), 200.0, 50.0);
  EXPECT_TRUE(RandomHorizontalFlip(0.0).apply(images, random).equal(images));
  EXPECT_TRUE(RandomHorizontalFlip(1.0).apply(images, random).equal(images.flip({3})));
}

TEST(DataAugment, EqualSeedsGiveEqualImages) {
  const auto images = numbered(50).to(torch::kByte);
  const auto augment = bsconv::data::crop_and_flip(4);
  auto first = generator(3);
  auto second = generator(3);
  auto other = generator(4);
  const auto result = augment(images, first);
  EXPECT_EQ(result.scalar_type(), torch::kByte);
  EXPECT_TRUE(result.equal(augment(images, second)));
  EXPECT_FALSE(result.equal(augment(images, other)));
}

TEST(DataAugment, WithoutFlipNoImageIsMirrored) {
  const auto images = numbered(100);
  auto random = generator(5);
  EXPECT_TRUE(bsconv::data::crop_and_flip(0, false)(images, random).equal(images));
}

TEST(DataAugment, RefusesWhatItCannotDo) {
  auto random = generator(1);
  torch::Generator none;
  const auto images = numbered(2);
  EXPECT_THAT(error_of([] { RandomCrop(0, -1); }),
              HasSubstr("padding must not be negative, got -1"));
  EXPECT_THAT(error_of([&] { bsconv::data::crop_and_flip(-3); }),
              HasSubstr("padding must not be negative, got -3"));
  EXPECT_THAT(error_of([&] { RandomCrop(0, 1).apply(images[0], random); }),
              HasSubstr("images must be a tensor [N, C, H, W], got [3, 6, 5]"));
  EXPECT_THAT(error_of([&] { RandomCrop(0, 1).apply({}, random); }),
              HasSubstr("an undefined tensor"));
  EXPECT_THAT(error_of([&] { RandomCrop(0, 1).apply(images, none); }),
              HasSubstr("a generator of the CPU, got an undefined one"));
  EXPECT_THAT(error_of([] { RandomHorizontalFlip(1.5); }),
              HasSubstr("probability must lie in 0..1, got 1.5"));
}

}  // namespace
}  // namespace data_augment_test
