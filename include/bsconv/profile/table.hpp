// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>
#include <torch/arg.h>
#include <bsconv/profile/profile.hpp>
#include <bsconv/util/csv_cell.hpp>
#include <bsconv/util/shape_text.hpp>
#include <bsconv/util/text.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace bsconv {

/// How a table of a profile is sorted.
enum class ProfileOrder { tree, parameters, flops, memory, time };

/// Options for `to_table`, `to_csv` and `to_markdown`.
struct ProfileTableOptions {
  ProfileTableOptions() = default;

  /// Shows modules down to this depth, each with all that is below it; 0 shows the total alone.
  /// Default: no limit, the leaves
  TORCH_ARG(int64_t, depth) = std::numeric_limits<int64_t>::max();

  /// The order of the rows. Default: as the model registers its modules
  TORCH_ARG(ProfileOrder, order) = ProfileOrder::tree;

  /// Whether numbers are shortened: 7.3 M instead of 7,301,120. Default: false
  TORCH_ARG(bool, human_readable) = false;
};

namespace detail {

/// The cells of a table: a header, rows, and a last row with the total.
struct ProfileCells {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
  std::size_t text_columns = 5;
};

inline int64_t order_key(const ProfileRow& row, ProfileOrder order) {
  switch (order) {
    case ProfileOrder::parameters:
      return row.total.parameters;
    case ProfileOrder::flops:
      return row.total.flops;
    case ProfileOrder::memory:
      return row.total.activation_bytes;
    case ProfileOrder::time:
      return static_cast<int64_t>(row.total.seconds * 1e9);
    case ProfileOrder::tree:
      break;
  }
  return 0;
}

/// The rows to show: each module at the depth limit or without modules below it, and containers
/// that run operators of their own.
inline std::vector<ProfileRow> visible_rows(const Profile& profile,
                                            const ProfileTableOptions& options) {
  TORCH_CHECK_VALUE(options.depth() >= 0, "profile table: depth must be at least 0, got ",
                    options.depth());
  std::vector<ProfileRow> rows;
  for (const auto& row : profile.rows) {
    if (row.depth > options.depth() || (row.depth == 0 && !row.is_leaf && options.depth() == 0)) {
      continue;
    }
    const bool stands_alone = row.is_leaf || row.depth == options.depth();
    if (stands_alone) {
      rows.push_back(row);
    } else if (row.own.flops > 0 || row.own.activation_bytes > 0 || row.own.parameters > 0) {
      auto own = row;
      own.total = own.own;
      own.info = "own operators";
      rows.push_back(own);
    }
  }
  if (options.order() != ProfileOrder::tree) {
    std::stable_sort(rows.begin(), rows.end(), [&](const auto& a, const auto& b) {
      return order_key(a, options.order()) > order_key(b, options.order());
    });
  }
  return rows;
}

inline ProfileCells profile_cells(const Profile& profile, const ProfileTableOptions& options,
                                  bool plain_numbers) {
  const bool timed = profile.total().seconds > 0.0;
  ProfileCells cells;
  cells.header = {"Module",    "Type",   "Info",  "In Shape",
                  "Out Shape", "Params", "FLOPs", plain_numbers ? "Activation Bytes" : "Memory"};
  if (timed) {
    cells.header.emplace_back(plain_numbers ? "Seconds" : "Time [ms]");
  }
  const auto number = [&](int64_t value) {
    return plain_numbers              ? std::to_string(value)
           : options.human_readable() ? with_unit(static_cast<double>(value))
                                      : with_commas(value);
  };
  const auto bytes = [&](int64_t value) {
    return plain_numbers ? std::to_string(value)
                         : fixed(static_cast<double>(value) / 1024.0, 1) + " KiB";
  };
  const auto append = [&](const std::string& name, const ProfileRow& row) {
    std::vector<std::string> cell = {name,
                                     row.type,
                                     row.info,
                                     shape_text(row.input_shape),
                                     shape_text(row.output_shape),
                                     number(row.total.parameters),
                                     number(row.total.flops),
                                     bytes(row.total.activation_bytes)};
    if (timed) {
      cell.push_back(plain_numbers ? fixed(row.total.seconds, 9)
                                   : fixed(row.total.seconds * 1e3, 3));
    }
    cells.rows.push_back(std::move(cell));
  };
  for (const auto& row : visible_rows(profile, options)) {
    append(row.path.empty() ? "(model)" : row.path, row);
  }
  auto total = profile.rows.front();
  total.info.clear();
  append("Total", total);
  return cells;
}

/// What the table does not count, as a sentence; empty if it counts everything.
inline std::string uncounted_note(const Profile& profile) {
  std::vector<std::string> items;
  for (const auto& [name, count] : profile.uncounted) {
    items.push_back(name + (count > 1 ? " (" + std::to_string(count) + "x)" : ""));
  }
  return items.empty() ? std::string() : "Counted as 0 FLOPs: " + join(items, ", ") + "\n";
}

}  // namespace detail

