// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cairo.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <memory>
#include <numbers>
#include <string>

#include <c10/util/Exception.h>

#include <bsconv/plot/figure.hpp>

namespace bsconv::plot {

/// A color, each part from 0 to 1.
struct Color {
  /// Red.
  double red = 0;
  /// Green.
  double green = 0;
  /// Blue.
  double blue = 0;
};

/// The color of a series: eight that people with color-blindness can tell apart (Okabe and Ito,
/// 2008), the yellow darkened for white paper.
inline Color series_color(std::size_t number) {
  static constexpr std::array<Color, color_count> colors = {{{0.000, 0.447, 0.698},
                                                             {0.835, 0.369, 0.000},
                                                             {0.000, 0.620, 0.451},
                                                             {0.800, 0.475, 0.655},
                                                             {0.902, 0.624, 0.000},
                                                             {0.337, 0.706, 0.914},
                                                             {0.600, 0.560, 0.050},
                                                             {0.250, 0.250, 0.250}}};
  return colors[number % colors.size()];
}

/// How a text lies beside its point.
enum class Align {
  /// To the right of it.
  left,
  /// Around it.
  center,
  /// To the left of it.
  right,
};

/// Draws lines, signs and text on a cairo surface. Lengths are points of 1/72 inch.
class Canvas {
 public:
  /// Draws on `surface`, which it keeps.
  explicit Canvas(cairo_surface_t* surface) : context_(cairo_create(surface), cairo_destroy) {
    check();
    cairo_select_font_face(context(), "sans-serif", CAIRO_FONT_SLANT_NORMAL,
                           CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_line_join(context(), CAIRO_LINE_JOIN_ROUND);
  }

  /// Multiplies what is drawn later.
  void scale(double factor) { cairo_scale(context(), factor, factor); }

  /// Sets the color of what is drawn next.
  void color(Color color, double opacity = 1) {
    cairo_set_source_rgba(context(), color.red, color.green, color.blue, opacity);
  }

  /// Fills everything.
  void paint() { cairo_paint(context()); }

  /// Sets the width of lines, and whether they are dashed.
  void pen(double width, bool dashed = false) {
    const std::array<double, 2> dashes = {5, 3.5};
    cairo_set_line_width(context(), width);
    cairo_set_dash(context(), dashes.data(), dashed ? 2 : 0, 0);
  }

  /// A straight line.
  void line(double x0, double y0, double x1, double y1) {
    cairo_move_to(context(), x0, y0);
    cairo_line_to(context(), x1, y1);
    cairo_stroke(context());
  }

  /// Begins a path at a point, or goes on to it.
  void path_to(double x, double y, bool begin) {
    (begin ? cairo_move_to : cairo_line_to)(context(), x, y);
  }

  /// Draws the path.
  void stroke() { cairo_stroke(context()); }

  /// Lets what is drawn until `unclip` show only inside a rectangle.
  void clip(double x, double y, double width, double height) {
    cairo_save(context());
    cairo_rectangle(context(), x, y, width, height);
    cairo_clip(context());
  }

  /// Ends `clip`.
  void unclip() { cairo_restore(context()); }

  /// A filled sign of about `size` across.
  void marker(Marker marker, double x, double y, double size) {
    const double half = size / 2;
    cairo_new_path(context());
    switch (marker) {
      case Marker::none:
        return;
      case Marker::circle:
        cairo_arc(context(), x, y, half, 0, 2 * std::numbers::pi);
        break;
      case Marker::square:
        cairo_rectangle(context(), x - 0.9 * half, y - 0.9 * half, 1.8 * half, 1.8 * half);
        break;
      case Marker::triangle:
        polygon(x, y, 1.2 * half, 3, -std::numbers::pi / 2);
        break;
      case Marker::diamond:
        polygon(x, y, 1.2 * half, 4, 0);
        break;
      case Marker::ring:
        cairo_arc(context(), x, y, half, 0, 2 * std::numbers::pi);
        pen(1.8, false);
        stroke();
        return;
    }
    cairo_fill(context());
  }

  /// Sets the size of text, and whether it is bold.
  void font(double size, bool bold = false) {
    cairo_select_font_face(context(), "sans-serif", CAIRO_FONT_SLANT_NORMAL,
                           bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(context(), size);
  }

  /// How wide `text` is.
  double text_width(const std::string& text) {
    cairo_text_extents_t extents;
    cairo_text_extents(context(), text.c_str(), &extents);
    return extents.x_advance;
  }

  /// Writes `text` with its baseline at `y`.
  void text(const std::string& text, double x, double y, Align align = Align::left) {
    const double width = text_width(text);
    cairo_move_to(context(),
                  align == Align::left     ? x
                  : align == Align::center ? x - width / 2
                                           : x - width,
                  y);
    cairo_show_text(context(), text.c_str());
  }

  /// Writes `text` upwards, around `y`.
  void text_upwards(const std::string& text, double x, double y) {
    cairo_save(context());
    cairo_move_to(context(), x, y + text_width(text) / 2);
    cairo_rotate(context(), -std::numbers::pi / 2);
    cairo_show_text(context(), text.c_str());
    cairo_restore(context());
  }

  /// Throws `c10::Error` if something could not be drawn.
  void check() const {
    const auto status = cairo_status(context_.get());
    TORCH_CHECK(status == CAIRO_STATUS_SUCCESS, "cannot draw: ", cairo_status_to_string(status));
  }

 private:
  cairo_t* context() const { return context_.get(); }

  void polygon(double x, double y, double radius, int corners, double start) {
    for (int i = 0; i < corners; ++i) {
      const double angle = start + 2 * std::numbers::pi * i / corners;
      path_to(x + radius * std::cos(angle), y + radius * std::sin(angle), i == 0);
    }
    cairo_close_path(context());
  }

  std::unique_ptr<cairo_t, decltype(&cairo_destroy)> context_;
};

}  // namespace bsconv::plot
