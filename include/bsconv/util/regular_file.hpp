// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include <c10/util/Exception.h>

namespace bsconv::detail {

/// Throws `c10::Error` that starts with `origin`, such as "image 'a'", if there is no regular file
/// at `path`.
inline void check_regular_file(const std::filesystem::path& path, const std::string& origin) {
  std::error_code error;
  const auto found = std::filesystem::status(path, error);
  TORCH_CHECK(found.type() != std::filesystem::file_type::not_found, origin, " does not exist");
  TORCH_CHECK(found.type() != std::filesystem::file_type::none, origin,
              " cannot be read: ", error.message());
  TORCH_CHECK(std::filesystem::is_regular_file(found), origin, " is not a regular file");
}

/// The regular file at `path` for reading; one that is not open if there is none. Opening a pipe
/// would wait for its writer.
inline std::ifstream open_regular_file(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) ? std::ifstream(path, std::ios::binary)
                                                       : std::ifstream();
}

}  // namespace bsconv::detail
