// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// Plots as SVG images, drawn without any library.

namespace bsconv::svg {

namespace detail {

/// `text` with what XML gives a meaning escaped.
inline std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result.push_back(c);
    }
  }
  return result;
}

/// `value` in at most `digits` digits.
inline std::string number(double value, int digits = 6) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*g", digits, value == 0.0 ? 0.0 : value);
  return buffer;
}

/// A position in pixels.
inline std::string pixels(double value) { return number(std::round(value * 100.0) / 100.0, 8); }

/// About `count` round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten.
inline std::vector<double> ticks(double low, double high, int count = 5) {
  const double rough = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10.0 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * 0.999) {
      step = factor * power;
      break;
    }
  }
  // Counted, as adding a step may not change a number that is much larger.
  const double first = std::ceil(low / step - 1e-9);
  const auto more = static_cast<int>(std::floor(high / step + 1e-9) - first);
  std::vector<double> result;
  for (int i = 0; i <= std::min(more, 10 * count); ++i) {
    result.push_back((first + i) * step);
  }
  return result;
}

}  // namespace detail

/// A plot with axes, a title, and a legend of the series that have a name.
///
/// Example:
/// ```
/// svg::Plot plot("Accuracy", "epoch", "top-1 / %");
/// plot.line("train", epochs, train).line("test", epochs, test);
/// file << plot.to_string();
/// ```
class Plot {
 public:
  /// A plot without series.
  explicit Plot(std::string title = {}, std::string x_label = {}, std::string y_label = {})
      : title_(std::move(title)), x_label_(std::move(x_label)), y_label_(std::move(y_label)) {}

  /// Adds a line through points; it has a gap where a value is not finite.
  Plot& line(std::string name, std::vector<double> x, std::vector<double> y) {
    return add(Kind::line, std::move(name), std::move(x), std::move(y));
  }
  /// Adds points; those that are not finite are left out.
  Plot& points(std::string name, std::vector<double> x, std::vector<double> y) {
    return add(Kind::points, std::move(name), std::move(x), std::move(y));
  }
  /// Adds bars from zero to `heights`, each from one of `edges` to the next: one edge more than
  /// bars.
  Plot& bars(std::string name, std::vector<double> edges, std::vector<double> heights) {
    return add(Kind::bars, std::move(name), std::move(edges), std::move(heights));
  }

  /// The part of the x axis to show; by default what the series take.
  Plot& x_range(double low, double high) {
    x_range_ = checked(low, high);
    return *this;
  }
  /// The part of the y axis to show; by default what the series take.
  Plot& y_range(double low, double high) {
    y_range_ = checked(low, high);
    return *this;
  }
  /// The size of the image in pixels, at least 120 x 100. Default: 640 x 400
  Plot& size(int width, int height) {
    TORCH_CHECK_VALUE(width >= 120 && height >= 100, "Plot: the size must be at least 120 x 100, ",
                      "got ", width, " x ", height);
    width_ = width;
    height_ = height;
    return *this;
  }
  /// The width in pixels.
  int width() const { return width_; }
  /// The height in pixels.
  int height() const { return height_; }

  /// The image, an SVG document. `x` and `y` place it in another one.
  std::string to_string(int x = 0, int y = 0) const {
    const Frame frame = layout();
    std::string text = "<svg xmlns=\"http://www.w3.org/2000/svg\" x=\"" + std::to_string(x);
    text += "\" y=\"" + std::to_string(y) + "\" width=\"" + std::to_string(width_);
    text += "\" height=\"" + std::to_string(height_);
    text += "\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#333\">\n";
    text += "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n";
    draw_axes(frame, text);
    for (std::size_t index = 0; index < series_.size(); ++index) {
      draw(series_[index], color(index), frame, text);
    }
    draw_legend(frame, text);
    return text + "</svg>\n";
  }

 private:
  enum class Kind { line, points, bars };
  struct Range {
    double low = std::numeric_limits<double>::quiet_NaN();
    double high = std::numeric_limits<double>::quiet_NaN();
    bool set() const { return low < high; }
  };
  struct Series {
    Kind kind;
    std::string name;
    std::vector<double> x;
    std::vector<double> y;
  };
  /// Where the axes lie, in pixels and in values.
  struct Frame {
    double left, right, top, bottom;
    Range x, y;
    double at_x(double value) const {
      return left + (right - left) * (value - x.low) / (x.high - x.low);
    }
    double at_y(double value) const {
      return bottom - (bottom - top) * (value - y.low) / (y.high - y.low);
    }
  };

