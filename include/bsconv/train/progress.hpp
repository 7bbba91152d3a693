// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iomanip>
#include <ostream>
#include <sstream>
#include <string>

#include <bsconv/train/metrics.hpp>
#include <bsconv/train/observer.hpp>

namespace bsconv::train {

/// How `Progress` prints.
enum class ProgressStyle {
  /// A line every few batches: for log files.
  lines,
  /// One line that is drawn anew, with a bar: for terminals.
  bar,
};

/// `bar` if standard output is a terminal, else `lines`.
inline ProgressStyle default_progress_style() {
  return ::isatty(STDOUT_FILENO) == 1 ? ProgressStyle::bar : ProgressStyle::lines;
}

/// Seconds as "0:07", "12:34" or "1:02:03"; "?" for what is not a length of time.
inline std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) {
    return "?";
  }
  const auto total = std::llround(seconds);
  std::ostringstream out;
  out << std::setfill('0');
  if (total >= 3600) {
    out << total / 3600 << ':' << std::setw(2) << total / 60 % 60;
  } else {
    out << total / 60;
  }
  out << ':' << std::setw(2) << total % 60;
  return out.str();
}

/// Averages as "loss 4.7052 (ce 4.6052 + reg 0.1000)  top-1 1.23 %", with the top-5 accuracy where
/// it was measured. With a teacher, whose loss has a weight, "(ce 1.5913, teacher 5.4036, reg 0)".
inline std::string to_string(const Metrics& metrics) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(4) << "loss " << metrics.loss << " (ce "
      << metrics.cross_entropy;
  if (std::isnan(metrics.distillation)) {
    out << " + reg ";
  } else {
    out << ", teacher " << metrics.distillation << ", reg ";
  }
  out << metrics.regularization << ")  top-1 " << std::setprecision(2) << 100 * metrics.accuracy
      << " %";
  if (!std::isnan(metrics.accuracy_top5)) {
    out << "  top-5 " << 100 * metrics.accuracy_top5 << " %";
  }
  return out.str();
}

/// Prints how a training goes: batches done, losses, images per second and time left in the pass;
/// after each epoch a summary with the best accuracy so far and the time left in all.
class Progress : public Observer {
 public:
  /// Prints to `out`, which must outlive this object; in the style `lines` every `interval` batches
  /// and after the last one.
  explicit Progress(std::ostream& out, ProgressStyle style = default_progress_style(),
                    int64_t interval = 10)
      : out_(out), style_(style), interval_(std::max<int64_t>(interval, 1)) {}

  void on_pass_begin(const Position& position) override {
    first_step_ = position.step;
    if (position.split == data::Split::train && position.steps > 0) {
      share_ = 1 - static_cast<double>(position.step) / static_cast<double>(position.steps);
    }
    printed_step_ = position.step;
    start_ = Clock::now();
    drawn_ = start_ - std::chrono::hours(1);
  }

  void on_step(const Position& position, const MetricSums& so_far) override {
    const auto now = Clock::now();
    if (style_ == ProgressStyle::bar) {
      if (now - drawn_ >= std::chrono::milliseconds(100) || position.step == position.steps) {
        drawn_ = now;
        out_ << '\r' << line(position, so_far) << "\x1b[K" << std::flush;
      }
    } else if (position.step - printed_step_ >= interval_ || position.step == position.steps) {
      printed_step_ = position.step;
      out_ << line(position, so_far) << '\n' << std::flush;
    }
  }

  void on_pass_end(const Position& position, const MetricSums& sums) override {
    if (style_ == ProgressStyle::bar) {
      out_ << '\r' << line(position, sums) << "\x1b[K\n" << std::flush;
    }
  }

  void on_epoch_end(const EpochSummary& summary) override {
    std::ostringstream text;
    text << "epoch " << summary.epoch << '/' << summary.epochs << " done: lr "
         << summary.learning_rate << ", train " << to_string(summary.train) << ", "
         << (summary.tested() ? "test " + to_string(summary.test) : std::string("not tested"))
         << ", best " << std::fixed << std::setprecision(2) << 100 * summary.best_accuracy
         << " % (epoch " << summary.best_epoch << "), " << std::setprecision(0)
         << summary.images_per_second << " images/s, " << format_duration(summary.seconds);
    // The latest epochs count most; not all have a test, and one resumed has only a part.
    constexpr double forget = 0.8;
    seconds_ = forget * seconds_ + summary.seconds;
    epochs_ = forget * epochs_ + share_;
    if (summary.epoch < summary.epochs) {
      text << ", about "
           << format_duration(seconds_ / epochs_ *
                              static_cast<double>(summary.epochs - summary.epoch))
           << " left";
    }
    out_ << text.str() << '\n' << std::flush;
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::string line(const Position& position, const MetricSums& so_far) const {
    std::ostringstream text;
    if (position.epochs > 0) {
      text << "epoch " << position.epoch << '/' << position.epochs << "  ";
    }
    text << std::left << std::setw(5) << data::to_string(position.split) << "  " << std::right;
    if (style_ == ProgressStyle::bar) {
      constexpr int64_t width = 20;
      const int64_t filled = position.steps > 0 ? width * position.step / position.steps : width;
      text << '[' << std::string(static_cast<std::size_t>(filled), '#')
           << std::string(static_cast<std::size_t>(width - filled), '.') << "] ";
    }
    const auto digits = static_cast<int>(std::to_string(position.steps).size());
    text << std::setw(digits) << position.step << '/' << position.steps << "  "
         << to_string(so_far.mean());
    const std::chrono::duration<double> elapsed = Clock::now() - start_;
    const auto done = static_cast<double>(position.step - first_step_);
    if (done > 0 && elapsed.count() > 0) {
      const double images =
          static_cast<double>(so_far.examples) * done / static_cast<double>(position.step);
      text << "  " << std::fixed << std::setprecision(0) << images / elapsed.count()
           << " images/s  "
           << format_duration(elapsed.count() / done *
                              static_cast<double>(position.steps - position.step))
           << " left";
    }
    return text.str();
  }

  std::ostream& out_;
  ProgressStyle style_;
  int64_t interval_;
  int64_t first_step_ = 0;
  int64_t printed_step_ = 0;
  Clock::time_point start_;
  Clock::time_point drawn_;
  /// Share of the epoch that this run trains.
  double share_ = 1;
  double seconds_ = 0;
  double epochs_ = 0;
};

}  // namespace bsconv::train
