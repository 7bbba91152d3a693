// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/data/image_file.hpp>
#include <bsconv/data/stanford_dogs.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "support/archives.hpp"
#include "support/images.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace data_stanford_dogs_test {
namespace {

using bsconv::md5_of_file;
using bsconv::data::load_stanford_dogs;
using bsconv::data::read_matlab_texts;
using bsconv::data::Split;
using bsconv::data::StanfordDogsOptions;
using bsconv_test::encode_jpeg;
using bsconv_test::error_of;
using bsconv_test::read_file;
using bsconv_test::soft_image;
using bsconv_test::TemporaryDirectory;
using bsconv_test::write_archive;
using bsconv_test::write_file;
using bsconv_test::write_matlab_texts;
using testing::HasSubstr;

std::string jpeg(int64_t height, int64_t width, int64_t seed) {
  const auto bytes = encode_jpeg(soft_image(height, width, seed));
  return {bytes.begin(), bytes.end()};
}

const std::vector<std::string> train_list = {"n3-Terrier/n3_7.jpg", "n1-Husky/n1_1.jpg",
                                             "n2-Poodle/n2_5.jpg"};
const std::vector<std::string> test_list = {"n1-Husky/n1_2.jpg", "n3-Terrier/n3_1.jpg"};

/// A small data set of the official layout, as archives.
class StanfordDogs : public testing::Test {
 protected:
  void SetUp() override {
    for (const auto* lists : {&train_list, &test_list}) {
      for (const auto& path : *lists) {
        images_.emplace_back("Images/" + path, jpeg(40 + static_cast<int64_t>(images_.size()), 50,
                                                    static_cast<int64_t>(images_.size())));
      }
    }
    write_images();
    write_lists(train_list, test_list);
  }

  std::filesystem::path root() const { return directory_ / "dogs"; }

  void write_images() {
    std::filesystem::create_directories(root());
    write_archive(root() / "images.tar", images_);
  }

  void write_lists(const std::vector<std::string>& train, const std::vector<std::string>& test) {
    write_matlab_texts(directory_ / "train_list.mat", "file_list", train);
    write_matlab_texts(directory_ / "test_list.mat", "file_list", test);
    write_archive(root() / "lists.tar",
                  {{"./file_list.mat", "not needed"},
                   {"./train_list.mat", read_file(directory_ / "train_list.mat")},
                   {"./test_list.mat", read_file(directory_ / "test_list.mat")}});
  }

  StanfordDogsOptions options() const {
    return StanfordDogsOptions()
        .images_md5(md5_of_file(root() / "images.tar"))
        .lists_md5(md5_of_file(root() / "lists.tar"))
        .train_images(3)
        .test_images(2)
        .classes(3);
  }

  std::string error(const StanfordDogsOptions& options) const {
    return error_of([&] { load_stanford_dogs(root(), Split::train, options); });
  }

