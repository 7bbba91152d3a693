// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace bsconv::plot {

/// A scale with marks at round numbers.
struct Axis {
  /// The value at its beginning.
  double low = 0;
  /// The value at its end, above `low`.
  double high = 1;
  /// Whether it is logarithmic.
  bool log = false;
  /// The values of its marks, rising.
  std::vector<double> ticks = {};

  /// Where `value` lies: 0 at the beginning, 1 at the end.
  double position(double value) const {
    return log ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
  }
};

/// A linear axis that holds `low` to `high`, with about `count` marks at multiples of 1, 2 or 5
/// times a power of ten; both ends are marks.
inline Axis linear_axis(double low, double high, int count = 6) {
  // Less than rounding can tell apart is one value.
  if (!(high - low > 1e-9 * std::max(std::abs(low), std::abs(high)))) {
    const double margin = std::max(std::abs(low), 1.0) * 0.5;
    low -= margin;
    high += margin;
  }
  const double rough = (high - low) / std::max(count, 1);
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * (1 - 1e-9)) {
      step = factor * power;
      break;
    }
  }
  const auto first = std::llround(std::floor(low / step + 1e-9));
  const auto last = std::llround(std::ceil(high / step - 1e-9));
  Axis axis;
  for (auto i = first; i <= last; ++i) {
    axis.ticks.push_back(static_cast<double>(i) * step);
  }
  axis.low = axis.ticks.front();
  axis.high = axis.ticks.back();
  return axis;
}

/// A logarithmic axis that holds `low` to `high`, both positive, with marks at 1, 2 and 5 times
/// powers of ten, at powers of ten alone where those would be too many, or at multiples of one step
/// where they would be fewer than three.
inline Axis log_axis(double low, double high) {
  Axis axis;
  axis.log = true;
  axis.low = low / 1.15;
  axis.high = high * 1.15;
  const double decades = std::log10(axis.high / axis.low);
  for (double power = std::floor(std::log10(axis.low)); power <= std::log10(axis.high); ++power) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double value = factor * std::pow(10, power);
      if (value >= axis.low && value <= axis.high && (decades < 3.5 || factor == 1.0)) {
        axis.ticks.push_back(value);
      }
    }
  }
  if (axis.ticks.size() < 3) {
    axis.ticks.clear();
    for (const double value : linear_axis(axis.low, axis.high, 5).ticks) {
      if (value >= axis.low && value <= axis.high) {
        axis.ticks.push_back(value);
      }
    }
  }
  return axis;
}

/// A mark's number in as few digits as it takes.
inline std::string tick_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", std::abs(value) < 1e-12 ? 0.0 : value);
  return text;
}

}  // namespace bsconv::plot
