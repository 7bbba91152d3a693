// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bsconv::detail {

/// A shape as tables show it: `8x3x32x32`.
inline std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t size : shape) {
    text.append(text.empty() ? "" : "x").append(std::to_string(size));
  }
  return text;
}

}  // namespace bsconv::detail
