// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

#include <bsconv/util/csv_cell.hpp>
#include <bsconv/util/regular_file.hpp>
#include <bsconv/util/text.hpp>

namespace bsconv::plot {

/// A CSV file with a line of names (RFC 4180: cells may be quoted).
class CsvTable {
 public:
  /// Reads the file at `path`. Throws `c10::Error` with the path, and the line where there is one,
  /// if it can't be read, has no names, or a row has another number of cells.
  static CsvTable read(const std::filesystem::path& path) {
    auto file = bsconv::detail::open_regular_file(path);
    TORCH_CHECK(file.is_open(), "cannot read '", path.native(), "'");
    std::string text(std::istreambuf_iterator<char>(file), {});
    // Spreadsheets put a byte order mark before UTF-8.
    if (text.rfind("\xef\xbb\xbf", 0) == 0) {
      text.erase(0, 3);
    }
    CsvTable table;
    table.origin_ = "'" + path.native() + "'";
    auto rows = split(text);
    TORCH_CHECK(!rows.empty(), table.origin_, " is empty");
    table.names_ = std::move(rows.front());
    for (std::size_t i = 1; i < rows.size(); ++i) {
      TORCH_CHECK(rows[i].size() == table.names_.size(), table.origin_, ", row ", i, ": ",
                  rows[i].size(), " cells under ", table.names_.size(), " names");
      table.rows_.push_back(std::move(rows[i]));
    }
    return table;
  }

  /// How many rows there are.
  std::size_t size() const noexcept { return rows_.size(); }

  /// Whether there is a column called `name`.
  bool has(const std::string& name) const {
    return std::find(names_.begin(), names_.end(), name) != names_.end();
  }

  /// Sets a cell; a column that is not there yet becomes the last. Throws `c10::Error` if there is
  /// no such row.
  void set(std::size_t row, const std::string& name, std::string text) {
    TORCH_CHECK_INDEX(row < rows_.size(), origin_, " has ", rows_.size(), " rows, none ", row);
    auto found = std::find(names_.begin(), names_.end(), name);
    if (found == names_.end()) {
      found = names_.insert(names_.end(), name);
      for (auto& cells : rows_) {
        cells.emplace_back();
      }
    }
    rows_[row][static_cast<std::size_t>(found - names_.begin())] = std::move(text);
  }

  /// The table as text that `read` takes.
  std::string to_text() const {
    std::string text;
    const auto add = [&text](const std::vector<std::string>& cells) {
      for (std::size_t i = 0; i < cells.size(); ++i) {
        text.append(i > 0 ? "," : "").append(bsconv::detail::csv_cell(cells[i]));
      }
      text += '\n';
    };
    add(names_);
    std::for_each(rows_.begin(), rows_.end(), add);
    return text;
  }

  /// The cells of a column. Throws `c10::Error` with the file and the nearest name if there is
  /// none.
  std::vector<std::string> texts(const std::string& name) const {
    const auto found = std::find(names_.begin(), names_.end(), name);
    TORCH_CHECK(found != names_.end(), origin_, " has no column '", name, "'; the nearest is '",
                bsconv::detail::nearest(name, names_), "'");
    std::vector<std::string> cells;
    for (const auto& row : rows_) {
      cells.push_back(row[static_cast<std::size_t>(found - names_.begin())]);
    }
    return cells;
  }

  /// The numbers of a column, NaN for empty cells. Throws `c10::Error` with file, row and cell if
  /// one is no number.
  std::vector<double> numbers(const std::string& name) const {
    std::vector<double> values;
    for (const auto& cell : texts(name)) {
      char* end = nullptr;
      values.push_back(cell.empty() ? std::numeric_limits<double>::quiet_NaN()
                                    : std::strtod(cell.c_str(), &end));
      TORCH_CHECK(cell.empty() || *end == '\0', origin_, ", row ", values.size(), ", ", name, ": '",
                  cell, "' is not a number");
    }
    return values;
  }

 private:
  static std::vector<std::vector<std::string>> split(const std::string& text) {
    std::vector<std::vector<std::string>> rows;
    std::vector<std::string> row(1);
    bool quoted = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const char c = text[i];
      if (quoted) {
        if (c != '"') {
          row.back().push_back(c);
        } else if (i + 1 < text.size() && text[i + 1] == '"') {
          row.back().push_back(text[++i]);
        } else {
          quoted = false;
        }
      } else if (c == '"') {
        quoted = true;
      } else if (c == ',') {
        row.emplace_back();
      } else if (c == '\n') {
        rows.push_back(std::exchange(row, std::vector<std::string>(1)));
      } else if (c != '\r') {
        row.back().push_back(c);
      }
    }
    if (row.size() > 1 || !row.front().empty()) {
      rows.push_back(std::move(row));
    }
    return rows;
  }

  std::string origin_;
  std::vector<std::string> names_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace bsconv::plot
