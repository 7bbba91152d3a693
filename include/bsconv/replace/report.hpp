// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/util/text.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <ostream>
#include <sstream>
#include <string>
#include <vector>

namespace bsconv {

/// How a module was replaced, or that it was not.
enum class ReplacementKind {
  /// Its holder now holds the new module.
  exchanged,
  /// The `Conv2d` object stays and computes what the new module computes (see `graft`).
  grafted,
  /// It can't be replaced where it is; `Replacement::reason` says why.
  refused,
  /// Left as it was, because its replacement would explain too little of its weights or a rule
  /// keeps it; `Replacement::reason` says why.
  kept,
};

/// One row of a `ReplacementReport`.
struct Replacement {
  /// The module's path in the model, `stage1.unit2.conv1`; empty for the model itself.
  std::string path;
  /// What the module printed of itself.
  std::string old_type;
  /// What its replacement prints, or would.
  std::string new_type;
  /// The trainable parameters of the module.
  int64_t parameters_before = 0;
  /// The trainable parameters of its replacement, or its own if it was kept.
  int64_t parameters_after = 0;
  /// How it was replaced.
  ReplacementKind kind = ReplacementKind::refused;
  /// Why it was not; empty if it was.
  std::string reason;
  /// How many layers, added up, took its place (see `BSConvSum`).
  int64_t terms = 1;
  /// The share of the squared norm of the old weights that the new layer can have, 0 to 1, and has
  /// with `Initialization::svd`.
  std::optional<double> explained_variance;
  /// With `Initialization::data`, the mean squared error of the layer's outputs over the
  /// calibration relative to their variance: 0 is exact, 1 no better than a constant.
  std::optional<double> output_error;

  /// Whether it was replaced, in either way.
  bool is_replaced() const {
    return kind == ReplacementKind::exchanged || kind == ReplacementKind::grafted;
  }
};

/// What a replacement did to a model, or would do.
class ReplacementReport {
 public:
  /// A row a module that a rule matched, in tree order.
  std::vector<Replacement> rows;
  /// The trainable parameters of the model before.
  int64_t parameters_before = 0;
  /// The trainable parameters of the model after.
  int64_t parameters_after = 0;
  /// Whether the model was left as it was.
  bool dry_run = false;

  /// The number of replaced modules.
  std::size_t replaced() const {
    return count([](const Replacement& row) { return row.is_replaced(); });
  }

  /// The number of modules that a rule matched but that can't be replaced.
  std::size_t refused() const {
    return count([](const Replacement& row) { return row.kind == ReplacementKind::refused; });
  }

  /// The number of modules that could be replaced but were to be left as they were.
  std::size_t kept() const {
    return count([](const Replacement& row) { return row.kind == ReplacementKind::kept; });
  }

  /// The terms of each replaced module by its path, for `ReplacementOptions::layer_terms`.
  std::map<std::string, int64_t> layer_terms() const {
    std::map<std::string, int64_t> terms;
    for (const auto& row : rows) {
      if (row.is_replaced()) {
        terms.emplace(row.path, row.terms);
      }
    }
    return terms;
  }

  /// The report as text: verbosity 0 prints nothing, 1 the number of modules and the parameters
  /// before and after, 2 also each module with its old and new type. Refused and kept modules are
  /// printed from verbosity 1 on.
  std::string to_string(int verbosity = 1) const {
    if (verbosity <= 0) {
      return {};
    }
    std::ostringstream text;
    for (const auto& row : rows) {
      if (!row.is_replaced()) {
        const char* outcome = row.kind == ReplacementKind::refused ? "Not replaced: "
                              : dry_run                            ? "Would keep "
                                                                   : "Kept ";
        text << outcome << label(row) << ": " << row.old_type << ": " << row.reason << '\n';
      } else if (verbosity >= 2) {
        text << (dry_run ? "Would replace " : "Replaced ") << label(row) << ": " << row.old_type
             << " -> " << row.new_type << " ("
             << change(row.parameters_before, row.parameters_after);
        if (row.explained_variance) {
          text << "; explains " << detail::fixed(100.0 * *row.explained_variance, 1) << " %";
        }
        if (row.output_error) {
          text << "; output error " << detail::fixed(100.0 * *row.output_error, 1) << " %";
        }
        text << ")\n";
      }
    }
    text << (dry_run ? "Would replace " : "Replaced ") << replaced()
         << (replaced() == 1 ? " module" : " modules");
    std::vector<std::string> others;
    if (kept() != 0) {
      others.push_back(std::to_string(kept()) + " kept");
    }
    if (refused() != 0) {
      others.push_back(std::to_string(refused()) + " can't be replaced");
    }
    if (!others.empty()) {
      text << " (" << detail::join(others, ", ") << ")";
    }
    text << "; parameters: " << change(parameters_before, parameters_after) << '\n';
    return text.str();
  }

 private:
  template <class Condition>
  std::size_t count(const Condition& condition) const {
    return static_cast<std::size_t>(std::count_if(rows.begin(), rows.end(), condition));
  }

  static std::string label(const Replacement& row) {
    return row.path.empty() ? std::string("(model)") : row.path;
  }

  static std::string change(int64_t before, int64_t after) {
    std::string text = detail::with_commas(before) + " -> " + detail::with_commas(after);
    if (before > 0) {
      text += ", " +
              detail::fixed(100.0 * static_cast<double>(after) / static_cast<double>(before), 1) +
              " %";
    }
    return text;
  }
};

/// Prints the report with verbosity 2.
inline std::ostream& operator<<(std::ostream& stream, const ReplacementReport& report) {
  return stream << report.to_string(2);
}

}  // namespace bsconv
