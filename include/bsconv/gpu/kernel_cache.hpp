// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <unistd.h>

#include <c10/util/Exception.h>
#include <c10/util/hash.h>
#include <bsconv/weights/atomic_file.hpp>

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <random>
#include <string>
#include <utility>

namespace bsconv::gpu {

/// Machine code of kernels, kept in files: a program compiles the kernels of a network only the
/// first time it runs. Several processes may share a folder.
class KernelCache {
 public:
  /// Files in `folder`, made when it is first needed; nothing is kept if it is empty.
  explicit KernelCache(std::filesystem::path folder = default_folder())
      : folder_(std::move(folder)) {}

  /// `BSCONV_KERNEL_CACHE` of the environment, where empty means none; otherwise `bsconv/kernels`
  /// in the user's folder for such files, `XDG_CACHE_HOME` or `~/.cache`.
  static std::filesystem::path default_folder() {
    if (const char* chosen = std::getenv("BSCONV_KERNEL_CACHE"); chosen != nullptr) {
      return chosen;
    }
    if (const char* caches = std::getenv("XDG_CACHE_HOME"); caches != nullptr && *caches == '/') {
      return std::filesystem::path(caches) / "bsconv" / "kernels";
    }
    if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') {
      return std::filesystem::path(home) / ".cache" / "bsconv" / "kernels";
    }
    return {};
  }

  /// Where files are kept; empty if none are.
  const std::filesystem::path& folder() const noexcept { return folder_; }

  /// What `compile()` makes of `source`, or has made of it before. `compiler` names the compiler,
  /// its version, its options and what it compiles for. A file that can't be written is warned of
  /// once, one that is damaged is replaced.
  template <class Compile>
  std::string get(const std::string& compiler, const std::string& source, Compile&& compile) const {
    if (folder_.empty()) {
      return std::forward<Compile>(compile)();
    }
    const auto path = folder_ / (digest(compiler + '\n' + source) + ".kernels");
    if (auto kept = read(path)) {
      return std::move(*kept);
    }
    auto code = std::forward<Compile>(compile)();
    try {
      std::filesystem::create_directories(folder_);
      // Processes and threads that start together compile the same kernels.
      const std::filesystem::path own = path.native() + '.' + std::to_string(::getpid()) + '.' +
                                        std::to_string(std::random_device()());
      weights::write_text_file(own, digest(code) + '\n' + code);
      std::filesystem::rename(own, path);
    } catch (const std::exception& error) {
      const auto* known = dynamic_cast<const c10::Error*>(&error);
      TORCH_WARN_ONCE("compiled kernels are not kept for the next run: ",
                      known != nullptr ? known->what_without_backtrace() : error.what(),
                      "; BSCONV_KERNEL_CACHE names another folder, or none if it is empty");
    }
    return code;
  }

 private:
  static std::string digest(const std::string& bytes) { return c10::sha1(bytes).str(); }

  // What a file holds behind the digest of it.
  static std::optional<std::string> read(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::string expected;
    if (!std::getline(file, expected)) {
      return std::nullopt;
    }
    std::string code{std::istreambuf_iterator<char>(file), {}};
    if (code.empty() || digest(code) != expected) {
      return std::nullopt;
    }
    return code;
  }

  std::filesystem::path folder_;
};

}  // namespace bsconv::gpu
