// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/data/cifar.hpp>

#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace data_cifar_test {
namespace {

using bsconv::data::Split;
using bsconv::data::detail::cifar_image_bytes;
using bsconv::data::detail::read_cifar_file;
using bsconv_test::error_of;
using bsconv_test::TemporaryDirectory;
using bsconv_test::write_file;
using testing::HasSubstr;

std::string record(const std::string& labels, char first_pixel) {
  std::string text = labels + std::string(cifar_image_bytes, '\0');
  text[labels.size()] = first_pixel;
  text.back() = '\x7f';
  return text;
}

/// A file of the official size, all zero, without taking the space.
void write_zeros(const std::filesystem::path& path, std::uintmax_t size) {
  write_file(path, "");
  std::filesystem::resize_file(path, size);
}

TEST(DataCifar, ReadsTheLastLabelByteAndThePixelsInOrder) {
  const TemporaryDirectory directory;
  write_file(directory / "a.bin", record("\x03\x63", 'x') + record("\x13\x05", 'y'));
  std::vector<uint8_t> images(2 * cifar_image_bytes);
  std::vector<int64_t> labels(2);
  read_cifar_file(directory / "a.bin", "set", 2, {20, 100}, images.data(), labels.data());
  EXPECT_EQ(labels, (std::vector<int64_t>{99, 5}));
  EXPECT_EQ(images[0], 'x');
  EXPECT_EQ(images[cifar_image_bytes - 1], 0x7f);
  EXPECT_EQ(images[cifar_image_bytes], 'y');
}

TEST(DataCifar, NamesTheRecordWhoseLabelIsOutOfRange) {
  const TemporaryDirectory directory;
  std::vector<uint8_t> images(2 * cifar_image_bytes);
  std::vector<int64_t> labels(2);
  const auto read = [&](const std::vector<int64_t>& counts) {
    return error_of([&] {
      read_cifar_file(directory / "a.bin", "set", 2, counts, images.data(), labels.data());
    });
  };
  const auto file = "'" + (directory / "a.bin").native() + "'";
  write_file(directory / "a.bin", record("\x03\x63", 'x') + record("\x03\x64", 'y'));
  EXPECT_THAT(read({20, 100}), HasSubstr("set: record 1 of " + file +
                                         " has fine label 100; valid labels are 0 to 99"));
  write_file(directory / "a.bin", record("\x14\x63", 'x') + record("\x03\x63", 'y'));
  EXPECT_THAT(read({20, 100}),
              HasSubstr("record 0 of " + file + " has coarse label 20; valid labels are 0 to 19"));
  write_file(directory / "a.bin", record("\xff", 'x') + record("\x03", 'y'));
  EXPECT_THAT(read({10}), HasSubstr("has label 255; valid labels are 0 to 9"));
}

TEST(DataCifar, RefusesAFileOfAnotherSize) {
  const TemporaryDirectory directory;
  const auto path = directory / "test.bin";
  for (const std::uintmax_t size : {0U, 30739999U, 30740001U}) {
    write_zeros(path, size);
    EXPECT_THAT(error_of([&] { bsconv::data::load_cifar100(directory.path(), Split::test); }),
                HasSubstr("CIFAR-100: '" + path.native() + "' has " + std::to_string(size) +
                          " bytes; expected 30740000 (10000 records of 3074 bytes)"));
  }
}

TEST(DataCifar, SaysWhatWasLookedForWhere) {
  const TemporaryDirectory directory;
  const auto message =
      error_of([&] { bsconv::data::load_cifar10(directory.path(), Split::train); });
  EXPECT_THAT(message,
              HasSubstr("CIFAR-10: no file 'data_batch_1.bin' in '" + directory.path().native() +
                        "' or '" + (directory / "cifar-10-batches-bin").native() + "'"));
  EXPECT_THAT(error_of([&] { bsconv::data::load_cifar100(directory / "none", Split::test); }),
              HasSubstr("CIFAR-100: no file 'test.bin' in"));
}

TEST(DataCifar, NamesTheOneFileThatIsMissing) {
  const TemporaryDirectory directory;
  for (const auto* name : {"data_batch_1.bin", "data_batch_2.bin", "data_batch_4.bin"}) {
    write_zeros(directory / name, 30730000);
  }
  EXPECT_THAT(
      error_of([&] { bsconv::data::load_cifar10(directory.path(), Split::train); }),
      HasSubstr("CIFAR-10: '" + (directory / "data_batch_3.bin").native() + "' does not exist"));
  std::filesystem::create_directory(directory / "data_batch_3.bin");
  EXPECT_THAT(error_of([&] { bsconv::data::load_cifar10(directory.path(), Split::train); }),
              HasSubstr("is not a regular file"));
}

TEST(DataCifar, FindsTheArchivesDirectoryAndTheClassNames) {
  const TemporaryDirectory directory;
  const auto folder = directory / "cifar-10-batches-bin";
  write_zeros(folder / "test_batch.bin", 30730000);
  auto set = bsconv::data::load_cifar10(directory.path(), Split::test);
  EXPECT_EQ(set.size(), 10000);
  EXPECT_EQ(set.class_names().back(), "class 9");
  write_file(folder / "batches.meta.txt", "a\nb\nc\nd\ne\nf\ng\nh\r\ni\nlast one\n\n");
  set = bsconv::data::load_cifar10(folder, Split::test);
  EXPECT_EQ(set.num_classes(), 10);
  EXPECT_EQ(set.class_names()[7], "h");
  EXPECT_EQ(set.class_names().back(), "last one");
  write_file(folder / "batches.meta.txt", "a\nb\n");
  EXPECT_THAT(error_of([&] { bsconv::data::load_cifar10(folder, Split::test); }),
              HasSubstr("has 2 class names; expected 10"));
}

TEST(DataCifar, WaitsForNoPipe) {
  const TemporaryDirectory directory;
  const auto names = directory / "batches.meta.txt";
  const auto error = [&] {
    return error_of([&] { bsconv::data::load_cifar10(directory.path(), Split::test); });
  };
  write_zeros(directory / "test_batch.bin", 30730000);
  ASSERT_EQ(::mkfifo(names.c_str(), 0600), 0);
  EXPECT_EQ(error(), "CIFAR-10: '" + names.native() + "' is not a regular file");
  std::filesystem::remove(directory / "test_batch.bin");
  ASSERT_EQ(::mkfifo((directory / "test_batch.bin").c_str(), 0600), 0);
  EXPECT_THAT(error(), HasSubstr("test_batch.bin' is not a regular file"));
}

TEST(DataCifar, ReadsTheRealCifar100) {
  const char* root = std::getenv("BSCONV_CIFAR100_ROOT");
  if (root == nullptr) {
    GTEST_SKIP() << "BSCONV_CIFAR100_ROOT does not name a directory with cifar-100-binary";
  }
  for (const auto split : {Split::train, Split::test}) {
    const auto set = bsconv::data::load_cifar100(root, split);
    const int64_t a_class = split == Split::train ? 500 : 100;
    EXPECT_EQ(set.size(), 100 * a_class);
    EXPECT_TRUE(set.labels().bincount().eq(a_class).all().item<bool>());
    EXPECT_EQ(set.class_names().front(), "apple");
    EXPECT_EQ(set.class_names().back(), "worm");
  }
}

}  // namespace
}  // namespace data_cifar_test