  /// The palette of Okabe and Ito, told apart by color-blind readers too.
  static const char* color(std::size_t index) {
    static constexpr std::array<const char*, 7> colors = {
        "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"};
    return colors[index % colors.size()];
  }

  static Range checked(double low, double high) {
    TORCH_CHECK_VALUE(std::isfinite(low) && std::isfinite(high) && low < high,
                      "Plot: a range goes from a lower to a higher finite number, got ", low,
                      " to ", high);
    return {low, high};
  }

  Plot& add(Kind kind, std::string name, std::vector<double> x, std::vector<double> y) {
    const std::size_t expected = y.size() + (kind == Kind::bars ? 1 : 0);
    TORCH_CHECK_VALUE(x.size() == expected, "Plot: '", name, "' has ", x.size(),
                      kind == Kind::bars ? " edges, but " : " x values, but ", y.size(),
                      kind == Kind::bars ? " bars; it takes one edge more than bars"
                                         : " y values; they must be as many");
    series_.push_back({kind, std::move(name), std::move(x), std::move(y)});
    return *this;
  }

  /// What the series take of an axis, with a margin, or 0 to 1.
  Range extent(bool of_x) const {
    Range range{std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
    const auto take = [&](double value) {
      if (std::isfinite(value)) {
        range.low = std::min(range.low, value);
        range.high = std::max(range.high, value);
      }
    };
    for (const auto& series : series_) {
      for (const double value : of_x ? series.x : series.y) {
        take(value);
      }
      if (!of_x && series.kind == Kind::bars) {
        take(0.0);
      }
    }
    if (!(range.low <= range.high)) {
      return {0.0, 1.0};
    }
    // A few bits apart is rounding.
    if (range.high - range.low <= 1e-9 * std::max(std::abs(range.low), std::abs(range.high))) {
      const double half = range.low == 0.0 ? 0.5 : 0.5 * std::abs(range.low);
      return {range.low - half, range.high + half};
    }
    const double margin = of_x ? 0.0 : 0.05 * (range.high - range.low);
    return {range.low == 0.0 ? 0.0 : range.low - margin, range.high + margin};
  }

  Frame layout() const {
    Frame frame{};
    frame.left = y_label_.empty() ? 44.0 : 60.0;
    frame.right = width_ - 14.0;
    frame.top = title_.empty() ? 14.0 : 32.0;
    frame.bottom = height_ - (x_label_.empty() ? 24.0 : 42.0);
    frame.x = x_range_.set() ? x_range_ : extent(true);
    frame.y = y_range_.set() ? y_range_ : extent(false);
    return frame;
  }

  static void write(std::string& text, double x, double y, const char* anchor,
                    std::string_view words, const char* more = "") {
    text += "<text x=\"" + detail::pixels(x) + "\" y=\"" + detail::pixels(y);
    text += "\" text-anchor=\"" + std::string(anchor) + "\"" + more + ">";
    text += detail::escaped(words) + "</text>\n";
  }

  static void stroke(std::string& text, double x1, double y1, double x2, double y2,
                     const char* paint) {
    text += "<line x1=\"" + detail::pixels(x1) + "\" y1=\"" + detail::pixels(y1);
    text += "\" x2=\"" + detail::pixels(x2) + "\" y2=\"" + detail::pixels(y2);
    text += "\" stroke=\"" + std::string(paint) + "\"/>\n";
  }

  void draw_axes(const Frame& frame, std::string& text) const {
    const int x_ticks = std::max(2, static_cast<int>((frame.right - frame.left) / 80.0));
    for (const double tick : detail::ticks(frame.x.low, frame.x.high, x_ticks)) {
      stroke(text, frame.at_x(tick), frame.bottom, frame.at_x(tick), frame.bottom + 4.0, "#333");
      write(text, frame.at_x(tick), frame.bottom + 16.0, "middle", detail::number(tick));
    }
    const int y_ticks = std::max(2, static_cast<int>((frame.bottom - frame.top) / 50.0));
    for (const double tick : detail::ticks(frame.y.low, frame.y.high, y_ticks)) {
      stroke(text, frame.left, frame.at_y(tick), frame.right, frame.at_y(tick), "#ddd");
      write(text, frame.left - 6.0, frame.at_y(tick) + 4.0, "end", detail::number(tick));
    }
    stroke(text, frame.left, frame.bottom, frame.right, frame.bottom, "#333");
    stroke(text, frame.left, frame.top, frame.left, frame.bottom, "#333");
    write(text, 0.5 * (frame.left + frame.right), 20.0, "middle", title_, " font-weight=\"bold\"");
    write(text, 0.5 * (frame.left + frame.right), height_ - 8.0, "middle", x_label_);
    const double middle = 0.5 * (frame.top + frame.bottom);
    const std::string turn = " transform=\"rotate(-90 14 " + detail::pixels(middle) + ")\"";
    write(text, 14.0, middle, "middle", y_label_, turn.c_str());
  }

  static void draw(const Series& series, const char* paint, const Frame& frame, std::string& text) {
    const auto inside = [](double value, double low, double high) {
      return std::clamp(value, low, high);
    };
    if (series.kind == Kind::bars) {
      for (std::size_t index = 0; index < series.y.size(); ++index) {
        const double height = series.y[index];
        if (!std::isfinite(height) || height == 0.0) {
          continue;
        }
        const double left = frame.at_x(inside(series.x[index], frame.x.low, frame.x.high));
        const double right = frame.at_x(inside(series.x[index + 1], frame.x.low, frame.x.high));
        const double zero = frame.at_y(inside(0.0, frame.y.low, frame.y.high));
        const double end = frame.at_y(inside(height, frame.y.low, frame.y.high));
        const double gap = std::min(1.0, 0.1 * (right - left));
        text += "<rect x=\"" + detail::pixels(left + gap);
        text += "\" y=\"" + detail::pixels(std::min(zero, end));
        text += "\" width=\"" + detail::pixels(std::max(0.0, right - left - 2.0 * gap));
        text += "\" height=\"" + detail::pixels(std::abs(zero - end));
        text += "\" fill=\"" + std::string(paint) + "\" fill-opacity=\"0.8\"><title>";
        text += detail::number(series.x[index]) + " to " + detail::number(series.x[index + 1]);
        text += ": " + detail::number(height) + "</title></rect>\n";
      }
      return;
    }
    std::string path;
    bool drawing = false;
    for (std::size_t index = 0; index < series.y.size(); ++index) {
      if (!std::isfinite(series.x[index]) || !std::isfinite(series.y[index])) {
        drawing = false;
        continue;
      }
      const auto x = detail::pixels(frame.at_x(inside(series.x[index], frame.x.low, frame.x.high)));
      const auto y = detail::pixels(frame.at_y(inside(series.y[index], frame.y.low, frame.y.high)));
      if (series.kind == Kind::points) {
        text += "<circle cx=\"" + x;
        text += "\" cy=\"" + y;
        text += "\" r=\"3\" fill=\"" + std::string(paint) + "\"/>\n";
      } else {
        path += drawing ? " L" : " M";
        path += x;
        path += ' ';
        path += y;
        drawing = true;
      }
    }
    if (!path.empty()) {
      text += "<path d=\"" + path.substr(1);
      text += "\" fill=\"none\" stroke=\"" + std::string(paint) + "\" stroke-width=\"1.5\"/>\n";
    }
  }

  void draw_legend(const Frame& frame, std::string& text) const {
    double y = frame.top + 14.0;
    for (std::size_t index = 0; index < series_.size(); ++index) {
      if (series_[index].name.empty()) {
        continue;
      }
      text +=
          "<rect x=\"" + detail::pixels(frame.right - 18.0) + "\" y=\"" + detail::pixels(y - 9.0);
      text += "\" width=\"10\" height=\"10\" fill=\"" + std::string(color(index)) + "\"/>\n";
      write(text, frame.right - 24.0, y, "end", series_[index].name);
      y += 16.0;
    }
  }

  std::string title_;
  std::string x_label_;
  std::string y_label_;
  std::vector<Series> series_;
  Range x_range_;
  Range y_range_;
  int width_ = 640;
  int height_ = 400;
};

/// Plots side by side, `columns` in a row, as one SVG document. Throws `c10::ValueError` if
/// `columns` is below 1.
inline std::string grid(const std::vector<Plot>& plots, int columns) {
  TORCH_CHECK_VALUE(columns >= 1, "grid: columns must be at least 1, got ", columns);
  std::string parts;
  int x = 0;
  int y = 0;
  int width = 0;
  int row_height = 0;
  int in_row = 0;
  for (const auto& plot : plots) {
    if (in_row == columns) {
      y += row_height;
      x = row_height = in_row = 0;
    }
    parts += plot.to_string(x, y);
    x += plot.width();
    ++in_row;
    width = std::max(width, x);
    row_height = std::max(row_height, plot.height());
  }
  std::string text = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + std::to_string(width);
  text += "\" height=\"" + std::to_string(y + row_height) + "\">\n";
  return text + parts + "</svg>\n";
}

}  // namespace bsconv::svg
