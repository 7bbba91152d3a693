// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include <archive.h>
#include <archive_entry.h>
#include <torch/types.h>

#include <bsconv/data/file_dataset.hpp>

// This header needs libarchive, so it is not part of <bsconv/data.hpp>.

namespace bsconv::data {

namespace detail {

struct CloseArchive {
  void operator()(::archive* archive) const { archive_read_free(archive); }
};
using ArchiveHandle = std::unique_ptr<::archive, CloseArchive>;

/// Throws with libarchive's message unless `code` is that of success.
inline void check_archive(::archive* archive, int code, const std::string& origin) {
  if (code != ARCHIVE_OK) {
    const char* message = archive_error_string(archive);
    TORCH_CHECK(false, origin, " cannot be read: ", message == nullptr ? "unknown" : message);
  }
}

/// A reader of tar archives, compressed with gzip, bzip2, xz, zstd or not. Other filters of
/// libarchive start external programs, which no data set needs.
inline ArchiveHandle new_archive_reader(const std::string& origin) {
  ArchiveHandle archive(archive_read_new());
  TORCH_CHECK(archive != nullptr, origin, ": out of memory");
  check_archive(archive.get(), archive_read_support_format_tar(archive.get()), origin);
  for (const auto support : {&archive_read_support_filter_gzip, &archive_read_support_filter_bzip2,
                             &archive_read_support_filter_xz, &archive_read_support_filter_zstd}) {
    // A warning says that this libarchive was built without the library.
    support(archive.get());
  }
  return archive;
}

/// The next member that is a regular file, without "./" in front of its path; null at the end.
/// Throws if a path leaves the archive's folder.
inline archive_entry* next_archive_file(::archive* archive, const std::string& origin,
                                        std::string& path) {
  archive_entry* entry = nullptr;
  while (true) {
    const int code = archive_read_next_header(archive, &entry);
    if (code == ARCHIVE_EOF) {
      return nullptr;
    }
    // A warning is about a name or attribute beyond the locale's characters.
    check_archive(archive, code == ARCHIVE_WARN ? ARCHIVE_OK : code, origin);
    const char* name = archive_entry_pathname(entry);
    TORCH_CHECK(name != nullptr, origin, " has a member without a readable name");
    check_path_inside(name, origin);
    if (archive_entry_filetype(entry) == AE_IFREG && archive_entry_hardlink(entry) == nullptr) {
      path = std::filesystem::path(name).lexically_normal().native();
      return entry;
    }
  }
}

/// The data of the present member, which may have up to `largest` bytes.
inline std::vector<uint8_t> read_archive_data(::archive* archive, archive_entry* entry,
                                              uint64_t largest, const std::string& origin) {
  // A size is taken for true only as far as there is data.
  constexpr std::size_t step = std::size_t{1} << 20U;
  const auto size = static_cast<std::size_t>(archive_entry_size(entry));
  TORCH_CHECK(size <= largest, origin, " would have ", size, " bytes; at most ", largest,
              " are expected");
  std::vector<uint8_t> bytes;
  while (bytes.size() < size) {
    const auto filled = bytes.size();
    bytes.resize(filled + std::min(step, size - filled));
    const auto got = archive_read_data(archive, bytes.data() + filled, bytes.size() - filled);
    TORCH_CHECK(got >= 0, origin, " cannot be read: ", archive_error_string(archive));
    TORCH_CHECK(got > 0, origin, " is cut short");
    bytes.resize(filled + static_cast<std::size_t>(got));
  }
  return bytes;
}

inline std::string archive_name(const std::filesystem::path& path) {
  std::string name = "archive '";
  name += path.native();
  name += '\'';
  return name;
}

}  // namespace detail

/// Reads the members of a tar archive, compressed or not, for which `wanted` says so, in one pass.
///
/// The result maps paths, without "./" in front, to bytes. Throws `c10::Error` that names the
/// archive if it cannot be read, a member's path leaves its folder, or a wanted member has more
/// than `largest` bytes: a few compressed ones may stand for any number.
inline std::unordered_map<std::string, std::vector<uint8_t>> read_archive(
    const std::filesystem::path& path, uint64_t largest,
    const std::function<bool(const std::string&)>& wanted) {
  const auto origin = detail::archive_name(path);
  const auto archive = detail::new_archive_reader(origin);
  detail::check_archive(archive.get(),
                        archive_read_open_filename(archive.get(), path.c_str(), 1 << 18), origin);
  std::unordered_map<std::string, std::vector<uint8_t>> result;
  std::string name;
  while (auto* entry = detail::next_archive_file(archive.get(), origin, name)) {
    if (wanted(name)) {
      result[name] = detail::read_archive_data(archive.get(), entry, largest,
                                               c10::str(origin, ", member '", name, "',"));
    }
  }
  return result;
}

/// The files of an uncompressed tar archive, read in place by several threads at once. Opening it
/// reads the headers only.
class TarStore : public FileStore {
 public:
  /// Throws `c10::Error` that names the archive if it cannot be read, is compressed, or has a
  /// member whose path leaves its folder.
  explicit TarStore(const std::filesystem::path& path)
      : origin_(detail::archive_name(path)), path_(path.native()) {
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    TORCH_CHECK(descriptor_ >= 0, origin_,
                " cannot be opened: ", std::generic_category().message(errno));
    try {
      index();
    } catch (...) {
      ::close(descriptor_);
      throw;
    }
  }
  ~TarStore() override { ::close(descriptor_); }

