// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/data/file_loader.hpp>
#include <bsconv/data/prepared_image.hpp>

#include <memory>
#include <string>
#include <vector>

#include "support/images.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace data_prepared_image_test {
namespace {

using bsconv::data::ImageGeometry;
using bsconv::data::read_image;
using bsconv::data::ResizeRule;
using bsconv_test::encode_jpeg;
using bsconv_test::encode_png;
using bsconv_test::error_of;
using bsconv_test::soft_image;
using bsconv_test::TemporaryDirectory;
using bsconv_test::write_bytes;
using bsconv_test::write_file;
using testing::HasSubstr;

TEST(DataPreparedImage, IsWhatALoaderMakesOfIt) {
  const TemporaryDirectory directory;
  write_bytes(directory / "a.jpg", encode_jpeg(soft_image(150, 210)));
  write_bytes(directory / "b.png", encode_png(soft_image(47, 31, 1)));
  const auto store = std::make_shared<bsconv::data::DirectoryStore>(directory.path());
  for (const auto& geometry : {ImageGeometry::resize({20, 24}),
                               ImageGeometry::center_crop(ResizeRule::shorter_side(36), 32)}) {
    for (const std::string name : {"a.jpg", "b.png"}) {
      SCOPED_TRACE(name);
      const bsconv::data::FileLoader loader(
          bsconv::data::FileDataset(store, {{name, 0}}, {"anything"}), geometry);
      const auto image = read_image(directory / name, geometry);
      EXPECT_EQ(image.scalar_type(), torch::kByte);
      EXPECT_TRUE(loader.get(0, 0).images[0].equal(image.to(torch::kFloat).div(255)));
    }
  }
}

TEST(DataPreparedImage, RandomGeometriesFollowFromTheSeed) {
  const TemporaryDirectory directory;
  write_bytes(directory / "a.png", encode_png(soft_image(60, 80)));
  const auto geometry = ImageGeometry::random_resized_crop(16);
  const auto image = read_image(directory / "a.png", geometry, 3);
  EXPECT_TRUE(image.equal(read_image(directory / "a.png", geometry, 3)));
  EXPECT_FALSE(image.equal(read_image(directory / "a.png", geometry, 4)));
}

TEST(DataPreparedImage, SaysWhichFileCannotBeRead) {
  const TemporaryDirectory directory;
  write_file(directory / "a.png", "no image");
  const auto geometry = ImageGeometry::resize(16);
  EXPECT_THAT(error_of([&] { read_image(directory / "a.png", geometry); }),
              HasSubstr("a.png' is neither PNG, JPEG nor binary PPM"));
  EXPECT_THAT(error_of([&] { read_image(directory / "none.png", geometry); }),
              HasSubstr("none.png"));
  write_bytes(directory / "thin.png", encode_png(soft_image(100000, 1)));
  EXPECT_THAT(error_of([&] {
                read_image(
                    directory / "thin.png",
                    ImageGeometry::center_crop(bsconv::data::ResizeRule::shorter_side(224), 224));
              }),
              HasSubstr("thin.png' of 100000x1 pixels would be scaled to 22400000x224; at most"));
}

}  // namespace
}  // namespace data_prepared_image_test
