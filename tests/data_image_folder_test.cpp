// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/data/image_folder.hpp>

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "support/warnings.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace data_image_folder_test {
namespace {

using bsconv::data::load_image_folder;
using bsconv::data::Split;
using bsconv_test::error_of;
using bsconv_test::TemporaryDirectory;
using bsconv_test::Warnings;
using bsconv_test::write_file;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// Twelve training images in two classes, and two test images. Nothing is decoded here.
void write_folder(const std::filesystem::path& root, const std::string& test_folder = "val") {
  const std::vector<std::string> endings = {".PNG", ".jpg", ".JPEG"};
  for (std::size_t i = 0; i < 12; ++i) {
    const auto folder = root / "train" / (i % 2 == 0 ? "cat" : "dog");
    write_file(folder / (std::to_string(i) + endings[i % 3]), "image");
  }
  write_file(root / test_folder / "cat" / "deeper" / "a.jpg", "image");
  write_file(root / test_folder / "dog" / "b.jpg", "image");
  write_file(root / "train" / "cat" / "notes.txt", "no image");
  write_file(root / "train" / ".cache" / "x.jpg", "hidden");
}

std::vector<std::string> paths(const bsconv::data::FileDataset& files) {
  std::vector<std::string> result;
  for (const auto& record : files.records()) {
    result.push_back(record.path);
  }
  return result;
}

TEST(DataImageFolder, ListsImagesByClass) {
  const TemporaryDirectory directory;
  write_folder(directory.path());
  const auto train = load_image_folder(directory.path(), Split::train);
  EXPECT_EQ(train.size(), 12);
  EXPECT_THAT(train.class_names(), ElementsAre("cat", "dog"));
  EXPECT_EQ(train.records()[0].path, "cat/0.PNG");
  EXPECT_EQ(train.records()[1].path, "cat/10.jpg");
  EXPECT_EQ(train.label(5), 0);
  EXPECT_EQ(train.label(6), 1);
  const auto test = load_image_folder(directory.path(), Split::test);
  EXPECT_EQ(test.size(), 2);
  EXPECT_EQ(test.records()[0].path, "cat/deeper/a.jpg");
  EXPECT_EQ(test.full_name(1), "image '" + (directory / "val/dog/b.jpg").native() + "'");
}

TEST(DataImageFolder, TakesTheFolderTestWhereThereIsNoVal) {
  const TemporaryDirectory directory;
  write_folder(directory.path(), "test");
  EXPECT_EQ(load_image_folder(directory.path(), Split::test).size(), 2);
}

TEST(DataImageFolder, TakesWhateverTheDecoderKnows) {
  const TemporaryDirectory directory;
  for (const std::string name : {"1.jpg", "2.jpeg", "3.jpe", "4.JFIF", "5.png", "6.ppm", "7.PGM"}) {
    write_file(directory / "val/cat" / name, "image");
  }
  Warnings warnings;
  EXPECT_THAT(paths(load_image_folder(directory.path(), Split::test)),
              ElementsAre("cat/1.jpg", "cat/2.jpeg", "cat/3.jpe", "cat/4.JFIF", "cat/5.png",
                          "cat/6.ppm", "cat/7.PGM"));
  EXPECT_THAT(warnings.messages, IsEmpty());
}

TEST(DataImageFolder, LeavesOutHiddenFilesAndFolders) {
  const TemporaryDirectory directory;
  write_file(directory / "val/cat/a.jpg", "image");
  write_file(directory / "val/cat/._a.jpg", "what macOS writes beside it");
  write_file(directory / "val/cat/.ipynb_checkpoints/a.jpg", "a copy");
  write_file(directory / "val/cat/.ipynb_checkpoints/deeper/a.webp", "another");
  write_file(directory / "val/cat/b/c.jpg", "image");
  Warnings warnings;
  EXPECT_THAT(paths(load_image_folder(directory.path(), Split::test)),
              ElementsAre("cat/a.jpg", "cat/b/c.jpg"));
  EXPECT_THAT(warnings.messages, IsEmpty());
}

TEST(DataImageFolder, CountsImagesOfOtherFormatsInOneWarning) {
  const TemporaryDirectory directory;
  write_folder(directory.path());
  const std::vector<std::string> names = {"b.bmp",  "c.gif",  "d.tif", "e.tiff",
                                          "f.heic", "g.AVIF", "a.webp"};
  for (const auto& name : names) {
    write_file(directory / "train/dog" / name, "image");
  }
  write_file(directory / "train/cat/z.webp", "image");
  Warnings warnings;
  EXPECT_EQ(load_image_folder(directory.path(), Split::test).size(), 2);
  EXPECT_THAT(warnings.messages, IsEmpty());
  EXPECT_EQ(load_image_folder(directory.path(), Split::train).size(), 12);
  EXPECT_THAT(warnings.messages,
              ElementsAre(AllOf(HasSubstr("image folder: 8 images in '"),
                                HasSubstr("left out, such as 'cat/z.webp': only names that end in "
                                          "one of .jpg, .jpeg, .jpe, .jfif, .png, .ppm, .pgm"))));
  std::filesystem::remove(directory / "val/dog/b.jpg");
  write_file(directory / "val/dog/b.webp", "image");
  EXPECT_THAT(error_of([&] { load_image_folder(directory.path(), Split::test); }),
              HasSubstr("dog' has no image; their names end in one of .jpg, .jpeg, .jpe, .jfif, "
                        ".png, .ppm, .pgm, which 'dog/b.webp' does not"));
}

TEST(DataImageFolder, TestsWithoutTrainingImages) {
  for (const std::string folder : {"val", "test"}) {
    const TemporaryDirectory directory;
    write_folder(directory.path(), folder);
    std::filesystem::remove_all(directory / "train");
    const auto test = load_image_folder(directory.path(), Split::test);
    EXPECT_THAT(test.class_names(), ElementsAre("cat", "dog"));
    EXPECT_THAT(paths(test), ElementsAre("cat/deeper/a.jpg", "dog/b.jpg"));
    EXPECT_EQ(test.label(1), 1);
    EXPECT_THAT(error_of([&] { load_image_folder(directory.path(), Split::train); }),
                HasSubstr("image folder: there is no directory 'train' in '"));
  }
  const TemporaryDirectory empty;
  EXPECT_THAT(error_of([&] { load_image_folder(empty.path(), Split::test); }),
              HasSubstr("there is neither a directory 'val' nor 'test' in '"));
  std::filesystem::create_directory(empty / "test");
  EXPECT_THAT(error_of([&] { load_image_folder(empty.path(), Split::test); }),
              HasSubstr("test' has no folder; it must hold one for each class"));
}

TEST(DataImageFolder, SaysWhatIsMissing) {
  const TemporaryDirectory directory;
  const auto error = [&] {
    return error_of([&] { load_image_folder(directory.path(), Split::train); });
  };
  const auto root = "'" + directory.path().native() + "'";
  EXPECT_THAT(error(), HasSubstr("image folder: there is no directory 'train' in " + root));
  std::filesystem::create_directory(directory / "train");
  EXPECT_THAT(error(), HasSubstr("there is neither a directory 'val' nor 'test' in " + root));
  std::filesystem::create_directory(directory / "val");
  EXPECT_THAT(error(), HasSubstr("train' has no folder; it must hold one for each class"));
  write_folder(directory.path());
  std::filesystem::create_directory(directory / "val" / "bird");
  std::filesystem::rename(directory / "val" / "dog", directory / "val" / "wolf");
  EXPECT_THAT(error(), HasSubstr("only in the training split: [dog], only in the test split: "
                                 "[bird, wolf]"));
  std::filesystem::remove(directory / "val" / "bird");
  std::filesystem::rename(directory / "val" / "wolf", directory / "val" / "dog");
  std::filesystem::remove(directory / "val" / "dog" / "b.jpg");
  EXPECT_THAT(error_of([&] { load_image_folder(directory.path(), Split::test); }),
              HasSubstr("dog' has no image; their names end in one of .jpg, .jpeg"));
}

}  // namespace
}  // namespace data_image_folder_test
