// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <torch/arg.h>
#include <torch/types.h>

#include <bsconv/data/archive.hpp>
#include <bsconv/data/dataset.hpp>
#include <bsconv/data/file_dataset.hpp>
#include <bsconv/data/matlab.hpp>
#include <bsconv/util/file_digest.hpp>

// This header needs libarchive, matio and OpenSSL's libcrypto, so it is not part of
// <bsconv/data.hpp>.

namespace bsconv::data {

/// What the official Stanford Dogs data set is checked against.
struct StanfordDogsOptions {
  /// MD5 sum of `images.tar`; empty: not checked. Default: the official one.
  TORCH_ARG(std::string, images_md5) = "1bb1f2a596ae7057f99d7d75860002ef";
  /// MD5 sum of `lists.tar`; empty: not checked. Default: the official one.
  TORCH_ARG(std::string, lists_md5) = "edbb9f16854ec66506b5f09b583e0656";
  /// Number of training images. Default: 12000.
  TORCH_ARG(int64_t, train_images) = 12000;
  /// Number of test images. Default: 8580.
  TORCH_ARG(int64_t, test_images) = 8580;
  /// Number of classes. Default: 120.
  TORCH_ARG(int64_t, classes) = 120;
};

namespace detail {

inline void check_md5(const std::filesystem::path& path, const std::string& expected) {
  if (expected.empty()) {
    return;
  }
  const auto actual = md5_of_file(path);
  TORCH_CHECK(actual == expected, "Stanford Dogs: '", path.native(), "' has the MD5 sum ", actual,
              "; expected ", expected, "; it is damaged or another file");
}

/// The paths in the list `name`, read from `root` or from `lists.tar` there.
inline std::vector<std::string> read_dogs_list(const std::filesystem::path& root,
                                               const std::string& name) {
  std::error_code error;
  if (std::filesystem::exists(root / name, error)) {
    return read_matlab_texts(root / name, "file_list");
  }
  const auto archive = root / "lists.tar";
  constexpr uint64_t largest = uint64_t{1} << 26U;
  const auto members =
      read_archive(archive, largest, [&](const auto& path) { return path == name; });
  TORCH_CHECK(!members.empty(), "Stanford Dogs: ", archive_name(archive), " has no member '", name,
              "'");
  // matio reads files only.
  struct Temporary {
    std::string path = (std::filesystem::temp_directory_path() / "bsconv-list-XXXXXX").native();
    int descriptor = ::mkstemp(path.data());
    ~Temporary() {
      if (descriptor >= 0) {
        ::close(descriptor);
        ::unlink(path.c_str());
      }
    }
  } const temporary;
  TORCH_CHECK(temporary.descriptor >= 0, "cannot make the temporary file '", temporary.path, "'");
  const auto& bytes = members.begin()->second;
  std::ofstream file(temporary.path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  TORCH_CHECK(file.flush(), "cannot write the temporary file '", temporary.path, "'");
  return read_matlab_texts(temporary.path, "file_list");
}

/// The class of an image: its file name up to the first "_".
inline std::string dogs_class(const std::string& path) {
  const auto name = std::filesystem::path(path).filename().native();
  const auto end = name.find('_');
  TORCH_CHECK(end != std::string::npos && end > 0, "Stanford Dogs: the file name of '", path,
              "' has no class: it must look like n02085620_7.jpg");
  return name.substr(0, end);
}

/// The images of the archive, whose members lie below `Images/`.
class DogsArchive : public TarStore {
 public:
  using TarStore::TarStore;
  bool contains(const std::string& path) const override {
    return TarStore::contains("Images/" + path);
  }
  std::vector<uint8_t> read(const std::string& path) const override {
    return TarStore::read("Images/" + path);
  }
  std::string full_name(const std::string& path) const override {
    return TarStore::full_name("Images/" + path);
  }
};

}  // namespace detail

/// Stanford Dogs: photographs of 120 breeds, 12000 to train on and 8580 to test.
///
/// `root` holds `Images/`, `train_list.mat` and `test_list.mat`, or the official `images.tar` and
/// `lists.tar`, which are checked by their MD5 sums and read in place; what is unpacked comes
/// first. An image's class is its file name up to the first "_"; classes are sorted by name.
///
/// Throws `c10::Error` if something is missing, a sum is wrong, the counts differ from those of
/// `options`, a path leaves `Images/` or an image is listed twice.
/// Source: Khosla et al., "Novel Dataset for Fine-Grained Image Categorization", FGVC 2011.
inline FileDataset load_stanford_dogs(const std::filesystem::path& root, Split split,
                                      const StanfordDogsOptions& options = {}) {
  std::error_code error;
  const auto exists = [&](const char* name) { return std::filesystem::exists(root / name, error); };
  const bool lists = exists("train_list.mat") && exists("test_list.mat");
  TORCH_CHECK(lists || exists("lists.tar"),
              "Stanford Dogs: there are neither 'train_list.mat' and 'test_list.mat' nor "
              "'lists.tar' in '",
              root.native(), "'");
  TORCH_CHECK(exists("Images") || exists("images.tar"),
              "Stanford Dogs: there is neither 'Images' nor 'images.tar' in '", root.native(), "'");
  if (!lists) {
    detail::check_md5(root / "lists.tar", options.lists_md5());
  }

  const std::array<std::vector<std::string>, 2> paths = {
      detail::read_dogs_list(root, "train_list.mat"),
      detail::read_dogs_list(root, "test_list.mat")};
  const std::array<int64_t, 2> counts = {options.train_images(), options.test_images()};
  std::set<std::string> classes;
  std::set<std::string> seen;
  for (std::size_t part = 0; part < paths.size(); ++part) {
    TORCH_CHECK(static_cast<int64_t>(paths[part].size()) == counts[part], "Stanford Dogs: '",
                part == 0 ? "train" : "test", "_list.mat' lists ", paths[part].size(),
                " images; expected ", counts[part]);
    for (const auto& path : paths[part]) {
      detail::check_path_inside(path, "Stanford Dogs");
      TORCH_CHECK(seen.insert(path).second, "Stanford Dogs: '", path, "' is listed twice");
      classes.insert(detail::dogs_class(path));
    }
  }
  TORCH_CHECK(static_cast<int64_t>(classes.size()) == options.classes(),
              "Stanford Dogs: the lists have ", classes.size(), " classes; expected ",
              options.classes());

  std::shared_ptr<const FileStore> store;
  if (exists("Images")) {
    store = std::make_shared<DirectoryStore>(root / "Images");
  } else {
    detail::check_md5(root / "images.tar", options.images_md5());
    store = std::make_shared<detail::DogsArchive>(root / "images.tar");
  }
  std::vector<FileRecord> records;
  for (const auto& path : paths[split == Split::train ? 0 : 1]) {
    TORCH_CHECK(store->contains(path), "Stanford Dogs: ", store->full_name(path),
                " is listed but missing");
    const auto label = std::distance(classes.begin(), classes.find(detail::dogs_class(path)));
    records.push_back({path, label});
  }
  return {std::move(store), std::move(records), {classes.begin(), classes.end()}};
}

}  // namespace bsconv::data
