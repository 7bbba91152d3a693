// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

#include <bsconv/plot/csv_table.hpp>
#include <bsconv/plot/figure.hpp>
#include <bsconv/util/text.hpp>

namespace bsconv::plot {

namespace detail {

inline std::vector<std::pair<double, double>> points_of(const CsvTable& table, const std::string& x,
                                                        const std::string& y, double factor = 1) {
  const auto xs = table.numbers(x);
  const auto ys = table.numbers(y);
  std::vector<std::pair<double, double>> points;
  for (std::size_t i = 0; i < xs.size(); ++i) {
    points.emplace_back(xs[i], factor * ys[i]);
  }
  return points;
}

}  // namespace detail

/// Accuracy and loss of one or more runs over the epochs, from their `metrics.csv`: a color a run,
/// training dashed, test drawn through. `runs` are folders or CSV files; a run is called by its
/// folder. Throws `c10::Error` that names the file if one can't be read.
inline Figure training_curves(const std::vector<std::filesystem::path>& runs) {
  TORCH_CHECK_VALUE(!runs.empty(), "there is no run to draw");
  Figure figure;
  figure.panels.resize(2);
  auto& accuracy = figure.panels[0];
  auto& loss = figure.panels[1];
  accuracy.title = "Accuracy";
  accuracy.y_label = "top-1 accuracy (%)";
  loss.title = "Loss";
  loss.y_label = "loss";
  loss.from_zero = true;
  accuracy.x_label = loss.x_label = "epoch";
  for (std::size_t i = 0; i < runs.size(); ++i) {
    auto file = runs[i];
    if (std::filesystem::is_directory(file)) {
      file /= "metrics.csv";
    }
    const auto table = CsvTable::read(file);
    auto name = std::filesystem::absolute(file).lexically_normal().parent_path().filename();
    if (file.filename() != "metrics.csv") {
      name = file.stem();
    }
    for (const bool test : {false, true}) {
      const std::string split = test ? "test" : "train";
      Series series;
      series.label = name.native() + ", " + split;
      series.color = i;
      series.dashed = !test;
      series.points = detail::points_of(table, "epoch", split + "_top1", 100);
      accuracy.series.push_back(series);
      series.points = detail::points_of(table, "epoch", split + "_loss");
      loss.series.push_back(std::move(series));
    }
  }
  return figure;
}

}  // namespace bsconv::plot
