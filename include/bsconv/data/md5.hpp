// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <ios>
#include <memory>
#include <string>
#include <vector>

#include <openssl/evp.h>
#include <torch/types.h>

// This header needs OpenSSL's libcrypto, so it is not part of <bsconv/data.hpp>.

namespace bsconv::data {

/// The MD5 sum of a file in lower-case hexadecimal digits. Throws `c10::Error` with the path if it
/// cannot be read.
inline std::string md5_of_file(const std::filesystem::path& path) {
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  const std::unique_ptr<EVP_MD_CTX, Free> context(EVP_MD_CTX_new());
  TORCH_CHECK(context != nullptr && EVP_DigestInit_ex(context.get(), EVP_md5(), nullptr) == 1,
              "this OpenSSL has no MD5");
  std::ifstream file(path, std::ios::binary);
  TORCH_CHECK(file.is_open(), "cannot open '", path.native(), "'");
  std::vector<char> block(std::size_t{1} << 20U);
  while (file) {
    file.read(block.data(), static_cast<std::streamsize>(block.size()));
    EVP_DigestUpdate(context.get(), block.data(), static_cast<std::size_t>(file.gcount()));
  }
  TORCH_CHECK(file.eof(), "cannot read '", path.native(), "'");
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  EVP_DigestFinal_ex(context.get(), digest.data(), &size);
  static constexpr const char* digits = "0123456789abcdef";
  std::string result;
  for (unsigned int i = 0; i < size; ++i) {
    result += digits[digest[i] >> 4U];
    result += digits[digest[i] & 15U];
  }
  return result;
}

}  // namespace bsconv::data
