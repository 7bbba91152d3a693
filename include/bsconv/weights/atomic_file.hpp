// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <c10/util/Exception.h>

namespace bsconv::weights {

/// A file that appears under its name complete or not at all.
///
/// Bytes go to `PATH.partial` in the same directory; `commit()` flushes them to the disk, renames
/// the file to `PATH` and flushes the directory. Until then, whatever stood at `PATH` before stays
/// as it is, also if the process is killed. An object destroyed without `commit()` removes the
/// partial file. A partial file left by a killed process is overwritten by the next writer; a
/// second writer of the same path at the same time is refused.
///
/// Every failure throws `c10::Error` with the path and the system's reason.
class AtomicFile {
 public:
  /// Opens `PATH.partial` for writing. `path` must name a regular file or nothing, in a directory
  /// that exists.
  explicit AtomicFile(std::filesystem::path path)
      : path_(std::move(path)), partial_(path_.native() + ".partial") {
    std::error_code error;
    const auto status = std::filesystem::status(path_, error);
    TORCH_CHECK(!std::filesystem::exists(status) || std::filesystem::is_regular_file(status),
                "cannot write '", path_.native(), "': it exists and is not a regular file");
    TORCH_CHECK(path_.has_filename(), "cannot write '", path_.native(), "': it names no file");
    open_partial();
  }

  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Removes the partial file unless `commit()` succeeded.
  ~AtomicFile() { discard(); }

  /// Appends `size` bytes.
  void write(const void* bytes, std::size_t size) {
    TORCH_CHECK(descriptor_ >= 0, "cannot write '", path_.native(), "': it is already committed");
    constexpr std::size_t largest_write = std::size_t{1} << 30;
    const char* next = static_cast<const char*>(bytes);
    while (size > 0) {
      const ssize_t written = ::write(descriptor_, next, std::min(size, largest_write));
      if (written < 0) {
        if (errno == EINTR) {
          continue;
        }
        fail(errno);
      }
      next += written;
      size -= static_cast<std::size_t>(written);
    }
  }

  /// Appends `text`.
  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Makes everything written so far visible under `path()`, replacing what was there.
  void commit() {
    TORCH_CHECK(descriptor_ >= 0, "cannot write '", path_.native(), "': it is already committed");
    if (::fsync(descriptor_) != 0) {
      fail(errno);
    }
    if (::rename(partial_.c_str(), path_.c_str()) != 0) {
      fail(errno);
    }
    ::close(std::exchange(descriptor_, -1));
    sync_directory();
  }

  /// The name the file will have.
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  void open_partial() {
    for (int attempt = 0; attempt < 100; ++attempt) {
      descriptor_ =
          ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
      if (descriptor_ < 0) {
        fail(errno);
      }
      // Some network file systems have no locks; the renaming doesn't need them.
      if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        ::close(std::exchange(descriptor_, -1));
        TORCH_CHECK(false, "cannot write '", path_.native(), "': another process is writing it");
      }
      // The file may have been renamed by its previous writer between open and flock.
      struct stat opened {};
      struct stat named {};
      if (::fstat(descriptor_, &opened) == 0 && ::stat(partial_.c_str(), &named) == 0 &&
          opened.st_ino == named.st_ino && opened.st_dev == named.st_dev) {
        if (::ftruncate(descriptor_, 0) != 0) {
          fail(errno);
        }
        return;
      }
      ::close(std::exchange(descriptor_, -1));
    }
    TORCH_CHECK(false, "cannot write '", path_.native(), "': another process is writing it");
  }

  void sync_directory() const {
    const auto parent = path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".");
    const int directory = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
      return;
    }
    // Some file systems refuse fsync on a directory; the rename itself has succeeded.
    (void)::fsync(directory);
    ::close(directory);
  }

  void discard() noexcept {
    if (descriptor_ >= 0) {
      ::unlink(partial_.c_str());
      ::close(std::exchange(descriptor_, -1));
    }
  }

  [[noreturn]] void fail(int reason) {
    discard();
    TORCH_CHECK(false, "cannot write '", path_.native(),
                "': ", std::generic_category().message(reason));
  }

  std::filesystem::path path_;
  std::filesystem::path partial_;
  int descriptor_ = -1;
};

/// Writes `text` to `path` so that the file is complete or unchanged; see `AtomicFile`.
inline void write_text_file(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace bsconv::weights
