// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

#include <bsconv/plot/axis.hpp>
#include <bsconv/plot/canvas.hpp>
#include <bsconv/plot/figure.hpp>

namespace bsconv::plot {

namespace detail {

inline constexpr Color ink = {0.15, 0.15, 0.18};
inline constexpr Color faint = {0.86, 0.86, 0.88};
inline constexpr double margin = 14;
inline constexpr double title_height = 34;
inline constexpr double legend_row = 20;

/// The labels of all panels, each once, with a series that has it.
inline std::vector<const Series*> legend_of(const Figure& figure) {
  std::vector<const Series*> entries;
  for (const auto& panel : figure.panels) {
    for (const auto& series : panel.series) {
      const bool known = std::any_of(entries.begin(), entries.end(), [&](const auto* entry) {
        return entry->label == series.label;
      });
      if (!known && !series.label.empty()) {
        entries.push_back(&series);
      }
    }
  }
  return entries;
}

/// The entries of the legend in rows that fit `width`, and the width of an entry.
struct LegendLayout {
  std::vector<const Series*> entries;
  double entry_width = 0;
  std::size_t columns = 1;

  LegendLayout(const Figure& figure, Canvas& canvas, double width) : entries(legend_of(figure)) {
    canvas.font(12);
    for (const auto* entry : entries) {
      entry_width = std::max(entry_width, canvas.text_width(entry->label) + 58);
    }
    if (!entries.empty()) {
      columns =
          std::clamp<std::size_t>(static_cast<std::size_t>(width / entry_width), 1, entries.size());
    }
  }

