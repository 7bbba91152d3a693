// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <fnmatch.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

/// \file
/// Small text helpers of the library's own messages and tables.

namespace bsconv::detail {

/// `text` in lower case (ASCII).
inline std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

/// Whether `text` matches the shell pattern `pattern` (`*`, `?`, `[…]`).
inline bool matches(const std::string& pattern, const std::string& text) {
  return fnmatch(pattern.c_str(), text.c_str(), 0) == 0;
}

/// The entries of `items`, separated by `separator`.
template <class Items>
std::string join(const Items& items, std::string_view separator) {
  std::string result;
  bool first = true;
  for (const auto& item : items) {
    if (!first) {
      result += separator;
    }
    first = false;
    result += item;
  }
  return result;
}

/// The number of single-character edits between `a` and `b` (Levenshtein).
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) {
    row[j] = j;
  }
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

/// The entry of `candidates` nearest to `name`, or an empty text if there are none.
inline std::string nearest(std::string_view name, const std::vector<std::string>& candidates) {
  const auto best =
      std::min_element(candidates.begin(), candidates.end(), [&](const auto& a, const auto& b) {
        return edit_distance(name, a) < edit_distance(name, b);
      });
  return best == candidates.end() ? std::string() : *best;
}

/// `count` with a comma between groups of three digits: 1,234,567.
inline std::string with_commas(int64_t count) {
  const std::string digits = std::to_string(count);
  const std::size_t first = count < 0 ? 1 : 0;
  std::string result;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > first && (digits.size() - i) % 3 == 0) {
      result.push_back(',');
    }
    result.push_back(digits[i]);
  }
  return result;
}

/// `value` with `decimals` digits after the point.
inline std::string fixed(double value, int decimals) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*f", decimals, value);
  return buffer;
}

/// `count` shortened with k, M, G or T: 1.23 M.
inline std::string with_unit(double count) {
  static constexpr const char* units[] = {"", " k", " M", " G", " T"};
  std::size_t unit = 0;
  // What would be rounded to 1000 takes the next unit.
  while (std::abs(count) >= (unit == 0 ? 999.5 : 999.995) && unit + 1 < std::size(units)) {
    count /= 1000.0;
    ++unit;
  }
  return fixed(count, unit == 0 ? 0 : 2) + units[unit];
}

}  // namespace bsconv::detail
