// SPDX-License-Identifier: BSD-3-Clause-Clear
// Archives and MATLAB lists for tests, written with libarchive and matio.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <archive.h>
#include <archive_entry.h>
#include <c10/util/Exception.h>
#include <matio.h>

namespace bsconv_test {

/// Path and bytes of a member.
using ArchiveMembers = std::vector<std::pair<std::string, std::string>>;

/// Writes a tar archive; gzip-compressed on request. A path that ends in "/" is a directory.
inline void write_archive(const std::filesystem::path& path, const ArchiveMembers& members,
                          bool gzip = false) {
  ::archive* archive = archive_write_new();
  if (gzip) {
    archive_write_add_filter_gzip(archive);
  }
  archive_write_set_format_pax_restricted(archive);
  TORCH_CHECK(archive_write_open_filename(archive, path.c_str()) == ARCHIVE_OK);
  for (const auto& [name, bytes] : members) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, name.c_str());
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_filetype(entry, name.back() == '/' ? AE_IFDIR : AE_IFREG);
    archive_entry_set_size(entry, static_cast<int64_t>(bytes.size()));
    TORCH_CHECK(archive_write_header(archive, entry) == ARCHIVE_OK, archive_error_string(archive));
    archive_write_data(archive, bytes.data(), bytes.size());
    archive_entry_free(entry);
  }
  TORCH_CHECK(archive_write_close(archive) == ARCHIVE_OK);
  archive_write_free(archive);
}

/// Writes a tar archive of one member, "hole", of 8 GB of which none is stored: GNU tar's old
/// sparse format.
inline void write_sparse_tar(const std::filesystem::path& path) {
  std::string header(512, '\0');
  const auto put = [&](std::size_t offset, const std::string& text) {
    header.replace(offset, text.size(), text);
  };
  put(0, "hole");
  put(100, "0000644");
  put(124, "00000000000");  // stored bytes
  put(156, "S");
  put(257, "ustar  ");
  put(386, "77777777777");  // the only segment: its offset, its size
  put(398, "00000000000");
  put(483, "77777777777");  // the size with all holes
  put(148, "        ");
  unsigned sum = 0;
  for (const char byte : header) {
    sum += static_cast<unsigned char>(byte);
  }
  std::string octal(6, '0');
  for (std::size_t digit = 6; digit-- > 0; sum /= 8) {
    octal[digit] = static_cast<char>('0' + sum % 8);
  }
  put(148, octal + std::string(1, '\0'));
  std::ofstream(path, std::ios::binary) << header << std::string(1024, '\0');
}

/// Writes a MATLAB 5 file with the N x 1 cell array `variable` of texts.
inline void write_matlab_texts(const std::filesystem::path& path, const std::string& variable,
                               const std::vector<std::string>& texts) {
  mat_t* file = Mat_CreateVer(path.c_str(), nullptr, MAT_FT_MAT5);
  TORCH_CHECK(file != nullptr);
  std::size_t cell_dims[2] = {texts.size(), 1};
  std::vector<matvar_t*> cells;
  for (const auto& text : texts) {
    std::size_t dims[2] = {1, text.size()};
    cells.push_back(Mat_VarCreate(nullptr, MAT_C_CHAR, MAT_T_UINT8, 2, dims,
                                  const_cast<char*>(text.data()), 0));
  }
  matvar_t* list =
      Mat_VarCreate(variable.c_str(), MAT_C_CELL, MAT_T_CELL, 2, cell_dims, cells.data(), 0);
  TORCH_CHECK(Mat_VarWrite(file, list, MAT_COMPRESSION_NONE) == 0);
  Mat_VarFree(list);
  Mat_Close(file);
}

}  // namespace bsconv_test