  double height() const {
    const auto rows = (entries.size() + columns - 1) / columns;
    return static_cast<double>(rows) * legend_row;
  }
};

/// Whether a point can be drawn.
inline bool is_drawn(const std::pair<double, double>& point, bool log_x) {
  return std::isfinite(point.first) && std::isfinite(point.second) && (!log_x || point.first > 0);
}

/// The axes that hold all points of `panel`.
inline std::pair<Axis, Axis> axes_of(const Panel& panel) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  double left = infinity;
  double right = -infinity;
  double bottom = panel.from_zero ? 0 : infinity;
  double top = panel.from_zero ? 0 : -infinity;
  bool any = false;
  for (const auto& series : panel.series) {
    for (const auto& point : series.points) {
      if (is_drawn(point, panel.log_x)) {
        any = true;
        left = std::min(left, point.first);
        right = std::max(right, point.first);
        bottom = std::min(bottom, point.second);
        top = std::max(top, point.second);
      }
    }
  }
  if (!any) {
    return {linear_axis(0, 1), linear_axis(0, 1)};
  }
  return {panel.log_x ? log_axis(left, right) : linear_axis(left, right), linear_axis(bottom, top)};
}

/// A ring goes around the other signs.
inline double marker_size(Marker marker) { return marker == Marker::ring ? 12 : 7; }

inline void draw_series(Canvas& canvas, const Series& series, const Panel& panel,
                        const std::pair<Axis, Axis>& axes, double x, double y, double width,
                        double height) {
  const auto place = [&](const std::pair<double, double>& point) {
    return std::pair{x + width * axes.first.position(point.first),
                     y + height * (1 - axes.second.position(point.second))};
  };
  canvas.color(series_color(series.color));
  canvas.pen(1.8, series.dashed);
  std::vector<std::pair<double, double>> drawn;
  std::copy_if(series.points.begin(), series.points.end(), std::back_inserter(drawn),
               [&panel](const auto& point) { return is_drawn(point, panel.log_x); });
  for (std::size_t i = 0; series.line && i < drawn.size(); ++i) {
    const auto [px, py] = place(drawn[i]);
    canvas.path_to(px, py, /*begin=*/i == 0);
  }
  canvas.stroke();
  for (const auto& point : drawn) {
    const auto [px, py] = place(point);
    canvas.marker(series.marker, px, py, marker_size(series.marker));
  }
  // A line of one point would not be seen.
  if (series.marker == Marker::none && drawn.size() == 1) {
    const auto [px, py] = place(drawn[0]);
    canvas.marker(Marker::circle, px, py, 5);
  }
}

inline void draw_panel(Canvas& canvas, const Panel& panel, double x, double y, double width,
                       double height) {
  constexpr double left = 58;
  constexpr double right = 16;
  constexpr double top = 30;
  constexpr double bottom = 48;
  const double inner_x = x + left;
  const double inner_y = y + top;
  const double inner_width = width - left - right;
  const double inner_height = height - top - bottom;
  const auto axes = axes_of(panel);

  canvas.font(11);
  for (const double tick : axes.second.ticks) {
    const double place = inner_y + inner_height * (1 - axes.second.position(tick));
    canvas.color(faint);
    canvas.pen(0.8);
    canvas.line(inner_x, place, inner_x + inner_width, place);
    canvas.color(ink);
    canvas.text(tick_text(tick), inner_x - 7, place + 4, Align::right);
  }
  for (const double tick : axes.first.ticks) {
    const double place = inner_x + inner_width * axes.first.position(tick);
    canvas.color(faint);
    canvas.pen(0.8);
    canvas.line(place, inner_y, place, inner_y + inner_height);
    canvas.color(ink);
    canvas.pen(1);
    canvas.line(place, inner_y + inner_height, place, inner_y + inner_height + 4);
    canvas.text(tick_text(tick), place, inner_y + inner_height + 17, Align::center);
  }
  canvas.clip(inner_x - 4, inner_y - 4, inner_width + 8, inner_height + 8);
  for (const auto& series : panel.series) {
    draw_series(canvas, series, panel, axes, inner_x, inner_y, inner_width, inner_height);
  }
  canvas.unclip();
  canvas.color(ink);
  canvas.pen(1);
  canvas.line(inner_x, inner_y + inner_height, inner_x + inner_width, inner_y + inner_height);
  canvas.font(13, true);
  canvas.text(panel.title, inner_x, y + 16);
  canvas.font(12);
  canvas.text(panel.x_label, inner_x + inner_width / 2, y + height - 10, Align::center);
  canvas.text_upwards(panel.y_label, x + 14, inner_y + inner_height / 2);
}

inline void draw_legend(Canvas& canvas, const LegendLayout& legend, double x, double y) {
  canvas.font(12);
  for (std::size_t i = 0; i < legend.entries.size(); ++i) {
    const auto& series = *legend.entries[i];
    const double left = x + legend.entry_width * static_cast<double>(i % legend.columns);
    const std::size_t row = i / legend.columns;
    const double middle = y + legend_row * (static_cast<double>(row) + 0.5);
    canvas.color(series_color(series.color));
    canvas.pen(1.8, series.dashed);
    if (series.line) {
      canvas.line(left, middle, left + 30, middle);
    }
    canvas.marker(series.marker, left + 15, middle, marker_size(series.marker));
    canvas.color(ink);
    canvas.text(series.label, left + 38, middle + 4);
  }
}

}  // namespace detail

/// The width and height of `figure` in points. `canvas` measures the text of its legend.
inline std::pair<double, double> figure_size(const Figure& figure, Canvas& canvas) {
  TORCH_CHECK(!figure.panels.empty(), "a figure needs a panel");
  const double width = figure.panel_width * static_cast<double>(figure.panels.size());
  const detail::LegendLayout legend(figure, canvas, width - 58);
  return {width + 2 * detail::margin, figure.panel_height +
                                          (figure.title.empty() ? 0 : detail::title_height) +
                                          legend.height() + 2 * detail::margin};
}

/// Draws `figure` on a white ground.
inline void draw(Canvas& canvas, const Figure& figure) {
  canvas.color({1, 1, 1});
  canvas.paint();
  double y = detail::margin;
  if (!figure.title.empty()) {
    canvas.color(detail::ink);
    canvas.font(16, true);
    canvas.text(figure.title, detail::margin + 58, y + 18);
    y += detail::title_height;
  }
  double x = detail::margin;
  for (const auto& panel : figure.panels) {
    detail::draw_panel(canvas, panel, x, y, figure.panel_width, figure.panel_height);
    x += figure.panel_width;
  }
  const double width = figure.panel_width * static_cast<double>(figure.panels.size());
  const detail::LegendLayout legend(figure, canvas, width - 58);
  detail::draw_legend(canvas, legend, detail::margin + 58, y + figure.panel_height);
  canvas.check();
}

}  // namespace bsconv::plot
