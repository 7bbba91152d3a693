// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

#include <bsconv/plot/csv_table.hpp>
#include <bsconv/plot/figure.hpp>
#include <bsconv/util/text.hpp>

namespace bsconv::plot {

namespace detail {

/// "baseline", "BSConv-U" or "BSConv-S (p=1/4)" from the ending of a model's name.
inline std::string variant_of(const std::string& model) {
  const auto found = model.rfind("_bsconv");
  if (found == std::string::npos) {
    return "baseline";
  }
  const auto ending = model.substr(found + 7);
  const auto p = ending.find("_p");
  std::string name = "BSConv-";
  name += ending.substr(0, p);
  std::transform(name.end() - 1, name.end(), name.end() - 1,
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (p != std::string::npos) {
    auto fraction = ending.substr(p + 2);
    std::replace(fraction.begin(), fraction.end(), 'd', '/');
    name += " (p=" + fraction + ")";
  }
  return name;
}

/// The numbers of the column `rounded`, in millions, and those of `exact`, which counts ones, where
/// there are any.
inline std::vector<double> costs_of(const CsvTable& csv, const std::string& rounded,
                                    const std::string& exact) {
  auto costs = csv.numbers(rounded);
  if (csv.has(exact)) {
    const auto counts = csv.numbers(exact);
    for (std::size_t row = 0; row < costs.size(); ++row) {
      costs[row] = std::isnan(counts[row]) ? costs[row] : counts[row] / 1e6;
    }
  }
  return costs;
}

inline std::size_t number_of(std::vector<std::string>& names, const std::string& name) {
  const auto found = std::find(names.begin(), names.end(), name);
  const auto number = static_cast<std::size_t>(found - names.begin());
  if (found == names.end()) {
    names.push_back(name);
  }
  return number;
}

}  // namespace detail

/// Parameters and multiply-adds against accuracy, both on a logarithmic scale, from a CSV file with
/// the columns `table`, `model`, `accuracy_top1`, `params_M` and `flops_M`; where there are columns
/// `params` and `flops` too, exact ones take the place of rounded millions. A series is what a
/// table has of one kind of convolution: a color a table, or a kind where there is one table, and a
/// sign a kind. Where there is a column `our_top1` too, a ring of the same color is at each of its
/// accuracies, and the legend says which points are published and which ours. `tables` is a shell
/// pattern of the tables to draw. Throws `c10::Error` if the file can't be read, nothing matches,
/// or there would be more than 12 series.
inline Figure accuracy_by_cost(const std::filesystem::path& path, const std::string& tables = "*") {
  const auto csv = CsvTable::read(path);
  const auto table = csv.texts("table");
  const auto model = csv.texts("model");
  const auto accuracy = csv.numbers("accuracy_top1");
  const auto params = detail::costs_of(csv, "params_M", "params");
  const auto flops = detail::costs_of(csv, "flops_M", "flops");
  const auto ours = csv.has("our_top1")
                        ? csv.numbers("our_top1")
                        : std::vector<double>(csv.size(), std::numeric_limits<double>::quiet_NaN());
  Figure figure;
  figure.panels.resize(2);
  figure.panels[0].title = "Parameters";
  figure.panels[0].x_label = "parameters (millions)";
  figure.panels[1].title = "Multiply-adds";
  figure.panels[1].x_label = "multiply-adds (millions)";
  std::vector<std::string> drawn;
  std::vector<std::string> kinds;
  std::vector<std::string> names;
  std::vector<std::pair<std::size_t, std::size_t>> signs;
  std::vector<std::vector<std::size_t>> measured;
  for (std::size_t row = 0; row < csv.size(); ++row) {
    if (!bsconv::detail::matches(tables, table[row])) {
      continue;
    }
    const auto color = detail::number_of(drawn, table[row]);
    const auto kind = detail::variant_of(model[row]);
    const auto sign = detail::number_of(kinds, kind);
    const auto number = detail::number_of(names, table[row] + ", " + kind);
    if (number == signs.size()) {
      signs.emplace_back(color, sign);
      measured.emplace_back();
      for (auto& panel : figure.panels) {
        panel.series.emplace_back();
      }
    }
    figure.panels[0].series[number].points.emplace_back(params[row], accuracy[row]);
    figure.panels[1].series[number].points.emplace_back(flops[row], accuracy[row]);
    if (!std::isnan(ours[row])) {
      measured[number].push_back(row);
    }
  }
  if (names.empty()) {
    std::vector<std::string> known;
    for (const auto& name : table) {
      detail::number_of(known, name);
    }
    TORCH_CHECK_VALUE(false, "no table of '", path.native(), "' matches '", tables, "'; there are ",
                      bsconv::detail::join(known, ", "));
  }
  constexpr std::size_t most = 12;
  TORCH_CHECK_VALUE(
      names.size() <= most, "'", tables, "' matches ", names.size(), " series, more than the ",
      most, " one can tell apart; choose fewer tables: ", bsconv::detail::join(drawn, ", "));
  const bool one = drawn.size() == 1;
  figure.title = one ? drawn.front() : "";
  for (auto& panel : figure.panels) {
    panel.log_x = true;
    panel.y_label = "top-1 accuracy (%)";
    for (std::size_t i = 0; i < names.size(); ++i) {
      auto& series = panel.series[i];
      constexpr Marker markers[] = {Marker::circle, Marker::square, Marker::triangle,
                                    Marker::diamond};
      series.label = one ? kinds[signs[i].second] : names[i];
      series.label += measured[i].empty() ? "" : ", published";
      series.color = one ? signs[i].second : signs[i].first;
      series.marker = markers[signs[i].second % std::size(markers)];
      series.dashed = !one && signs[i].second == 0;
      // NaNs have no place in an order.
      std::erase_if(series.points, [](const auto& point) {
        return std::isnan(point.first) || std::isnan(point.second);
      });
      std::sort(series.points.begin(), series.points.end());
    }
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (measured[i].empty()) {
      continue;
    }
    Series rings;
    rings.label = (one ? kinds[signs[i].second] : names[i]) + ", ours";
    rings.color = figure.panels[0].series[i].color;
    rings.marker = Marker::ring;
    rings.line = false;
    for (auto* panel : {&figure.panels[0], &figure.panels[1]}) {
      const auto& cost = panel == &figure.panels[0] ? params : flops;
      panel->series.push_back(rings);
      for (const auto row : measured[i]) {
        panel->series.back().points.emplace_back(cost[row], ours[row]);
      }
    }
  }
  return figure;
}

}  // namespace bsconv::plot
