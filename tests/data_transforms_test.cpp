// SPDX-License-Identifier: BSD-3-Clause-Clear
// What the random transforms draw. That each does to an image what torchvision does is
// data_torchvision_test.cpp's.
#include <ATen/CPUGeneratorImpl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <bsconv/data.hpp>

#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/images.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace data_transforms_test {
namespace {

using bsconv::data::Augmentation;
using bsconv::data::Batch;
using bsconv::data::ColorJitter;
using bsconv::data::ColorJitterOptions;
using bsconv::data::Cutout;
using bsconv::data::ImageSize;
using bsconv::data::RandAugment;
using bsconv::data::RandomCrop;
using bsconv::data::RandomErasing;
using bsconv::data::RandomHorizontalFlip;
using bsconv::data::RandomResizedCrop;
using bsconv::data::ResizeRule;
using bsconv::data::TrivialAugmentWide;
using bsconv_test::error_of;
using bsconv_test::soft_image;
using testing::HasSubstr;

torch::Generator seeded(uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

torch::Tensor soft_batch(int64_t count, int64_t height = 24, int64_t width = 20) {
  std::vector<torch::Tensor> images;
  for (int64_t i = 0; i < count; ++i) {
    images.push_back(soft_image(height, width, i));
  }
  return torch::stack(images);
}

std::string text_of(const Augmentation& augmentation) {
  std::ostringstream stream;
  stream << augmentation;
  return stream.str();
}

TEST(DataTransforms, APipelineRunsInOrderAndSaysWhatItDoes) {
  const Augmentation pipeline{
      RandomCrop(16, 2),
      RandomHorizontalFlip(),
      bsconv::data::Resize(ResizeRule::shorter_side(12)),
      bsconv::data::CenterCrop({10, 11}),
      RandomResizedCrop(8),
      ColorJitter(ColorJitterOptions().brightness(0.4).hue(0.1)),
      TrivialAugmentWide(),
      RandAugment(1, 5),
      RandomErasing(0.25),
      Cutout(3),
      {"Invert()", [](const torch::Tensor& images, torch::Generator&) { return 255 - images; }},
      [](const torch::Tensor& images, torch::Generator&) { return images.clone(); },
  };
  EXPECT_EQ(text_of(pipeline),
            "RandomCrop(size=16, padding=2), RandomHorizontalFlip(p=0.5), Resize(shorter side 12), "
            "CenterCrop(10x11), RandomResizedCrop(size=8, scale=0.08..1, ratio=0.75..1.33333), "
            "ColorJitter(brightness=0.4, contrast=0, saturation=0, hue=0.1), TrivialAugmentWide(), "
            "RandAugment(operations=1, magnitude=5), RandomErasing(p=0.25, scale=0.02..0.33, "
            "ratio=0.3..3.3), Cutout(side=3), Invert(), Function()");
  EXPECT_EQ(text_of(nullptr), "none");
  EXPECT_EQ(text_of(bsconv::data::crop_and_flip(4)),
            "RandomCrop(padding=4), RandomHorizontalFlip(p=0.5)");
  EXPECT_FALSE(Augmentation());
  const auto images = soft_batch(6);
  const auto before = images.clone();
  auto random = seeded(1);
  auto again = seeded(1);
  auto other = seeded(2);
  const auto result = pipeline(images, random);
  EXPECT_EQ(result.sizes(), torch::IntArrayRef({6, 3, 8, 8}));
  EXPECT_EQ(result.scalar_type(), torch::kByte);
  EXPECT_TRUE(result.equal(pipeline(images, again)));
  EXPECT_FALSE(result.equal(pipeline(images, other)));
  EXPECT_TRUE(images.equal(before));
}

TEST(DataTransforms, EveryTransformDependsOnTheSeedAloneAndLeavesItsInput) {
  const auto images = soft_batch(8);
  const auto before = images.clone();
  const std::vector<Augmentation> all = {
      RandomCrop(ImageSize(20, 18), 1),
      RandomHorizontalFlip(),
      RandomResizedCrop({9, 10}),
      ColorJitter(ColorJitterOptions().brightness(0.5).contrast(0.5).saturation(0.5).hue(0.5)),
      TrivialAugmentWide(),
      RandAugment(),
      RandomErasing(1.0),
      Cutout(6)};
  for (const auto& transform : all) {
    auto random = seeded(1);
    auto again = seeded(1);
    auto other = seeded(2);
    const auto result = transform(images, random);
    EXPECT_TRUE(result.equal(transform(images, again))) << transform;
    EXPECT_FALSE(result.equal(transform(images, other))) << transform;
    EXPECT_TRUE(images.equal(before)) << transform;
    if (torch::cuda::is_available()) {
      auto on_gpu = seeded(1);
      const auto moved = transform(images.to(torch::kCUDA), on_gpu).cpu().to(torch::kInt);
      const auto off = (moved - result.to(torch::kInt)).abs().gt(1).to(torch::kDouble).mean();
      EXPECT_LE(off.item<double>(), 0.005) << transform;
    }
  }
}

TEST(DataTransforms, ACropOfAnotherSizeReachesEveryPlace) {
  const auto images = (torch::arange(5 * 6) + 1).view({1, 1, 5, 6}).expand({300, 1, 5, 6});
  auto random = seeded(3);
  const auto crops = RandomCrop(ImageSize(4, 3)).apply(images, random);
  ASSERT_EQ(crops.sizes(), torch::IntArrayRef({300, 1, 4, 3}));
  std::set<int64_t> corners;
  for (int64_t i = 0; i < 300; ++i) {
    const auto corner = crops[i][0][0][0].item<int64_t>() - 1;
    corners.insert(corner);
    EXPECT_TRUE(crops[i].equal(
        images[0].slice(1, corner / 6, corner / 6 + 4).slice(2, corner % 6, corner % 6 + 3)));
  }
  EXPECT_EQ(corners.size(), 2U * 4U);
  EXPECT_THAT(error_of([&] { RandomCrop(8, 1).apply(images, random); }),
              HasSubstr("cannot cut 8 x 8 pixels out of images of 5 x 6 with a padding of 1"));
}

TEST(DataTransforms, ErasingKeepsItsProbabilityAndItsBounds) {
  const auto images = torch::full({600, 3, 20, 30}, 9, torch::kByte);
  auto random = seeded(4);
  const auto erased = RandomErasing(0.4, {0.1, 0.3}).apply(images, random).eq(0);
  EXPECT_TRUE(erased.select(1, 0).equal(erased.select(1, 2)));
  const auto share = erased.select(1, 0).to(torch::kDouble).mean({1, 2});
  const auto hit = share.gt(0);
  EXPECT_NEAR(hit.to(torch::kDouble).mean().item<double>(), 0.4, 0.06);
  const auto areas = share.masked_select(hit);
  EXPECT_GE(areas.min().item<double>(), 0.08);
  EXPECT_LE(areas.max().item<double>(), 0.33);
  // What is erased is a rectangle.
  const auto plane = erased.select(1, 0);
  const auto rectangle = plane.any(2, true).logical_and(plane.any(1, true));
  EXPECT_TRUE(rectangle.equal(plane));
  EXPECT_TRUE(RandomErasing(0.0).apply(images, random).equal(images));
}

TEST(DataTransforms, CutoutIsASquareThatMayLeaveTheImage) {
  const auto images = torch::full({300, 1, 12, 12}, 9, torch::kByte);
  auto random = seeded(5);
  const auto counts = Cutout(5).apply(images, random).eq(0).sum({1, 2, 3});
  EXPECT_EQ(counts.max().item<int>(), 25);
  EXPECT_EQ(counts.min().item<int>(), 9);
}

TEST(DataTransforms, JitterKeepsItsBounds) {
  const auto images = torch::full({500, 3, 2, 2}, 100, torch::kByte);
  auto random = seeded(6);
  const auto bright =
      ColorJitter(ColorJitterOptions().brightness(0.4)).apply(images, random).select(1, 0);
  const auto values = bright.select(1, 0).select(1, 0).to(torch::kDouble);
  EXPECT_NEAR(values.min().item<double>(), 60, 2);
  EXPECT_NEAR(values.max().item<double>(), 139, 2);
  EXPECT_NEAR(values.mean().item<double>(), 99.5, 3);
  EXPECT_TRUE(ColorJitter(ColorJitterOptions()).apply(images, random).equal(images));
}

TEST(DataTransforms, TrivialAugmentUsesEveryOperation) {
  const auto images = soft_image(24, 24).unsqueeze(0).expand({700, 3, 24, 24});
  auto random = seeded(7);
  const auto result = TrivialAugmentWide().apply(images, random);
  const auto same = (result == images).all(3).all(2).all(1);
  // The identity, and what is weakest or changes nothing here.
  EXPECT_GT(same.sum().item<int64_t>(), 700 / 14 / 2);
  EXPECT_LT(same.sum().item<int64_t>(), 700 / 3);
}

TEST(DataTransforms, RefuseWhatTheyCannotDo) {
  auto random = seeded(1);
  const auto images = soft_batch(2);
  const auto one = torch::ones({1});
  EXPECT_THAT(error_of([] { RandomCrop(4, -1); }), HasSubstr("must not be negative, got -1"));
  EXPECT_THAT(error_of([] { RandomCrop(ImageSize(4, -1)); }),
              HasSubstr("must be positive, got 4 x -1"));
  EXPECT_THAT(error_of([] { ColorJitter(ColorJitterOptions().contrast(-0.1)); }),
              HasSubstr("a range must not be negative, got -0.1"));
  EXPECT_THAT(error_of([] { ColorJitter(ColorJitterOptions().hue(0.6)); }),
              HasSubstr("the hue must lie in 0..0.5, got 0.6"));
  EXPECT_THAT(error_of([] {
                RandomErasing(0.5, {0, 0.3});
              }),
              HasSubstr("RandomErasing: the scale must lie in 0..1"));
  EXPECT_THAT(error_of([] { Cutout(0); }), HasSubstr("the side must be positive, got 0"));
  EXPECT_THAT(error_of([] { RandAugment(-1); }), HasSubstr("must not be negative, got -1"));
  EXPECT_THAT(error_of([] { RandAugment(2, 31); }), HasSubstr("must lie in 0..30, got 31"));
  EXPECT_THAT(error_of([] { Augmentation("nothing", nullptr); }),
              HasSubstr("the transform 'nothing' has no function"));
  EXPECT_THAT(error_of([&] { bsconv::data::adjust_hue(images, one); }),
              HasSubstr("one factor for each of the 2 images"));
  EXPECT_THAT(error_of([&] { bsconv::data::adjust_contrast(images.to(torch::kFloat), one); }),
              HasSubstr("uint8 images [N, 3, H, W], got Float [2, 3, 24, 20]"));
  EXPECT_THAT(error_of([&] { bsconv::data::equalize(images.to(torch::kInt)); }),
              HasSubstr("images must be uint8, got Int"));
  EXPECT_THAT(error_of([&] {
                bsconv::data::affine(images, torch::ones({2, 3}));
              }),
              HasSubstr("matrices must be [2, 2, 3], got [2, 3]"));
  EXPECT_THAT(error_of([&] {
                bsconv::data::erase(images, torch::ones({2, 3}));
              }),
              HasSubstr("boxes must be [2, 4], got [2, 3]"));
  EXPECT_THAT(error_of([&] { bsconv::data::resized_crop(images, {}, 4); }),
              HasSubstr("one region for each of the 2 images, got 0"));
}

Batch mixable() { return {torch::rand({4, 3, 8, 10}), torch::tensor({2, 0, 1, 2}, torch::kLong)}; }

TEST(DataMix, SharesOfImagesAndTargetsAgree) {
  const auto batch = mixable();
  const auto mixed = bsconv::data::blend_images(batch, 3, 0.7);
  EXPECT_TRUE(mixed.images[0].allclose(batch.images[0] * 0.7 + batch.images[3] * 0.3));
  EXPECT_TRUE(mixed.targets[1].allclose(torch::tensor({0.7, 0.0, 0.3}, torch::kFloat)));
  EXPECT_TRUE(mixed.targets[3].allclose(torch::tensor({0.0, 0.3, 0.7}, torch::kFloat)));
  EXPECT_TRUE(mixed.labels.equal(batch.labels));
  EXPECT_TRUE(mixed.loss_target().equal(mixed.targets));
  EXPECT_TRUE(batch.loss_target().equal(batch.labels));

  const auto pasted = bsconv::data::paste_images(batch, 3, 1, 2, 5, 7);
  EXPECT_TRUE(pasted.targets[1].allclose(torch::tensor({0.75, 0.0, 0.25}, torch::kFloat)));
  const auto box = pasted.images[1].slice(1, 1, 5).slice(2, 2, 7);
  EXPECT_TRUE(box.equal(batch.images[0].slice(1, 1, 5).slice(2, 2, 7)));
  EXPECT_EQ((pasted.images[1] != batch.images[1]).sum().item<int64_t>(), 3 * 4 * 5);
  // A mixed batch can be mixed again.
  const auto twice = bsconv::data::blend_images(pasted, 3, 0.5);
  EXPECT_TRUE(twice.targets.sum(1).allclose(torch::ones({4})));
}

TEST(DataMix, DrawsAsItsNameSays) {
  auto random = seeded(8);
  const auto batch = mixable();
  // The middle of Beta(a, a) is 0.5. Boxes that leave the image are cut: their mean area is 0.32,
  // less where whole pixels are few.
  const struct {
    bsconv::data::Mixing mixing;
    double low;
    double high;
  } cases[] = {{bsconv::data::mixup(0.4), 0.42, 0.58}, {bsconv::data::cutmix(1.0), 0.68, 0.85}};
  for (const auto& [mixing, low, high] : cases) {
    double mean = 0;
    for (int i = 0; i < 300; ++i) {
      const auto mixed = mixing(batch, 3, random);
      EXPECT_TRUE(mixed.targets.sum(1).allclose(torch::ones({4})));
      // Image 0 and the one before it, image 3, are of one class.
      EXPECT_NEAR(mixed.targets[0][2].item<double>(), 1, 1e-6);
      mean += mixed.targets[1][0].item<double>() / 300;
    }
    EXPECT_GT(mean, low) << mixing;
    EXPECT_LT(mean, high) << mixing;
  }
  const auto choice =
      bsconv::data::choose_mixing({bsconv::data::mixup(0.2), bsconv::data::cutmix()});
  EXPECT_EQ(choice.name(), "Choice(Mixup(alpha=0.2), CutMix(alpha=1))");
  auto same = seeded(9);
  auto again = seeded(9);
  EXPECT_TRUE(choice(batch, 3, same).images.equal(choice(batch, 3, again).images));
  EXPECT_THAT(error_of([] { bsconv::data::mixup(0); }), HasSubstr("mixup: alpha must be positive"));
  EXPECT_THAT(error_of([] { bsconv::data::choose_mixing({}); }), HasSubstr("something to choose"));
  EXPECT_THAT(error_of([&] { bsconv::data::blend_images({}, 3, 0.5); }),
              HasSubstr("mixing needs images [N, C, H, W] and labels [N]"));
}

}  // namespace
}  // namespace data_transforms_test
