// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <string>
#include <system_error>
#include <vector>

#include <torch/types.h>

namespace bsconv::data::detail {

/// The bytes of a file; the error starts with `origin`.
inline std::vector<uint8_t> read_bytes(const std::filesystem::path& path,
                                       const std::string& origin) {
  std::error_code error;
  const auto found = std::filesystem::status(path, error);
  TORCH_CHECK(found.type() != std::filesystem::file_type::not_found, origin, " does not exist");
  TORCH_CHECK(found.type() != std::filesystem::file_type::none, origin,
              " cannot be read: ", error.message());
  TORCH_CHECK(std::filesystem::is_regular_file(found), origin, " is not a regular file");
  const auto size = std::filesystem::file_size(path, error);
  TORCH_CHECK(!error, origin, " cannot be read: ", error.message());
  std::ifstream file(path, std::ios::binary);
  std::vector<uint8_t> bytes(size);
  TORCH_CHECK(file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size)),
              origin, " cannot be read");
  return bytes;
}

}  // namespace bsconv::data::detail