/// The profile as a table for a terminal, with a last row for the total.
inline std::string to_table(const Profile& profile, const ProfileTableOptions& options = {}) {
  const auto cells = detail::profile_cells(profile, options, false);
  std::vector<std::size_t> widths;
  for (std::size_t column = 0; column < cells.header.size(); ++column) {
    std::size_t width = cells.header[column].size();
    for (const auto& row : cells.rows) {
      width = std::max(width, row[column].size());
    }
    widths.push_back(width);
  }
  std::string text;
  const auto line = [&](const std::vector<std::string>& row) {
    std::string out;
    for (std::size_t column = 0; column < row.size(); ++column) {
      const std::string padding(widths[column] - row[column].size(), ' ');
      const bool is_text = column < cells.text_columns;
      out.append(column == 0 ? 0 : 2, ' ');
      out.append(is_text ? row[column] : padding);
      out.append(is_text ? padding : row[column]);
    }
    out.erase(out.find_last_not_of(' ') + 1);
    text.append(out).append("\n");
  };
  std::size_t full = 2 * (widths.size() - 1);
  for (const std::size_t width : widths) {
    full += width;
  }
  std::string rule(full, '-');
  rule += '\n';
  line(cells.header);
  text += rule;
  for (std::size_t i = 0; i < cells.rows.size(); ++i) {
    if (i + 1 == cells.rows.size()) {
      text += rule;
    }
    line(cells.rows[i]);
  }
  return text + detail::uncounted_note(profile);
}

/// The profile as comma-separated values, plain numbers, with a header line and a last row for the
/// total. Memory is in bytes, time in seconds.
inline std::string to_csv(const Profile& profile, const ProfileTableOptions& options = {}) {
  const auto cells = detail::profile_cells(profile, options, true);
  std::string text;
  const auto line = [&](const std::vector<std::string>& row) {
    for (std::size_t column = 0; column < row.size(); ++column) {
      text.append(column == 0 ? "" : ",").append(detail::csv_cell(row[column]));
    }
    text += "\n";
  };
  line(cells.header);
  for (const auto& row : cells.rows) {
    line(row);
  }
  return text;
}

/// The profile as a Markdown table, with a last row for the total.
inline std::string to_markdown(const Profile& profile, const ProfileTableOptions& options = {}) {
  const auto cells = detail::profile_cells(profile, options, false);
  std::string text = "| " + detail::join(cells.header, " | ") + " |\n|";
  for (std::size_t column = 0; column < cells.header.size(); ++column) {
    text += column < cells.text_columns ? " --- |" : " ---: |";
  }
  text += "\n";
  for (const auto& row : cells.rows) {
    text += "|";
    for (const auto& cell : row) {
      text += " " + cell + " |";
    }
    text += "\n";
  }
  return text;
}

}  // namespace bsconv
