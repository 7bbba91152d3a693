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

#include <bsconv/util/regular_file.hpp>

namespace bsconv::data::detail {

/// The bytes of a file; the error starts with `origin`.
inline std::vector<uint8_t> read_bytes(const std::filesystem::path& path,
                                       const std::string& origin) {
  bsconv::detail::check_regular_file(path, origin);
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  TORCH_CHECK(!error, origin, " cannot be read: ", error.message());
  std::ifstream file(path, std::ios::binary);
  std::vector<uint8_t> bytes(size);
  TORCH_CHECK(file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size)),
              origin, " cannot be read");
  return bytes;
}

}  // namespace bsconv::data::detail
