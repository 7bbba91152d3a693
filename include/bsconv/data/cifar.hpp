// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <ios>
#include <istream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>
#include <torch/types.h>

#include <bsconv/data/class_names.hpp>
#include <bsconv/data/dataset.hpp>
#include <bsconv/util/regular_file.hpp>

namespace bsconv::data {

namespace detail {

/// One of the two CIFAR sets in its official binary layout.
struct CifarLayout {
  std::string name;
  /// The directory the official archive unpacks to.
  std::string directory;
  /// The official archive.
  std::string archive;
  std::vector<std::string> train_files;
  std::vector<std::string> test_files;
  int64_t train_records_per_file;
  int64_t test_records_per_file;
  /// The valid number of values of each label byte; the last label byte is the one used.
  std::vector<int64_t> label_counts;
  std::string names_file;
};

inline const CifarLayout& cifar10_layout() {
  static const CifarLayout layout{"CIFAR-10",
                                  "cifar-10-batches-bin",
                                  "cifar-10-binary.tar.gz",
                                  {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                   "data_batch_4.bin", "data_batch_5.bin"},
                                  {"test_batch.bin"},
                                  10000,
                                  10000,
                                  {10},
                                  "batches.meta.txt"};
  return layout;
}

inline const CifarLayout& cifar100_layout() {
  static const CifarLayout layout{"CIFAR-100",   "cifar-100-binary", "cifar-100-binary.tar.gz",
                                  {"train.bin"}, {"test.bin"},       50000,
                                  10000,         {20, 100},          "fine_label_names.txt"};
  return layout;
}

inline constexpr int64_t cifar_image_bytes = int64_t{3} * 32 * 32;

/// The directory with the files: `root` itself or the official archive's directory in it.
inline std::filesystem::path find_cifar_directory(const std::filesystem::path& root,
                                                  const CifarLayout& layout, Split split) {
  const auto& files = split == Split::train ? layout.train_files : layout.test_files;
  const auto nested = root / layout.directory;
  for (const auto& candidate : {root, nested}) {
    std::error_code error;
    if (std::filesystem::exists(candidate / files.front(), error)) {
      return candidate;
    }
  }
  TORCH_CHECK(false, layout.name, ": no file '", files.front(), "' in '", root.native(), "' or '",
              nested.native(), "'; the data root must be the directory of the binary ",
              "version's files, or the one that holds '", layout.directory, "'");
}

/// Throws unless a file of `actual` bytes holds exactly `records` records.
inline void check_cifar_size(uint64_t actual, int64_t records, int64_t label_bytes,
                             const std::string& set_name, const std::string& file) {
  const int64_t record_bytes = label_bytes + cifar_image_bytes;
  TORCH_CHECK(actual == static_cast<uint64_t>(records * record_bytes), set_name, ": '", file,
              "' has ", actual, " bytes; expected ", records * record_bytes, " (", records,
              " records of ", record_bytes, " bytes)");
}

/// Reads exactly `records` records, the bytes of `file`, to `images` [records, 3, 32, 32] and
/// `labels`.
inline void read_cifar_records(std::istream& stream, const std::string& file,
                               const std::string& set_name, int64_t records,
                               const std::vector<int64_t>& label_counts, uint8_t* images,
                               int64_t* labels) {
  const auto label_bytes = static_cast<int64_t>(label_counts.size());
  std::vector<char> record(static_cast<std::size_t>(label_bytes + cifar_image_bytes));
  for (int64_t i = 0; i < records; ++i) {
    TORCH_CHECK(stream.read(record.data(), static_cast<std::streamsize>(record.size())), set_name,
                ": cannot read record ", i, " of '", file, "'");
    int64_t label = 0;
    for (int64_t byte = 0; byte < label_bytes; ++byte) {
      label = static_cast<uint8_t>(record[static_cast<std::size_t>(byte)]);
      const int64_t count = label_counts[static_cast<std::size_t>(byte)];
      TORCH_CHECK(label < count, set_name, ": record ", i, " of '", file, "' has ",
                  label_bytes == 1 ? "" : (byte == 0 ? "coarse " : "fine "), "label ", label,
                  "; valid labels are 0 to ", count - 1);
    }
    labels[i] = label;
    std::memcpy(images + i * cifar_image_bytes, record.data() + label_bytes,
                static_cast<std::size_t>(cifar_image_bytes));
  }
}

/// Opens a file of the set. Throws if it is no regular file, whose reading might never end.
inline std::ifstream open_cifar_file(const std::filesystem::path& path,
                                     const std::string& set_name) {
  bsconv::detail::check_regular_file(path, c10::str(set_name, ": '", path.native(), "'"));
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  TORCH_CHECK(file.is_open(), set_name, ": cannot open '", path.native(),
              "': ", std::generic_category().message(errno));
  return file;
}

/// Reads exactly `records` records of `path` to `images` [records, 3, 32, 32] and `labels`.
inline void read_cifar_file(const std::filesystem::path& path, const std::string& set_name,
                            int64_t records, const std::vector<int64_t>& label_counts,
                            uint8_t* images, int64_t* labels) {
  auto file = open_cifar_file(path, set_name);
  std::error_code error;
  const auto actual = std::filesystem::file_size(path, error);
  TORCH_CHECK(!error, set_name, ": cannot read '", path.native(), "': ", error.message());
  check_cifar_size(actual, records, static_cast<int64_t>(label_counts.size()), set_name,
                   path.native());
  read_cifar_records(file, path.native(), set_name, records, label_counts, images, labels);
}

/// The class names, one a line.
inline std::vector<std::string> parse_class_names(std::istream& stream, const std::string& file,
                                                  const std::string& set_name, int64_t count) {
  std::vector<std::string> names;
  for (std::string line; std::getline(stream, line);) {
    if (!line.empty() && line.back() == '\r') {
      line.pop_back();
    }
    if (!line.empty()) {
      names.push_back(line);
    }
  }
  TORCH_CHECK(static_cast<int64_t>(names.size()) == count, set_name, ": '", file, "' has ",
              names.size(), " class names; expected ", count);
  return names;
}

/// The class names in a file, or numbered ones if it does not exist. Throws if it is no regular
/// file.
inline std::vector<std::string> read_class_names(const std::filesystem::path& path,
                                                 const std::string& set_name, int64_t count) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return numbered_class_names(count);
  }
  auto file = open_cifar_file(path, set_name);
  return parse_class_names(file, path.native(), set_name, count);
}

