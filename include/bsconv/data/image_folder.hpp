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
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include <bsconv/data/dataset.hpp>
#include <bsconv/data/file_dataset.hpp>
#include <bsconv/util/text.hpp>

namespace bsconv::data {

namespace detail {

/// How the names of images end that are listed, and of those that nothing here decodes.
inline constexpr std::array<std::string_view, 7> image_endings = {".jpg", ".jpeg", ".jpe", ".jfif",
                                                                  ".png", ".ppm",  ".pgm"};
inline constexpr std::array<std::string_view, 7> other_image_endings = {
    ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif"};

/// Whether the name of `path` ends in one of `endings`, in any case.
template <std::size_t count>
bool ends_in(const std::filesystem::path& path,
             const std::array<std::string_view, count>& endings) {
  const auto ending = bsconv::detail::lower(path.extension().native());
  return std::find(endings.begin(), endings.end(), std::string_view(ending)) != endings.end();
}

inline bool is_hidden(const std::filesystem::path& path) {
  return path.filename().native().front() == '.';
}

/// The entries of a directory, sorted by name; hidden ones are left out.
inline std::vector<std::filesystem::path> sorted_entries(const std::filesystem::path& directory) {
  std::error_code error;
  std::vector<std::filesystem::path> entries;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (!is_hidden(entry->path())) {
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

/// The files below a folder of images.
struct FolderImages {
  /// Paths of those that can be decoded, sorted.
  std::vector<std::string> images;
  /// Paths of images of other formats, sorted.
  std::vector<std::string> others;
};

/// The images below `folder / name`, by their paths from `folder` on; hidden files and folders are
/// left out.
inline FolderImages list_images(const std::filesystem::path& folder, const std::string& name) {
  const auto directory = folder / name;
  FolderImages found;
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator
           entry(directory, std::filesystem::directory_options::follow_directory_symlink, error),
       end;
       !error && entry != end; entry.increment(error)) {
    if (is_hidden(entry->path())) {
      entry.disable_recursion_pending();
      continue;
    }
    const bool image = ends_in(entry->path(), image_endings);
    std::error_code ignored;
    if ((image || ends_in(entry->path(), other_image_endings)) && entry->is_regular_file(ignored)) {
      (image ? found.images : found.others)
          .push_back(entry->path().lexically_relative(folder).native());
    }
  }
  TORCH_CHECK(!error, "image folder: cannot read '", directory.native(), "': ", error.message());
  std::sort(found.images.begin(), found.images.end());
  std::sort(found.others.begin(), found.others.end());
  return found;
}

}  // namespace detail

/// Images in a folder for each class, as torchvision's `ImageFolder`: `root/train/CLASS/…` and
/// `root/val/CLASS/…`, or `test` where there is no `val`.
///
/// Files end in .jpg, .jpeg, .jpe, .jfif, .png, .ppm or .pgm in any case and may lie in folders
/// further down; classes and files are sorted by name. Files and folders whose names begin with "."
/// are left out, and so are images of other formats (.webp, .bmp, .gif, .tif, .tiff, .heic, .avif),
/// with one warning that counts them. Where there is no `train`, the classes of the test split are
/// the folders it has.
///
/// Throws `c10::Error` if the directory of the split is missing, a class has no image or the
/// classes of the two splits differ.
inline FileDataset load_image_folder(const std::filesystem::path& root, Split split) {
  std::error_code error;
  const bool has_train = std::filesystem::is_directory(root / "train", error);
  TORCH_CHECK(has_train || split == Split::test, "image folder: there is no directory 'train' in '",
              root.native(), "'; it must hold a folder of images for each class");
  const auto test = detail::find_test_folder(root);
  const auto named = has_train ? root / "train" : test;
  auto classes = detail::sorted_directories(named);
  TORCH_CHECK(!classes.empty(), "image folder: '", named.native(),
              "' has no folder; it must hold one for each class");
  detail::check_same_classes(classes, detail::sorted_directories(test), root.native());

  const auto folder = split == Split::train ? root / "train" : test;
  std::vector<FileRecord> records;
  std::vector<std::string> others;
  for (std::size_t label = 0; label < classes.size(); ++label) {
    auto found = detail::list_images(folder, classes[label]);
    const auto other = found.others.empty()
                           ? std::string()
                           : c10::str(", which '", found.others.front(), "' does not");
    TORCH_CHECK(!found.images.empty(), "image folder: '", (folder / classes[label]).native(),
                "' has no image; their names end in one of ",
                bsconv::detail::join(detail::image_endings, ", "), other);
    for (auto& path : found.images) {
      records.push_back({std::move(path), static_cast<int64_t>(label)});
    }
    others.insert(others.end(), found.others.begin(), found.others.end());
  }
  if (!others.empty()) {
    TORCH_WARN("image folder: ", others.size(), others.size() == 1 ? " image" : " images", " in '",
               folder.native(), "' left out, such as '", others.front(),
               "': only names that end in one of ",
               bsconv::detail::join(detail::image_endings, ", "), " are read");
  }
  return {std::make_shared<DirectoryStore>(folder), std::move(records), std::move(classes)};
}

}  // namespace bsconv::data
