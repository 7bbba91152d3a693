// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <string>

namespace bsconv::detail {

/// `text` as a cell of a CSV file (RFC 4180): in quotes where it needs them.
inline std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) {
    return text;
  }
  std::string quoted(1, '"');
  for (const char c : text) {
    quoted.append(c == '"' ? 2 : 1, c);
  }
  quoted.push_back('"');
  return quoted;
}

}  // namespace bsconv::detail
