// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <matio.h>
#include <torch/types.h>

#include <bsconv/data/file_bytes.hpp>
#include <bsconv/data/matlab_check.hpp>

// This header needs matio and zlib, so it is not part of <bsconv/data.hpp>.

namespace bsconv::data {

namespace detail {

struct CloseMatlabFile {
  void operator()(mat_t* file) const { Mat_Close(file); }
};
struct FreeMatlabVariable {
  void operator()(matvar_t* variable) const { Mat_VarFree(variable); }
};

/// The text of a character array of one row, ASCII.
inline std::string matlab_text(const matvar_t* variable, const std::string& origin) {
  TORCH_CHECK(variable != nullptr && variable->class_type == MAT_C_CHAR, origin, " is no text");
  const bool wide = variable->data_type == MAT_T_UINT16 || variable->data_type == MAT_T_UTF16;
  const bool narrow = variable->data_type == MAT_T_UINT8 || variable->data_type == MAT_T_UTF8 ||
                      variable->data_type == MAT_T_INT8;
  TORCH_CHECK(wide || narrow, origin, " is text of an unknown encoding");
  const std::size_t count = variable->nbytes / (wide ? 2 : 1);
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    const unsigned character = wide ? static_cast<const uint16_t*>(variable->data)[i]
                                    : static_cast<const uint8_t*>(variable->data)[i];
    TORCH_CHECK(character > 0 && character < 128, origin, " has a character that is not ASCII");
    text += static_cast<char>(character);
  }
  return text;
}

}  // namespace detail

/// The texts of a cell array, N x 1 or 1 x N, of a MATLAB file (version 5 to 7.2). Throws
/// `c10::Error` with the path if the file cannot be read, is damaged, has no such variable, or it
/// is no list of ASCII texts.
inline std::vector<std::string> read_matlab_texts(const std::filesystem::path& path,
                                                  const std::string& variable) {
  const std::string origin = "MATLAB file '" + path.native() + "'";
  detail::MatlabCheck::check(detail::read_bytes(path, origin), origin);
  const std::unique_ptr<mat_t, detail::CloseMatlabFile> file(
      Mat_Open(path.c_str(), MAT_ACC_RDONLY));
  TORCH_CHECK(file != nullptr, origin, " does not exist or is damaged");
  const std::unique_ptr<matvar_t, detail::FreeMatlabVariable> cells(
      Mat_VarRead(file.get(), variable.c_str()));
  TORCH_CHECK(cells != nullptr, origin, " has no variable '", variable, "'");
  TORCH_CHECK(cells->class_type == MAT_C_CELL && cells->rank == 2 &&
                  (cells->dims[0] == 1 || cells->dims[1] == 1) && cells->data != nullptr,
              origin, ": '", variable, "' is not a cell array of N x 1");
  std::vector<std::string> texts;
  const std::size_t count = cells->dims[0] * cells->dims[1];
  for (std::size_t i = 0; i < count; ++i) {
    texts.push_back(detail::matlab_text(static_cast<matvar_t**>(cells->data)[i],
                                        c10::str(origin, ": entry ", i, " of '", variable, "'")));
  }
  return texts;
}

}  // namespace bsconv::data
