// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/data/archive.hpp>
#include <bsconv/data/cifar_archive.hpp>

#include <filesystem>
#include <future>
#include <string>
#include <vector>

#include "support/archives.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace data_archive_test {
namespace {

using bsconv::data::read_archive;
using bsconv::data::Split;
using bsconv::data::TarStore;
using bsconv_test::error_of;
using bsconv_test::read_file;
using bsconv_test::TemporaryDirectory;
using bsconv_test::write_archive;
using bsconv_test::write_file;
using bsconv_test::write_sparse_tar;
using testing::HasSubstr;

std::string text_of(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }

/// Members of many sizes, one with a name longer than a tar header holds.
bsconv_test::ArchiveMembers members() {
  bsconv_test::ArchiveMembers result = {{"folder/", ""}, {"empty", ""}};
  for (int i = 0; i < 40; ++i) {
    result.emplace_back("folder/" + std::to_string(i) + ".jpg",
                        std::string(static_cast<std::size_t>(i * 97), static_cast<char>('a' + i)));
  }
  result.emplace_back("long/" + std::string(150, 'x') + "/" + std::string(120, 'y'), "long name");
  result.emplace_back("last", "the end");
  return result;
}

TEST(DataArchive, ATarIsReadInPlaceByManyThreads) {
  const TemporaryDirectory directory;
  write_archive(directory / "a.tar", members());
  const TarStore store(directory / "a.tar");
  EXPECT_EQ(store.size(), 43);
  std::vector<std::future<void>> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.push_back(std::async(std::launch::async, [&] {
      for (const auto& [name, bytes] : members()) {
        if (name.back() != '/') {
          EXPECT_TRUE(store.contains(name)) << name;
          EXPECT_EQ(text_of(store.read(name)), bytes) << name;
        }
      }
    }));
  }
  threads.clear();
  EXPECT_FALSE(store.contains("folder"));
  EXPECT_THAT(error_of([&] { store.read("none"); }),
              HasSubstr("image '" + (directory / "a.tar").native() + "/none' does not exist"));
}

TEST(DataArchive, CompressedMembersAreReadInOnePass) {
  const TemporaryDirectory directory;
  write_archive(directory / "a.tar.gz", members(), /*gzip=*/true);
  const auto found = read_archive(directory / "a.tar.gz", 1000, [](const std::string& path) {
    return path == "folder/7.jpg" || path == "last" || path == "none";
  });
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(text_of(found.at("folder/7.jpg")), std::string(7 * 97, 'a' + 7));
  EXPECT_EQ(text_of(found.at("last")), "the end");
  EXPECT_THAT(error_of([&] { TarStore(directory / "a.tar.gz"); }),
              HasSubstr("is compressed, and cannot be read in place"));
}

TEST(DataArchive, PathsThatLeaveTheFolderAreRefused) {
  const TemporaryDirectory directory;
  for (const std::string bad : {"../up", "a/../../up", "/root", "a/.."}) {
    write_archive(directory / "a.tar", {{"good", "1"}, {bad, "2"}});
    const auto message = "a.tar': the path '" + bad + "' leaves the data set's folder";
    EXPECT_THAT(error_of([&] { TarStore(directory / "a.tar"); }), HasSubstr(message));
    EXPECT_THAT(error_of([&] { read_archive(directory / "a.tar", 9, [](auto&) { return true; }); }),
                HasSubstr(message));
  }
  write_archive(directory / "a.tar", {{"./dots..in/a..name", "1"}});
  EXPECT_TRUE(TarStore(directory / "a.tar").contains("dots..in/a..name"));
}

TEST(DataArchive, DamageIsAnErrorWithTheArchivesName) {
  const TemporaryDirectory directory;
  const auto path = directory / "a.tar";
  EXPECT_THAT(error_of([&] { TarStore{path}; }), HasSubstr("cannot be opened: No such file"));
  EXPECT_THAT(error_of([&] { read_archive(path, 10000, [](auto&) { return true; }); }),
              HasSubstr("archive '" + path.native() + "' cannot be read"));
  write_file(path, "this is no archive, whatever its name says");
  EXPECT_THAT(error_of([&] { TarStore{path}; }),
              HasSubstr("archive '" + path.native() + "' cannot be read"));
  write_archive(path, {{"a", std::string(5000, 'a')}, {"b", std::string(5000, 'b')}});
  std::filesystem::resize_file(path, 7000);
  EXPECT_NE(error_of([&] { TarStore(path).read("b"); }), "no error");
  EXPECT_NE(error_of([&] { read_archive(path, 10000, [](auto&) { return true; }); }), "no error");
}

