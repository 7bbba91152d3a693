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

#include <c10/util/Exception.h>
#include <openssl/evp.h>

// This header needs OpenSSL's libcrypto.

namespace bsconv {

namespace detail {

/// The digest of a file by an algorithm of OpenSSL, in lower-case hexadecimal digits.
inline std::string file_digest(const std::filesystem::path& path, const EVP_MD* algorithm) {
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  const std::unique_ptr<EVP_MD_CTX, Free> context(EVP_MD_CTX_new());
  TORCH_CHECK(context != nullptr && EVP_DigestInit_ex(context.get(), algorithm, nullptr) == 1,
              "this OpenSSL lacks a digest, so '", path.native(), "' cannot be checked");
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

}  // namespace detail

/// The MD5 sum of a file in lower-case hexadecimal digits. Throws `c10::Error` with the path if it
/// cannot be read.
inline std::string md5_of_file(const std::filesystem::path& path) {
  return detail::file_digest(path, EVP_md5());
}

/// The SHA-256 sum of a file in lower-case hexadecimal digits. Throws `c10::Error` with the path if
/// it cannot be read.
inline std::string sha256_of_file(const std::filesystem::path& path) {
  return detail::file_digest(path, EVP_sha256());
}

}  // namespace bsconv