  TemporaryDirectory directory_;
  bsconv_test::ArchiveMembers images_;
};

TEST_F(StanfordDogs, ArchivesAndUnpackedFilesGiveTheSame) {
  const auto check = [&](const std::string& where) {
    const auto train = load_stanford_dogs(root(), Split::train, options());
    const auto test = load_stanford_dogs(root(), Split::test, options());
    ASSERT_EQ(train.size(), 3);
    ASSERT_EQ(test.size(), 2);
    EXPECT_EQ(train.class_names(), (std::vector<std::string>{"n1", "n2", "n3"}));
    EXPECT_EQ(train.label(0), 2);
    EXPECT_EQ(train.label(1), 0);
    EXPECT_EQ(train.label(2), 1);
    EXPECT_EQ(test.label(0), 0);
    EXPECT_THAT(test.full_name(1), HasSubstr(where));
    const auto image = bsconv::data::decode_image(test.read(1), test.full_name(1));
    EXPECT_EQ(image.sizes(), torch::IntArrayRef({3, 44, 50}));
  };
  check("dogs/images.tar/Images/n3-Terrier/n3_1.jpg'");
  for (const auto& [path, bytes] : images_) {
    write_file(root() / path, bytes);
  }
  check("dogs/Images/n3-Terrier/n3_1.jpg'");
  write_file(root() / "train_list.mat", read_file(directory_ / "train_list.mat"));
  write_file(root() / "test_list.mat", read_file(directory_ / "test_list.mat"));
  std::filesystem::remove(root() / "images.tar");
  std::filesystem::remove(root() / "lists.tar");
  const auto unpacked = StanfordDogsOptions().train_images(3).test_images(2).classes(3);
  EXPECT_EQ(load_stanford_dogs(root(), Split::test, unpacked).size(), 2);
}

TEST_F(StanfordDogs, WrongSumsAreRefused) {
  const auto official = StanfordDogsOptions().train_images(3).test_images(2).classes(3);
  EXPECT_THAT(error(official), HasSubstr("lists.tar' has the MD5 sum "));
  EXPECT_THAT(error(official), HasSubstr("; expected edbb9f16854ec66506b5f09b583e0656"));
  EXPECT_THAT(error(StanfordDogsOptions(official).lists_md5("")),
              HasSubstr("; expected 1bb1f2a596ae7057f99d7d75860002ef"));
  EXPECT_EQ(error(StanfordDogsOptions(official).lists_md5("").images_md5("")), "no error");
}

TEST_F(StanfordDogs, WrongCountsAreRefused) {
  EXPECT_THAT(error(options().train_images(12000)),
              HasSubstr("'train_list.mat' lists 3 images; expected 12000"));
  EXPECT_THAT(error(options().test_images(8580)),
              HasSubstr("'test_list.mat' lists 2 images; expected 8580"));
  EXPECT_THAT(error(options().classes(120)), HasSubstr("have 3 classes; expected 120"));
  const StanfordDogsOptions defaults;
  EXPECT_EQ(defaults.train_images(), 12000);
  EXPECT_EQ(defaults.test_images(), 8580);
  EXPECT_EQ(defaults.classes(), 120);
}

TEST_F(StanfordDogs, MissingMembersAreNamed) {
  images_.erase(images_.begin() + 1);
  write_images();
  EXPECT_THAT(error(options()), HasSubstr("images.tar/Images/n1-Husky/n1_1.jpg' is listed but "
                                          "missing"));
  const bsconv::data::detail::DogsArchive archive(root() / "images.tar");
  EXPECT_EQ(
      error_of([&] { archive.read("n1-Husky/n1_1.jpg"); }),
      "image '" + (root() / "images.tar/Images/n1-Husky/n1_1.jpg").native() + "' does not exist");
  write_archive(root() / "lists.tar", {{"test_list.mat", read_file(directory_ / "test_list.mat")}});
  EXPECT_THAT(error(options()), HasSubstr("lists.tar' has no member 'train_list.mat'"));
  std::filesystem::rename(root() / "images.tar", root() / "gone");
  EXPECT_THAT(error(StanfordDogsOptions()),
              HasSubstr("there is neither 'Images' nor 'images.tar' in"));
  std::filesystem::rename(root() / "lists.tar", root() / "gone too");
  EXPECT_THAT(error(StanfordDogsOptions()),
              HasSubstr("neither 'train_list.mat' and 'test_list.mat' nor 'lists.tar' in '"));
}

TEST_F(StanfordDogs, PathsThatLeaveTheFolderAreRefused) {
  for (const std::string bad : {"../../etc/n1_1.jpg", "/etc/n1_1.jpg", "n1/../../n1_1.jpg"}) {
    write_lists({"n3-Terrier/n3_7.jpg", bad, "n2-Poodle/n2_5.jpg"}, test_list);
    EXPECT_THAT(error(options()),
                HasSubstr("Stanford Dogs: the path '" + bad + "' leaves the data set's folder"));
  }
  write_lists(train_list, test_list);
  images_.emplace_back("../n1_9.jpg", "x");
  write_images();
  EXPECT_THAT(error(options()), HasSubstr("the path '../n1_9.jpg' leaves"));
}

TEST_F(StanfordDogs, OddListsAreRefused) {
  write_lists({"n3-Terrier/n3_7.jpg", "n1-Husky/n1_2.jpg", "n2-Poodle/n2_5.jpg"}, test_list);
  EXPECT_THAT(error(options()), HasSubstr("'n1-Husky/n1_2.jpg' is listed twice"));
  write_lists({"n3-Terrier/n3_7.jpg", "n1-Husky/plain.jpg", "n2-Poodle/n2_5.jpg"}, test_list);
  EXPECT_THAT(error(options()), HasSubstr("the file name of 'n1-Husky/plain.jpg' has no class"));
}

TEST(DataMatlab, NamesWhatIsWrongWithAFile) {
  const TemporaryDirectory directory;
  const auto path = directory / "a.mat";
  EXPECT_THAT(error_of([&] { read_matlab_texts(path, "list"); }),
              HasSubstr("MATLAB file '" + path.native() + "' does not exist"));
  write_file(path, "no MATLAB file at all");
  EXPECT_THAT(error_of([&] { read_matlab_texts(path, "list"); }),
              HasSubstr("is damaged: it ends within its header"));
  write_file(path, std::string(128, 'x'));
  EXPECT_THAT(error_of([&] { read_matlab_texts(path, "list"); }),
              HasSubstr("it is of no supported version; 5 to 7.2, little-endian, are"));
  write_matlab_texts(path, "list", {"one", "two", "a longer text"});
  EXPECT_EQ(read_matlab_texts(path, "list"),
            (std::vector<std::string>{"one", "two", "a longer text"}));
  EXPECT_THAT(error_of([&] { read_matlab_texts(path, "other"); }),
              HasSubstr("has no variable 'other'"));
  write_matlab_texts(path, "list", {"one", "tw\xc3\xb6"});
  EXPECT_THAT(error_of([&] { read_matlab_texts(path, "list"); }),
              HasSubstr("entry 1 of 'list' has a character that is not ASCII"));
  mat_t* file = Mat_CreateVer(path.c_str(), nullptr, MAT_FT_MAT5);
  std::size_t dims[2] = {1, 2};
  double values[2] = {1, 2};
  matvar_t* numbers = Mat_VarCreate("list", MAT_C_DOUBLE, MAT_T_DOUBLE, 2, dims, values, 0);
  Mat_VarWrite(file, numbers, MAT_COMPRESSION_NONE);
  Mat_VarFree(numbers);
  Mat_Close(file);
  EXPECT_THAT(error_of([&] { read_matlab_texts(path, "list"); }),
              HasSubstr("'list' is not a cell array of N x 1"));
}

TEST(DataMatlab, SizesThatTheFileDoesNotHoldAreRefusedBeforeMemoryIsTaken) {
  const TemporaryDirectory directory;
  const auto path = directory / "a.mat";
  write_matlab_texts(path, "list", {"one", "two"});
  const auto whole = bsconv_test::read_file(path);
  // Variable: tag at 128, flags at 136, dimensions at 152, name at 168, first cell at 176, its
  // dimensions at 200.
  const auto error = [&](std::size_t offset, std::string_view bytes) {
    auto damaged = whole;
    write_file(path, damaged.replace(offset, bytes.size(), bytes));
    return error_of([&] { read_matlab_texts(path, "list"); });
  };
  EXPECT_THAT(error(132, "\xff\xff\xff\x7f"), HasSubstr("an element ends behind the end"));
  EXPECT_THAT(error(128, "\x0d"), HasSubstr("it has an element that is no array"));
  EXPECT_THAT(error(136, "\x05"), HasSubstr("an array has no flags"));
  EXPECT_THAT(error(144, "\x02"), HasSubstr("it has more than cells, texts and numbers"));
  EXPECT_THAT(error(152, "\x06"), HasSubstr("an array has no dimensions"));
  EXPECT_THAT(error(160, "\xff\xff\xff\xff"), HasSubstr("a dimension is negative"));
  EXPECT_THAT(error(160, "\xff\xff\xff\x7f"), HasSubstr("an array is too large"));
  EXPECT_THAT(error(160, std::string_view("\0\0\1\0", 4)),
              HasSubstr("a cell array has fewer cells than it says"));
  EXPECT_THAT(error(160, "\1"), HasSubstr("an array has bytes behind it"));
  EXPECT_THAT(error(208, std::string_view("\0\1\0\0", 4)),
              HasSubstr("an array has fewer values than it says"));
  EXPECT_THAT(error(193, "\x08"), HasSubstr("it has complex numbers"));
}

TEST(DataMatlab, ReadsWhatOthersWrote) {
  // scipy.io.savemat(…, do_compression=True)
  EXPECT_EQ(read_matlab_texts(BSCONV_TEST_DATA_DIR "/matlab/compressed.mat", "file_list"),
            (std::vector<std::string>{"n1-Husky/n1_2.jpg", "n3-Terrier/n3_1.jpg", "abc"}));
  // MATLAB's own characters have 16 bits.
  const TemporaryDirectory directory;
  mat_t* file = Mat_CreateVer((directory / "a.mat").c_str(), nullptr, MAT_FT_MAT5);
  std::size_t dims[2] = {1, 3};
  std::size_t one[2] = {1, 1};
  uint16_t text[3] = {'a', '_', 'b'};
  matvar_t* cell = Mat_VarCreate(nullptr, MAT_C_CHAR, MAT_T_UINT16, 2, dims, text, 0);
  matvar_t* list = Mat_VarCreate("list", MAT_C_CELL, MAT_T_CELL, 2, one, &cell, 0);
  ASSERT_EQ(Mat_VarWrite(file, list, MAT_COMPRESSION_NONE), 0);
  Mat_VarFree(list);
  Mat_Close(file);
  EXPECT_EQ(read_matlab_texts(directory / "a.mat", "list"), std::vector<std::string>{"a_b"});
}

}  // namespace
}  // namespace data_stanford_dogs_test
