// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
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

/// What runs are called: the last parts of their folders' names, as many as tell them apart.
inline std::vector<std::string> run_names(const std::vector<std::filesystem::path>& files) {
  std::vector<std::filesystem::path> rests;
  std::vector<std::string> names(files.size());
  for (const auto& file : files) {
    const auto whole = std::filesystem::absolute(file).lexically_normal();
    rests.push_back(file.filename() == "metrics.csv" ? whole.parent_path()
                                                     : whole.parent_path() / file.stem());
  }
  const auto is_unique = [&names](const std::string& name) {
    return !name.empty() && std::count(names.begin(), names.end(), name) == 1;
  };
  // The same file may be given twice.
  for (bool longer = true; longer && !std::all_of(names.begin(), names.end(), is_unique);) {
    longer = false;
    const auto before = names;
    for (std::size_t i = 0; i < names.size(); ++i) {
      const auto part = rests[i].filename().native();
      if (!part.empty() &&
          (before[i].empty() || std::count(before.begin(), before.end(), before[i]) > 1)) {
        names[i] = before[i].empty() ? part : part + "/" + before[i];
        rests[i] = rests[i].parent_path();
        longer = true;
      }
    }
  }
  return names;
}

}  // namespace detail

/// Accuracy and loss of one or more runs over the epochs, from their `metrics.csv`: a color a run,
/// training dashed, test drawn through, and signs too from the ninth run on, where colors repeat.
/// `runs` are folders or CSV files; a run is called by its folder, with the ones above it where
/// names repeat. Throws `c10::Error` that names the file if one can't be read.
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
  std::vector<std::filesystem::path> files;
  files.reserve(runs.size());
  for (const auto& run : runs) {
    files.push_back(std::filesystem::is_directory(run) ? run / "metrics.csv" : run);
  }
  const auto names = detail::run_names(files);
  const std::vector<Marker> markers = {Marker::none, Marker::circle, Marker::square,
                                       Marker::triangle, Marker::diamond};
  for (std::size_t i = 0; i < files.size(); ++i) {
    const auto table = CsvTable::read(files[i]);
    for (const bool test : {false, true}) {
      const std::string split = test ? "test" : "train";
      Series series;
      series.label = names[i] + ", " + split;
      series.color = i;
      series.marker = markers[std::min(i / color_count, markers.size() - 1)];
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
