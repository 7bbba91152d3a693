// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/data/file_loader.hpp>
#include <bsconv/data/image_folder.hpp>
#include <bsconv/data/prefetch.hpp>

#include <filesystem>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/images.hpp"
#include "support/warnings.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace data_file_loader_test {
namespace {

using bsconv::data::BrokenImages;
using bsconv::data::FileLoader;
using bsconv::data::ImageGeometry;
using bsconv::data::ImagePlan;
using bsconv::data::ImageRandom;
using bsconv::data::ImageSize;
using bsconv::data::load_image_folder;
using bsconv::data::LoaderOptions;
using bsconv::data::Prefetcher;
using bsconv::data::ResizeRule;
using bsconv::data::Split;
using bsconv_test::encode_jpeg;
using bsconv_test::encode_png;
using bsconv_test::error_of;
using bsconv_test::soft_image;
using bsconv_test::TemporaryDirectory;
using bsconv_test::Warnings;
using bsconv_test::write_bytes;
using testing::ElementsAre;
using testing::HasSubstr;

/// Twelve training images, JPEG and PNG of several sizes in two classes, and two test images.
void write_folder(const std::filesystem::path& root) {
  for (int64_t i = 0; i < 12; ++i) {
    const auto image = soft_image(40 + i, 60 - i, i);
    const auto folder = root / "train" / (i % 2 == 0 ? "cat" : "dog");
    if (i % 3 == 0) {
      write_bytes(folder / (std::to_string(i) + ".PNG"), encode_png(image));
    } else {
      write_bytes(folder / (std::to_string(i) + (i % 3 == 1 ? ".jpg" : ".JPEG")),
                  encode_jpeg(image));
    }
  }
  write_bytes(root / "val" / "cat" / "a.jpg", encode_jpeg(soft_image(50, 50)));
  write_bytes(root / "val" / "dog" / "b.jpg", encode_jpeg(soft_image(50, 50, 1)));
}

TEST(DataFileLoader, BatchesAreThoseOfTheFiles) {
  const TemporaryDirectory directory;
  write_folder(directory.path());
  const auto files = load_image_folder(directory.path(), Split::train);
  const FileLoader loader(files, ImageGeometry::resize({24, 32}), LoaderOptions().batch_size(5));
  EXPECT_EQ(loader.num_batches(), 3);
  EXPECT_EQ(loader.num_examples(), 12);
  const auto batch = loader.get(0, 1);
  EXPECT_EQ(batch.images.sizes(), torch::IntArrayRef({5, 3, 24, 32}));
  EXPECT_EQ(batch.labels[0].item<int>(), 0);
  EXPECT_EQ(batch.labels[1].item<int>(), 1);
  for (int64_t i = 0; i < 5; ++i) {
    const auto image = bsconv::data::decode_image(files.read(5 + i), "x").unsqueeze(0);
    const auto expected =
        bsconv::data::resize_image(image, 24, 32).squeeze(0).to(torch::kFloat).div_(255);
    EXPECT_TRUE(batch.images[i].equal(expected)) << i;
  }
  EXPECT_EQ(loader.get(0, 2).images.size(0), 2);
  const auto memory = bsconv::data::load_into_memory(files, ImageGeometry::resize({24, 32}));
  const bsconv::data::DataLoader in_memory(memory, LoaderOptions().batch_size(5));
  EXPECT_TRUE(in_memory.get(0, 1).images.equal(batch.images));
  EXPECT_TRUE(in_memory.get(0, 1).labels.equal(batch.labels));
}

LoaderOptions training_options() { return LoaderOptions().batch_size(4).shuffle(true).seed(3); }

ImageGeometry training_geometry() {
  return ImageGeometry::random_resized_crop(20).horizontal_flip(0.5);
}

TEST(DataFileLoader, TheNumberOfWorkersChangesNothing) {
  const TemporaryDirectory directory;
  write_folder(directory.path());
  const FileLoader loader(load_image_folder(directory.path(), Split::train), training_geometry(),
                          training_options().augmentation(bsconv::data::RandomHorizontalFlip()));
  for (const int64_t workers : {0, 1, 2, 5}) {
    for (const int64_t epoch : {0, 7}) {
      Prefetcher batches(loader, epoch, 1, workers);
      for (int64_t index = 1; index < 3; ++index) {
        const auto batch = batches.next();
        EXPECT_TRUE(batch.images.equal(loader.get(epoch, index).images));
        EXPECT_TRUE(batch.labels.equal(loader.get(epoch, index).labels));
      }
      EXPECT_FALSE(batches.has_next());
    }
  }
  EXPECT_FALSE(loader.get(0, 0).images.equal(loader.get(1, 0).images));
}

TEST(DataFileLoader, MemoryFormatChangesTheLayoutOnly) {
  const TemporaryDirectory directory;
  write_folder(directory.path());
  const auto files = load_image_folder(directory.path(), Split::train);
  const FileLoader plain(files, training_geometry(), training_options());
  const FileLoader last(files, training_geometry(),
                        training_options().memory_format(torch::MemoryFormat::ChannelsLast));
  const auto images = last.get(2, 1).images;
  EXPECT_TRUE(images.is_contiguous(torch::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(plain.get(2, 1).images.is_contiguous());
  EXPECT_TRUE(images.equal(plain.get(2, 1).images));
}

TEST(DataFileLoader, ABrokenImageStopsTheRunOrIsLeftOutAndCounted) {
  const TemporaryDirectory directory;
  write_folder(directory.path());
  const auto broken = directory / "train" / "cat" / "10.jpg";
  const auto bytes = encode_jpeg(soft_image(50, 50));
  write_bytes(broken, {bytes.begin(), bytes.begin() + 300});
  const auto files = load_image_folder(directory.path(), Split::train);
  const auto geometry = ImageGeometry::resize(16);
  const auto options = LoaderOptions().batch_size(4);
  const FileLoader stops(files, geometry, options);
  EXPECT_THAT(error_of([&] { stops.get(0, 0); }),
              HasSubstr("image '" + broken.native() + "' is not a readable JPEG: "));
  EXPECT_NO_THROW(stops.get(0, 1));

  const FileLoader skips(files, geometry, options, BrokenImages::skip);
  EXPECT_EQ(skips.num_examples(), 12);
  Warnings warnings;
  for (int repeat = 0; repeat < 2; ++repeat) {
    const auto batch = skips.get(0, 0);
    EXPECT_EQ(batch.images.size(0), 3);
    EXPECT_EQ(batch.labels.size(0), 3);
    // The image behind it moves up.
    const auto expected = FileLoader(files, geometry, LoaderOptions().batch_size(1)).get(0, 2);
    EXPECT_TRUE(batch.images[1].equal(expected.images[0]));
  }
  EXPECT_THAT(skips.broken_images(), ElementsAre("image '" + broken.native() + "'"));
  EXPECT_EQ(skips.num_examples(), 11);
  EXPECT_EQ(skips.num_batches(), 3);
  ASSERT_EQ(warnings.messages.size(), 1U);
  EXPECT_THAT(warnings.messages[0], HasSubstr("left out: image '" + broken.native()));

  const FileLoader alone(files, geometry, LoaderOptions().batch_size(1), BrokenImages::skip);
  const auto empty = alone.get(0, 1);
  EXPECT_EQ(empty.images.sizes(), (std::vector<int64_t>{0, 3, 16, 16}));
  EXPECT_EQ(empty.labels.sizes(), (std::vector<int64_t>{0}));

  // In a shuffled epoch the next image takes the broken one's place, whoever asks.
  const FileLoader shuffled(files, geometry, LoaderOptions().batch_size(1).shuffle(true).seed(2),
                            BrokenImages::skip);
  int64_t at = 0;
  while (shuffled.broken_images().empty()) {
    EXPECT_EQ(shuffled.get(0, at++).labels.size(0), 1);
  }
  EXPECT_TRUE(shuffled.get(0, at - 1).images.equal(shuffled.get(0, at % 12).images));
  std::filesystem::remove(broken);
  EXPECT_THAT(error_of([&] { stops.get(0, 0); }), HasSubstr(broken.native() + "' does not exist"));
}

TEST(DataFileLoader, GeometryErrorsNameTheImage) {
  const TemporaryDirectory directory;
  write_folder(directory.path());
  const FileLoader loader(load_image_folder(directory.path(), Split::train),
                          ImageGeometry::random_crop(20, 24), LoaderOptions().batch_size(1));
  const auto message = error_of([&] { loader.get(0, 0); });
  EXPECT_THAT(message, HasSubstr("cannot cut 24 x 24 pixels out of 20 x 20"));
  EXPECT_THAT(message, HasSubstr("cat/0.PNG"));
}

TEST(DataImageGeometry, PlansAreThoseOfTorchvision) {
  ImageRandom random(1);
  auto plan =
      ImageGeometry::center_crop(ResizeRule::shorter_side(256), 224).plan({300, 401}, random);
  EXPECT_EQ(plan.region, ImageSize(300, 401));
  EXPECT_EQ(plan.resized, ImageSize(256, 342));
  EXPECT_EQ(plan.top, 16);
  EXPECT_EQ(plan.left, 59);
  plan = ImageGeometry::center_crop(ResizeRule::shorter_side(33), 8).plan({70, 35}, random);
  EXPECT_EQ(plan.resized, ImageSize(66, 33));
  // round() of Python goes to the even number: 12.5 becomes 12.
  EXPECT_EQ(plan.left, 12);
  plan = ImageGeometry::center_crop(20, 25).plan({70, 35}, random);
  EXPECT_EQ(plan.top, -2);
  std::set<std::pair<int64_t, int64_t>> places;
  for (int i = 0; i < 300; ++i) {
    plan = ImageGeometry::random_crop({12, 13}, 10).horizontal_flip(0.5).plan({90, 80}, random);
    EXPECT_EQ(plan.resized, ImageSize(12, 13));
    places.emplace(plan.top, plan.left);
  }
  EXPECT_EQ(places.size(), 12U);
}

TEST(DataImageGeometry, RefusesRegionsOutsideTheImage) {
  ImageRandom random(1);
  const auto error = [&](int64_t top, int64_t left, ImageSize region, ImageSize resized) {
    const ImageGeometry geometry("Mine", 8, [=](ImageSize, ImageRandom&) {
      ImagePlan plan;
      plan.region_top = top;
      plan.region_left = left;
      plan.region = region;
      plan.resized = resized;
      return plan;
    });
    return error_of([&] { geometry.plan({30, 40}, random); });
  };
  EXPECT_EQ(error(10, 20, 20, 8), "no error");
  EXPECT_THAT(error(0, -5, 20, 8), HasSubstr("the geometry 'Mine' wants 20 pixels from row 0 and "
                                             "column -5 of an image of 30x40"));
  EXPECT_THAT(error(-1, 0, 20, 8), HasSubstr("from row -1"));
  EXPECT_THAT(error(11, 0, 20, 8), HasSubstr("from row 11"));
  EXPECT_THAT(error(0, 21, 20, 8), HasSubstr("column 21"));
  EXPECT_THAT(error(0, 0, {20, 0}, 8), HasSubstr("wants 20x0 pixels"));
  EXPECT_THAT(error(0, 0, 20, {0, 8}),
              HasSubstr("what a region is scaled to must be positive, got 0 x 8"));
}

TEST(DataImageGeometry, ResizedCropsLieInTheImageAndKeepTheirBounds) {
  ImageRandom random(2);
  const bsconv::data::ResizedCropRange range{{0.2, 0.5}, {0.8, 1.5}};
  const auto geometry = ImageGeometry::random_resized_crop(16, range);
  double smallest = 1;
  double largest = 0;
  for (int i = 0; i < 2000; ++i) {
    const auto plan = geometry.plan({120, 100}, random);
    EXPECT_GE(plan.region_top, 0);
    EXPECT_GE(plan.region_left, 0);
    EXPECT_LE(plan.region_top + plan.region.height, 120);
    EXPECT_LE(plan.region_left + plan.region.width, 100);
    const auto height = static_cast<double>(plan.region.height);
    const auto width = static_cast<double>(plan.region.width);
    EXPECT_NEAR(width / height, 1.15, 0.4);
    smallest = std::min(smallest, height * width / 12000);
    largest = std::max(largest, height * width / 12000);
  }
  EXPECT_NEAR(smallest, 0.2, 0.01);
  EXPECT_NEAR(largest, 0.5, 0.01);
  // No region of the wanted ratio fits: the middle, as large as possible.
  const auto wide = geometry.plan({10, 1000}, random);
  EXPECT_EQ(wide.region, ImageSize(10, 15));
  EXPECT_EQ(wide.region_left, 492);
  const auto high = geometry.plan({1000, 10}, random);
  EXPECT_EQ(high.region, ImageSize(12, 10));
  EXPECT_EQ(high.region_top, 494);
}

TEST(DataImageGeometry, SaysWhatItDoes) {
  const auto text = [](const ImageGeometry& geometry) {
    std::ostringstream stream;
    stream << geometry;
    return stream.str();
  };
  EXPECT_EQ(text(ImageGeometry::resize({3, 4})), "Resize(3x4)");
  EXPECT_EQ(text(ImageGeometry::center_crop(ResizeRule::shorter_side(256), 224)),
            "Resize(shorter side 256), CenterCrop(224)");
  EXPECT_EQ(text(ImageGeometry::random_crop(256, 224).horizontal_flip(0.5)),
            "Resize(256), RandomCrop(224), RandomHorizontalFlip(p=0.5)");
  EXPECT_EQ(text(training_geometry()),
            "RandomResizedCrop(20, scale=0.08..1, ratio=0.75..1.33333), "
            "RandomHorizontalFlip(p=0.5)");
}

TEST(DataImageGeometry, RefusesWrongBounds) {
  EXPECT_THAT(error_of([] {
                ImageGeometry::resize({0, 4});
              }),
              HasSubstr("the size of the images must be positive, got 0 x 4"));
  EXPECT_THAT(error_of([] { ImageGeometry::center_crop(-1, 4); }),
              HasSubstr("the size to resize to must be positive, got -1 x -1"));
  EXPECT_THAT(error_of([] {
                ImageGeometry::random_resized_crop(4, {{0.5, 0.2}, {1, 1}});
              }),
              HasSubstr("RandomResizedCrop: the scale must lie in 0..1 in rising order, got 0.5"));
  EXPECT_THAT(error_of([] {
                ImageGeometry::random_resized_crop(4, {{0.1, 0.2}, {0, 1}});
              }),
              HasSubstr("the ratio must be positive in rising order, got 0 to 1"));
  EXPECT_THAT(error_of([] { ImageGeometry::resize(4).horizontal_flip(-0.5); }),
              HasSubstr("probability must lie in 0..1, got -0.5"));
}

TEST(DataFileDataset, RefusesWhatDoesNotFit) {
  using bsconv::data::DirectoryStore;
  using bsconv::data::FileDataset;
  const auto store = std::make_shared<DirectoryStore>("/data");
  EXPECT_THAT(error_of([&] {
                FileDataset(nullptr, {{"a", 0}}, {"x"});
              }),
              HasSubstr("needs a store"));
  EXPECT_THAT(error_of([&] { FileDataset(store, {}, {"x"}); }), HasSubstr("at least one file"));
  EXPECT_THAT(error_of([&] {
                FileDataset(store, {{"a", 1}}, {"x"});
              }),
              HasSubstr("image '/data/a' has label 1; valid labels are 0 to 0"));
  EXPECT_THAT(error_of([&] {
                FileDataset(store, {{"b/../../a", 0}}, {"x"});
              }),
              HasSubstr("the path 'b/../../a' leaves the data set's folder"));
}

}  // namespace
}  // namespace data_file_loader_test