TEST(DataArchive, AMemberLargerThanExpectedIsRefusedBeforeItIsRead) {
  const TemporaryDirectory directory;
  const auto path = directory / "a.tar.gz";
  write_archive(path, {{"small", "1"}, {"bomb", std::string(std::size_t{1} << 24U, '\0')}}, true);
  EXPECT_LT(std::filesystem::file_size(path), std::size_t{1} << 16U);
  EXPECT_EQ(read_archive(path, 1000, [](auto& name) { return name == "small"; }).size(), 1U);
  EXPECT_THAT(error_of([&] { read_archive(path, 1000, [](auto&) { return true; }); }),
              HasSubstr("member 'bomb', would have 16777216 bytes; at most 1000 are expected"));
  const auto cifar = directory / "cifar-100-binary.tar.gz";
  write_archive(cifar, {{"test.bin", std::string(30740001, '\0')}}, true);
  EXPECT_THAT(error_of([&] { bsconv::data::open_cifar100(cifar, Split::test); }),
              HasSubstr("would have 30740001 bytes; at most 30740000 are expected"));
  // A sparse member claims a hole of 8 GB in half a kilobyte.
  write_sparse_tar(directory / "sparse.tar");
  const TarStore store(directory / "sparse.tar");
  EXPECT_THAT(error_of([&] { store.read("hole"); }),
              HasSubstr("would have 8589934591 bytes; at most "));
}

/// CIFAR files of the official size in which only the labels of the first records are not 0.
std::string records(std::size_t count, const std::vector<std::string>& labels) {
  const std::size_t size = labels.front().size() + 3072;
  std::string bytes(count * size, '\0');
  for (std::size_t i = 0; i < labels.size(); ++i) {
    bytes.replace(i * size, labels[i].size(), labels[i]);
    bytes[(i + 1) * size - 1] = static_cast<char>(i + 1);
  }
  return bytes;
}

TEST(DataArchive, CifarIsReadInPlace) {
  const TemporaryDirectory directory;
  std::string names;
  for (int i = 0; i < 100; ++i) {
    names += "class" + std::to_string(i) + "\n";
  }
  const auto path = directory / "cifar-100-binary.tar.gz";
  const auto test = records(10000, {"\x01\x63", "\x02\x05"});
  write_archive(path,
                {{"cifar-100-binary/", ""},
                 {"cifar-100-binary/fine_label_names.txt", names},
                 {"cifar-100-binary/test.bin", test}},
                /*gzip=*/true);
  for (const auto& root : {directory.path(), path}) {
    const auto set = bsconv::data::open_cifar100(root, Split::test);
    EXPECT_EQ(set.size(), 10000);
    EXPECT_EQ(set.labels()[0].item<int>(), 99);
    EXPECT_EQ(set.images()[1][2][31][31].item<int>(), 2);
    EXPECT_EQ(set.class_names()[99], "class99");
  }
  EXPECT_THAT(error_of([&] { bsconv::data::open_cifar100(path, Split::train); }),
              HasSubstr("CIFAR-100: archive '" + path.native() + "' has no member 'train.bin'"));
  write_archive(path, {{"cifar-100-binary/test.bin", test.substr(1)}}, true);
  EXPECT_THAT(error_of([&] { bsconv::data::open_cifar100(path, Split::test); }),
              HasSubstr("/cifar-100-binary/test.bin' has 30739999 bytes; expected 30740000"));
  write_archive(path, {{"cifar-100-binary/test.bin", records(10000, {std::string("\x14\0", 2)})}},
                true);
  EXPECT_THAT(error_of([&] { bsconv::data::open_cifar100(path, Split::test); }),
              HasSubstr("has coarse label 20; valid labels are 0 to 19"));
  // What is unpacked comes first.
  write_file(directory / "cifar-100-binary" / "test.bin", test);
  EXPECT_EQ(bsconv::data::open_cifar100(directory.path(), Split::test).class_names()[5], "class 5");
  const auto cifar10 = directory / "cifar-10-binary.tar.gz";
  write_archive(cifar10, {{"cifar-10-batches-bin/test_batch.bin", records(10000, {"\x07"})}}, true);
  EXPECT_EQ(bsconv::data::open_cifar10(directory.path(), Split::test).labels()[0].item<int>(), 7);
  EXPECT_THAT(error_of([&] { bsconv::data::open_cifar10(directory / "none", Split::test); }),
              HasSubstr("CIFAR-10: no file 'test_batch.bin' in"));
}

}  // namespace
}  // namespace data_archive_test
