// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/data/dataset.hpp>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace data_dataset_test {
namespace {

using bsconv::data::ImageDataset;
using bsconv_test::error_of;
using testing::HasSubstr;

torch::Tensor images(int64_t count) { return torch::zeros({count, 3, 4, 4}, torch::kByte); }

TEST(DataDataset, HoldsWhatItIsGiven) {
  const ImageDataset set(images(3), torch::tensor({1, 0, 1}, torch::kLong), {"cat", "dog"});
  EXPECT_EQ(set.size(), 3);
  EXPECT_EQ(set.num_classes(), 2);
  EXPECT_EQ(set.class_names()[1], "dog");
  EXPECT_EQ(set.images().sizes(), torch::IntArrayRef({3, 3, 4, 4}));
}

TEST(DataDataset, SubsetTakesTheRecordsInTheGivenOrder) {
  auto pixels = images(3);
  pixels[2].fill_(9);
  const ImageDataset set(pixels, torch::tensor({1, 0, 1}, torch::kLong), {"cat", "dog"});
  const auto subset = set.subset(torch::tensor({2, 1}, torch::kLong));
  EXPECT_TRUE(subset.labels().equal(torch::tensor({1, 0}, torch::kLong)));
  EXPECT_EQ(subset.images()[0].min().item<int>(), 9);
  EXPECT_EQ(subset.images()[1].max().item<int>(), 0);
}

TEST(DataDataset, RefusesLabelsOutOfRange) {
  for (const int64_t bad : {-1, 2}) {
    const auto message = error_of([bad] {
      ImageDataset(images(3), torch::tensor({int64_t{1}, bad, int64_t{0}}), {"cat", "dog"});
    });
    EXPECT_THAT(message, HasSubstr("record 1 has label " + std::to_string(bad) +
                                   "; valid labels are 0 to 1"));
  }
}

TEST(DataDataset, RefusesTensorsThatDoNotFit) {
  const auto labels = torch::zeros({3}, torch::kLong);
  EXPECT_THAT(error_of([&] { ImageDataset(images(2), labels, {"a"}); }),
              HasSubstr("there are 2 images but 3 labels"));
  EXPECT_THAT(error_of([&] { ImageDataset(images(3).to(torch::kFloat), labels, {"a"}); }),
              HasSubstr("images must be a uint8 CPU tensor [N, C, H, W], got CPUFloatType"));
  EXPECT_THAT(error_of([&] { ImageDataset({}, labels, {"a"}); }), HasSubstr("an undefined tensor"));
  EXPECT_THAT(error_of([&] { ImageDataset(images(3), labels.to(torch::kInt), {"a"}); }),
              HasSubstr("labels must be an int64 CPU tensor [N], got CPUIntType [3]"));
  EXPECT_THAT(error_of([&] { ImageDataset(images(3), labels, {}); }),
              HasSubstr("at least one class name"));
}

}  // namespace
}  // namespace data_dataset_test
