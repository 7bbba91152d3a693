// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cairo-svg.h>
#include <cairo.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include <c10/util/Exception.h>

#include <bsconv/plot/canvas.hpp>
#include <bsconv/plot/draw.hpp>
#include <bsconv/plot/figure.hpp>
#include <bsconv/util/svg.hpp>
#include <bsconv/weights/atomic_file.hpp>

namespace bsconv::plot {

namespace detail {

using Surface = std::unique_ptr<cairo_surface_t, decltype(&cairo_surface_destroy)>;

inline cairo_status_t append_bytes(void* text, const unsigned char* bytes, unsigned int count) {
  static_cast<std::string*>(text)->append(reinterpret_cast<const char*>(bytes), count);
  return CAIRO_STATUS_SUCCESS;
}

inline void check_surface(cairo_surface_t* surface) {
  const auto status = cairo_surface_status(surface);
  TORCH_CHECK(status == CAIRO_STATUS_SUCCESS, "cannot draw: ", cairo_status_to_string(status));
}

/// Width and height of `figure` in points.
inline std::pair<double, double> measure(const Figure& figure) {
  const Surface scratch(cairo_image_surface_create(CAIRO_FORMAT_A8, 1, 1), cairo_surface_destroy);
  Canvas canvas(scratch.get());
  return figure_size(figure, canvas);
}

/// Names the SVG document `text`, as cairo writes it, for readers that don't see it.
inline void set_svg_title(std::string& text, const std::string& title) {
  const auto root = text.find("<svg ");
  const auto end = root == std::string::npos ? root : text.find('>', root);
  if (end != std::string::npos && !title.empty()) {
    std::string element = "\n<title>";
    element += bsconv::svg::detail::escaped(title);
    element += "</title>";
    text.insert(end + 1, element);
  }
}

}  // namespace detail

/// `figure` as an SVG document.
inline std::string to_svg(const Figure& figure) {
  const auto [width, height] = detail::measure(figure);
  std::string text;
  {
    const detail::Surface surface(
        cairo_svg_surface_create_for_stream(detail::append_bytes, &text, width, height),
        cairo_surface_destroy);
    Canvas canvas(surface.get());
    draw(canvas, figure);
    cairo_surface_finish(surface.get());
    detail::check_surface(surface.get());
  }
  detail::set_svg_title(text, figure.title);
  return text;
}

/// `figure` as the bytes of a PNG image with `scale` pixels a point.
inline std::string to_png(const Figure& figure, double scale = 2) {
  TORCH_CHECK(scale > 0 && scale <= 20, "scale must lie in 0..20, 0 excluded, got ", scale);
  const auto [width, height] = detail::measure(figure);
  const detail::Surface surface(
      cairo_image_surface_create(CAIRO_FORMAT_RGB24, static_cast<int>(std::ceil(width * scale)),
                                 static_cast<int>(std::ceil(height * scale))),
      cairo_surface_destroy);
  {
    Canvas canvas(surface.get());
    canvas.scale(scale);
    draw(canvas, figure);
  }
  std::string bytes;
  const auto status =
      cairo_surface_write_to_png_stream(surface.get(), detail::append_bytes, &bytes);
  TORCH_CHECK(status == CAIRO_STATUS_SUCCESS, "cannot draw: ", cairo_status_to_string(status));
  return bytes;
}

/// Writes `figure` to `path` as SVG or PNG, by the name's ending, complete or not at all. Throws
/// `c10::Error` for another ending or if it can't be written.
inline void save_figure(const std::filesystem::path& path, const Figure& figure, double scale = 2) {
  const auto ending = path.extension();
  TORCH_CHECK_VALUE(ending == ".svg" || ending == ".png", "cannot draw '", path.native(),
                    "': valid endings are .svg and .png");
  weights::write_text_file(path, ending == ".svg" ? to_svg(figure) : to_png(figure, scale));
}

}  // namespace bsconv::plot