  bool contains(const std::string& path) const override { return members_.count(path) > 0; }

  std::vector<uint8_t> read(const std::string& path) const override {
    // Not what a class derived from this one calls it: `path` is a member's.
    const auto name = TarStore::full_name(path);
    const auto found = members_.find(path);
    TORCH_CHECK(found != members_.end(), name, " does not exist");
    const auto [begin, end] = found->second;
    std::vector<uint8_t> block(static_cast<std::size_t>(end - begin));
    std::size_t filled = 0;
    while (filled < block.size()) {
      const auto got = ::pread(descriptor_, block.data() + filled, block.size() - filled,
                               static_cast<off_t>(begin) + static_cast<off_t>(filled));
      if (got < 0 && errno == EINTR) {
        continue;
      }
      TORCH_CHECK(got >= 0, name, " cannot be read: ", std::generic_category().message(errno));
      TORCH_CHECK(got > 0, name, " is cut short");
      filled += static_cast<std::size_t>(got);
    }
    // The member's header and data are a small archive of their own.
    const auto archive = detail::new_archive_reader(name);
    detail::check_archive(
        archive.get(), archive_read_open_memory(archive.get(), block.data(), block.size()), name);
    std::string member;
    auto* entry = detail::next_archive_file(archive.get(), name, member);
    TORCH_CHECK(entry != nullptr && member == path, name,
                ": the archive changed since it was opened");
    // Only a sparse member could have more data than its block.
    return detail::read_archive_data(archive.get(), entry, block.size(), name);
  }

  std::string full_name(const std::string& path) const override {
    std::string name = "image '";
    name += path_;
    name += '/';
    name += path;
    name += '\'';
    return name;
  }

  /// How many files it has.
  int64_t size() const noexcept { return static_cast<int64_t>(members_.size()); }

 private:
  void index() {
    const auto archive = detail::new_archive_reader(origin_);
    detail::check_archive(archive.get(), archive_read_open_fd(archive.get(), descriptor_, 1 << 16),
                          origin_);
    std::string previous;
    std::string name;
    int64_t begin = 0;
    const auto finish = [&](int64_t end) {
      if (!previous.empty()) {
        members_[previous] = {begin, end};
      }
    };
    while (detail::next_archive_file(archive.get(), origin_, name) != nullptr) {
      TORCH_CHECK(archive_filter_count(archive.get()) == 1, origin_,
                  " is compressed, and cannot be read in place; unpack it, or make it a plain tar");
      const int64_t position = archive_read_header_position(archive.get());
      finish(position);
      begin = position;
      previous = name;
    }
    std::error_code error;
    finish(static_cast<int64_t>(std::filesystem::file_size(path_, error)));
    TORCH_CHECK(!error, origin_, " cannot be read: ", error.message());
  }

  std::string origin_;
  std::string path_;
  int descriptor_ = -1;
  /// Where each member's header begins and where the next one's does.
  std::unordered_map<std::string, std::pair<int64_t, int64_t>> members_;
};

}  // namespace bsconv::data
