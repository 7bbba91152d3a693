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
/// as it is, also if the process is killed. A file that is replaced hands its permissions on, one
/// that may not be written is refused, and a symbolic link stays one: what it points to is written.
/// An object destroyed without `commit()` removes the partial file. A partial file left by a killed
/// process is overwritten by the next writer; a second writer of the same path at the same time is
/// refused.
///
/// Every failure throws `c10::Error` with the path and the system's reason.
class AtomicFile {
 public:
  /// Opens `PATH.partial` for writing. `path` must name a regular file or nothing, in a directory
  /// that exists.
  explicit AtomicFile(std::filesystem::path path)
      : path_(std::move(path)),
        target_(end_of_links(path_)),
        partial_(target_.native() + ".partial") {
    std::error_code error;
    const auto status = std::filesystem::status(path_, error);
    if (status.type() == std::filesystem::file_type::none) {
      fail(error.value());
    }
    const bool replaces = std::filesystem::exists(status);
    TORCH_CHECK(!replaces || std::filesystem::is_regular_file(status), "cannot write '",
                path_.native(), "': it exists and is not a regular file");
    TORCH_CHECK(target_.has_filename(), "cannot write '", path_.native(), "': it names no file");
    if (replaces && ::faccessat(AT_FDCWD, target_.c_str(), W_OK, AT_EACCESS) != 0) {
      fail(errno);
    }
    open_partial();
    if (replaces) {
      take_permissions();
    }
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
    if (::rename(partial_.c_str(), target_.c_str()) != 0) {
      fail(errno);
    }
    ::close(std::exchange(descriptor_, -1));
    sync_directory();
  }

  /// The name the file will have.
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  /// What `path` names in the end, which need not exist.
  static std::filesystem::path end_of_links(std::filesystem::path path) {
    std::error_code error;
    // More in a row are a circle, as for the system.
    for (int links = 0; links < 40 && std::filesystem::is_symlink(path, error); ++links) {
      const auto next = std::filesystem::read_symlink(path, error);
      if (error) {
        break;
      }
      path = path.parent_path() / next;
    }
    return path;
  }

  void take_permissions() {
    struct stat old {};
    struct stat made {};
    if (::stat(target_.c_str(), &old) != 0 || ::fstat(descriptor_, &made) != 0) {
      return;
    }
    mode_t mode = old.st_mode & 0777U;
    const bool same = made.st_uid == old.st_uid && made.st_gid == old.st_gid;
    // Only root may give a file to another owner.
    if (!same && ::fchown(descriptor_, old.st_uid, old.st_gid) != 0 &&
        ::fchown(descriptor_, static_cast<uid_t>(-1), old.st_gid) != 0) {
      // Another group gets only what all were allowed.
      const mode_t all = mode & (mode >> 3U) & 07U;
      mode = (mode & 0700U) | (all << 3U) | all;
    }
    // Some file systems have no permissions.
    (void)::fchmod(descriptor_, mode);
  }

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
    const auto parent =
        target_.has_parent_path() ? target_.parent_path() : std::filesystem::path(".");
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
  std::filesystem::path target_;
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
