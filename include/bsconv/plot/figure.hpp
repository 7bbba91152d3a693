// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::plot {

/// The sign at the points of a series.
enum class Marker {
  /// None: a line alone.
  none,
  /// A filled circle.
  circle,
  /// A filled square.
  square,
  /// A filled triangle.
  triangle,
  /// A filled diamond.
  diamond,
  /// A circle that is not filled.
  ring,
};

/// How many colors series have.
inline constexpr std::size_t color_count = 8;

/// Points, and a line through them.
struct Series {
  /// What the legend says; a series without one is not listed.
  std::string label;
  /// The points; one with a NaN is left out.
  std::vector<std::pair<double, double>> points;
  /// Number of its color, counted from 0; they repeat after `color_count`.
  std::size_t color = 0;
  /// Whether the line is dashed.
  bool dashed = false;
  /// The sign at each point.
  Marker marker = Marker::none;
  /// Whether there is a line.
  bool line = true;
};

/// One pair of axes with what is drawn between them.
struct Panel {
  /// Above the panel.
  std::string title;
  /// Below the horizontal axis.
  std::string x_label;
  /// Beside the vertical axis.
  std::string y_label;
  /// Whether the horizontal axis is logarithmic; points at or below 0 are then left out.
  bool log_x = false;
  /// Whether the vertical axis begins at 0.
  bool from_zero = false;
  /// What is drawn, the first below the others.
  std::vector<Series> series;
};

/// Panels side by side under a title, with one legend below: the labels of all panels, each once.
struct Figure {
  /// Above all panels.
  std::string title;
  /// From left to right.
  std::vector<Panel> panels;
  /// Width of a panel with its labels, in points of 1/72 inch.
  double panel_width = 460;
  /// Height of a panel with its labels, in points.
  double panel_height = 340;
};

}  // namespace bsconv::plot
