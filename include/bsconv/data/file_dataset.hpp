// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <torch/types.h>

#include <bsconv/data/file_bytes.hpp>

namespace bsconv::data {

/// Files that are read by name from several threads at once: a directory's, or an archive's.
class FileStore {
 public:
  FileStore() = default;
  FileStore(const FileStore&) = delete;
  FileStore& operator=(const FileStore&) = delete;
  virtual ~FileStore() = default;

  /// Whether there is such a file.
  virtual bool contains(const std::string& path) const = 0;
  /// The bytes of a file. Throws `c10::Error` with its full name.
  virtual std::vector<uint8_t> read(const std::string& path) const = 0;
  /// What messages call a file.
  virtual std::string full_name(const std::string& path) const = 0;
};

namespace detail {

/// Throws unless `path` is relative and stays below the folder it starts from.
inline void check_path_inside(const std::string& path, const std::string& origin) {
  const std::filesystem::path parts(path);
  bool climbs = path.empty() || parts.is_absolute() || path.find('\0') != std::string::npos;
  for (const auto& part : parts) {
    climbs = climbs || part == "..";
  }
  TORCH_CHECK(!climbs, origin, ": the path '", path,
              "' leaves the data set's folder; paths must be relative, without '..'");
}

}  // namespace detail

/// The files below a directory.
class DirectoryStore : public FileStore {
 public:
  /// `root` is the directory that paths start from.
  explicit DirectoryStore(std::filesystem::path root) : root_(std::move(root)) {}

  bool contains(const std::string& path) const override {
    std::error_code error;
    return std::filesystem::is_regular_file(root_ / path, error);
  }
  std::vector<uint8_t> read(const std::string& path) const override {
    return detail::read_bytes(root_ / path, full_name(path));
  }
  std::string full_name(const std::string& path) const override {
    std::string name = "image '";
    name += (root_ / path).native();
    name += '\'';
    return name;
  }

 private:
  std::filesystem::path root_;
};

/// An image file and its class.
struct FileRecord {
  /// Path in the store.
  std::string path;
  /// The class, from 0.
  int64_t label = 0;
};

/// Labeled image files of any size, read when they are needed.
class FileDataset {
 public:
  /// Takes the records and the classes' names in the order of the labels. Throws `c10::Error` if
  /// there is no record, or one has a path that leaves the store or a label out of range.
  FileDataset(std::shared_ptr<const FileStore> store, std::vector<FileRecord> records,
              std::vector<std::string> class_names)
      : store_(std::move(store)),
        records_(std::move(records)),
        class_names_(std::move(class_names)) {
    TORCH_CHECK(store_ != nullptr, "a data set of files needs a store");
    TORCH_CHECK(!records_.empty(), "a data set of files needs at least one file");
    for (const auto& record : records_) {
      detail::check_path_inside(record.path, "a data set of files");
      TORCH_CHECK(record.label >= 0 && record.label < num_classes(), store_->full_name(record.path),
                  " has label ", record.label, "; valid labels are 0 to ", num_classes() - 1);
    }
  }

  /// The files, in order.
  const std::vector<FileRecord>& records() const noexcept { return records_; }
  /// The classes' names, in the order of the labels.
  const std::vector<std::string>& class_names() const noexcept { return class_names_; }
  /// How many files there are.
  int64_t size() const noexcept { return static_cast<int64_t>(records_.size()); }
  /// How many classes there are.
  int64_t num_classes() const noexcept { return static_cast<int64_t>(class_names_.size()); }
  /// The bytes of file `index`. Called from several threads at once.
  std::vector<uint8_t> read(int64_t index) const { return store_->read(record(index).path); }
  /// What messages call file `index`.
  std::string full_name(int64_t index) const { return store_->full_name(record(index).path); }
  /// The class of file `index`.
  int64_t label(int64_t index) const { return record(index).label; }

 private:
  const FileRecord& record(int64_t index) const {
    return records_.at(static_cast<std::size_t>(index));
  }

  std::shared_ptr<const FileStore> store_;
  std::vector<FileRecord> records_;
  std::vector<std::string> class_names_;
};

}  // namespace bsconv::data
