// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <torch/types.h>

#include <bsconv/data/dataset.hpp>
#include <bsconv/data/file_dataset.hpp>
#include <bsconv/util/text.hpp>

namespace bsconv::data {

namespace detail {

inline bool has_image_extension(const std::filesystem::path& path) {
  static constexpr std::array<const char*, 3> extensions = {".jpg", ".jpeg", ".png"};
  const auto extension = bsconv::detail::lower(path.extension().native());
  return std::find(extensions.begin(), extensions.end(), extension) != extensions.end();
}

/// The entries of a directory, sorted by name; hidden ones are left out.
inline std::vector<std::filesystem::path> sorted_entries(const std::filesystem::path& directory) {
  std::error_code error;
  std::vector<std::filesystem::path> entries;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().filename().native().front() != '.') {
      entries.push_back(entry->path());
    }
  }
  TORCH_CHECK(!error, "cannot read the directory '", directory.native(), "': ", error.message());
  std::sort(entries.begin(), entries.end());
  return entries;
}

/// The names of the directories in `directory`, sorted.
inline std::vector<std::string> sorted_directories(const std::filesystem::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : sorted_entries(directory)) {
    if (std::filesystem::is_directory(entry)) {
      names.push_back(entry.filename().native());
    }
  }
  return names;
}

/// The directory of the test images: `val`, or `test` if there is none.
inline std::filesystem::path find_test_folder(const std::filesystem::path& root) {
  for (const auto* name : {"val", "test"}) {
    std::error_code error;
    if (std::filesystem::is_directory(root / name, error)) {
      return root / name;
    }
  }
  TORCH_CHECK(false, "image folder: there is neither a directory 'val' nor 'test' in '",
              root.native(), "'");
}

/// Throws, naming the classes that only one of the two has, unless both are equal.
inline void check_same_classes(const std::vector<std::string>& train,
                               const std::vector<std::string>& test, const std::string& root) {
  const auto without = [](const auto& all, const auto& others) {
    std::vector<std::string> rest;
    std::set_difference(all.begin(), all.end(), others.begin(), others.end(),
                        std::back_inserter(rest));
    return bsconv::detail::join(rest, ", ");
  };
  TORCH_CHECK(train == test, "image folder: the classes of '", root,
              "' differ; only in the training split: [", without(train, test),
              "], only in the test split: [", without(test, train), "]");
}

}  // namespace detail

/// Images in a folder for each class, as torchvision's `ImageFolder`: `root/train/CLASS/…` and
/// `root/val/CLASS/…`, or `test` where there is no `val`.
///
/// Files end in .jpg, .jpeg or .png in any case and may lie in folders further down; classes and
/// files are sorted by name. Throws `c10::Error` if a directory is missing, a class has no image or
/// the classes of the two splits differ.
inline FileDataset load_image_folder(const std::filesystem::path& root, Split split) {
  std::error_code error;
  TORCH_CHECK(std::filesystem::is_directory(root / "train", error),
              "image folder: there is no directory 'train' in '", root.native(),
              "'; it must hold a folder of images for each class");
  const auto test = detail::find_test_folder(root);
  auto classes = detail::sorted_directories(root / "train");
  TORCH_CHECK(!classes.empty(), "image folder: '", (root / "train").native(),
              "' has no folder; it must hold one for each class");
  detail::check_same_classes(classes, detail::sorted_directories(test), root.native());

  const auto folder = split == Split::train ? root / "train" : test;
  std::vector<FileRecord> records;
  for (std::size_t label = 0; label < classes.size(); ++label) {
    const auto first = records.size();
    const auto directory = folder / classes[label];
    for (std::filesystem::recursive_directory_iterator
             entry(directory, std::filesystem::directory_options::follow_directory_symlink, error),
         end;
         !error && entry != end; entry.increment(error)) {
      if (detail::has_image_extension(entry->path()) && entry->is_regular_file()) {
        records.push_back(
            {entry->path().lexically_relative(folder).native(), static_cast<int64_t>(label)});
      }
    }
    TORCH_CHECK(!error, "image folder: cannot read '", directory.native(), "': ", error.message());
    TORCH_CHECK(records.size() > first, "image folder: '", directory.native(),
                "' has no image; their names end in .jpg, .jpeg or .png");
    std::sort(records.begin() + static_cast<std::ptrdiff_t>(first), records.end(),
              [](const auto& a, const auto& b) { return a.path < b.path; });
  }
  return {std::make_shared<DirectoryStore>(folder), std::move(records), std::move(classes)};
}

}  // namespace bsconv::data