inline ImageDataset load_cifar(const std::filesystem::path& root, const CifarLayout& layout,
                               Split split) {
  const auto directory = find_cifar_directory(root, layout, split);
  const auto& files = split == Split::train ? layout.train_files : layout.test_files;
  const int64_t records =
      split == Split::train ? layout.train_records_per_file : layout.test_records_per_file;
  const int64_t total = records * static_cast<int64_t>(files.size());
  auto images = torch::empty({total, 3, 32, 32}, torch::kByte);
  auto labels = torch::empty({total}, torch::kLong);
  int64_t first = 0;
  for (const auto& file : files) {
    read_cifar_file(directory / file, layout.name, records, layout.label_counts,
                    images.data_ptr<uint8_t>() + first * cifar_image_bytes,
                    labels.data_ptr<int64_t>() + first);
    first += records;
  }
  return {std::move(images), std::move(labels),
          read_class_names(directory / layout.names_file, layout.name, layout.label_counts.back())};
}

}  // namespace detail

/// CIFAR-10 in its official binary layout: images [50000 or 10000, 3, 32, 32] of 10 classes.
///
/// `root` is the directory of `data_batch_1.bin` … `test_batch.bin`, or the one that holds the
/// archive's `cifar-10-batches-bin`. Throws `c10::Error` that names the file where one is missing,
/// has another size than the official one, or holds a label out of range.
/// Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
inline ImageDataset load_cifar10(const std::filesystem::path& root, Split split) {
  return detail::load_cifar(root, detail::cifar10_layout(), split);
}

/// CIFAR-100 in its official binary layout with its fine labels: images
/// [50000 or 10000, 3, 32, 32] of 100 classes.
///
/// `root` is the directory of `train.bin` and `test.bin`, or the one that holds the archive's
/// `cifar-100-binary`. Errors as for `load_cifar10`.
inline ImageDataset load_cifar100(const std::filesystem::path& root, Split split) {
  return detail::load_cifar(root, detail::cifar100_layout(), split);
}

}  // namespace bsconv::data
