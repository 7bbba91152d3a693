// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <utility>
#include <variant>
#include <vector>

#include <c10/util/ArrayRef.h>
#include <c10/util/Exception.h>

namespace bsconv::train {

namespace detail {

inline void check_rate(const char* name, double value) {
  TORCH_CHECK(value > 0 && value <= 1e6, name, " must be a positive number, got ", value);
}

/// From `start` at 0 to `end` at 1, along half a cosine.
inline double cosine_between(double start, double end, double position) {
  return end + (start - end) / 2 * (1 + std::cos(std::numbers::pi * position));
}

}  // namespace detail

/// A learning rate that is multiplied by `gamma` after each of the given epochs.
class MultiStepSchedule {
 public:
  /// `milestones` are numbers of finished epochs, strictly increasing; {100, 150, 180} lowers the
  /// rate for the 101st, 151st and 181st epoch. Throws if they are not, or if a factor is not a
  /// positive finite number.
  MultiStepSchedule(double learning_rate, std::vector<int64_t> milestones, double gamma = 0.1)
      : learning_rate_(learning_rate), milestones_(std::move(milestones)), gamma_(gamma) {
    detail::check_rate("learning_rate", learning_rate_);
    detail::check_rate("gamma", gamma_);
    int64_t previous = 0;
    for (const int64_t milestone : milestones_) {
      TORCH_CHECK(milestone > previous,
                  "schedule must be epochs from 1 on in increasing order, got ",
                  c10::IntArrayRef(milestones_));
      previous = milestone;
    }
  }

  /// The learning rate while `epoch`, counted from 0, is trained.
  double at(int64_t epoch) const {
    double rate = learning_rate_;
    for (const int64_t milestone : milestones_) {
      if (epoch >= milestone) {
        rate *= gamma_;
      }
    }
    return rate;
  }

 private:
  double learning_rate_;
  std::vector<int64_t> milestones_;
  double gamma_;
};

/// A learning rate that falls along half a cosine (SGDR without restarts, Loshchilov and Hutter,
/// ICLR 2017), from the first step to the end of the last one.
class CosineSchedule {
 public:
  /// Falls from `learning_rate` to `min_learning_rate`. Throws if the first is not positive or the
  /// second does not lie between 0 and the first.
  explicit CosineSchedule(double learning_rate, double min_learning_rate = 0)
      : learning_rate_(learning_rate), min_learning_rate_(min_learning_rate) {
    detail::check_rate("learning_rate", learning_rate_);
    TORCH_CHECK(min_learning_rate_ >= 0 && min_learning_rate_ <= learning_rate_,
                "min_learning_rate must lie between 0 and the learning rate ", learning_rate_,
                ", got ", min_learning_rate_);
  }

  /// The learning rate at `step`, counted from 0, of `steps`.
  double at(double step, double steps) const {
    return detail::cosine_between(learning_rate_, min_learning_rate_,
                                  steps > 0 ? std::clamp(step / steps, 0.0, 1.0) : 0.0);
  }

 private:
  double learning_rate_;
  double min_learning_rate_;
};

/// A learning rate that rises and then falls (Smith and Topin, "Super-Convergence", 2018), each
/// along half a cosine; the numbers are those of PyTorch's `OneCycleLR`. Momentum stays as it is.
class OneCycleSchedule {
 public:
  /// Rises from `max_rate / div_factor` to `max_rate` in the share `pct_start` of the steps, then
  /// falls to `max_rate / div_factor / final_div_factor`. Throws if a value is out of its range.
  explicit OneCycleSchedule(double max_rate, double pct_start = 0.3, double div_factor = 25,
                            double final_div_factor = 1e4)
      : max_rate_(max_rate),
        pct_start_(pct_start),
        first_rate_(max_rate / div_factor),
        last_rate_(max_rate / div_factor / final_div_factor) {
    detail::check_rate("learning_rate", max_rate_);
    TORCH_CHECK(pct_start > 0 && pct_start < 1, "pct_start must lie between 0 and 1, got ",
                pct_start);
    TORCH_CHECK(div_factor >= 1 && std::isfinite(div_factor),
                "div_factor must be a number from 1 on, got ", div_factor);
    TORCH_CHECK(final_div_factor >= 1 && std::isfinite(final_div_factor),
                "final_div_factor must be a number from 1 on, got ", final_div_factor);
  }

  /// The learning rate at `step`, counted from 0, of `steps`.
  double at(double step, double steps) const {
    const double top = pct_start_ * steps - 1;
    const double last = steps - 1;
    if (step <= top) {
      return detail::cosine_between(first_rate_, max_rate_, top > 0 ? step / top : 1.0);
    }
    // With very few steps the top lies before the first one.
    const double begin = std::max(top, 0.0);
    return detail::cosine_between(
        max_rate_, last_rate_,
        last > begin ? std::clamp((step - begin) / (last - begin), 0.0, 1.0) : 1.0);
  }

 private:
  double max_rate_;
  double pct_start_;
  double first_rate_;
  double last_rate_;
};

/// The learning rate of every step of a training: one of the curves, with a linear warm-up in
/// front.
///
/// A curve over steps begins after the warm-up; the epochs of `MultiStepSchedule` count from the
/// start of the training, its rate during the warm-up is multiplied by a factor that rises to 1.
class Schedule {
 public:
  /// What the rate does after the warm-up.
  using Curve = std::variant<MultiStepSchedule, CosineSchedule, OneCycleSchedule>;

  /// `warmup_factor` is the share of the rate that the warm-up starts from. Throws if the warm-up
  /// is not shorter than the training.
  Schedule(Curve curve, int64_t epochs, double warmup_epochs = 0, double warmup_factor = 0.01)
      : curve_(std::move(curve)),
        epochs_(static_cast<double>(epochs)),
        warmup_epochs_(warmup_epochs),
        warmup_factor_(warmup_factor) {
    TORCH_CHECK(
        warmup_epochs_ == 0 || (warmup_epochs_ > 0 && warmup_epochs_ < static_cast<double>(epochs)),
        "warmup_epochs must lie in 0..", epochs, ", the number of epochs excluded, got ",
        warmup_epochs_);
    TORCH_CHECK(warmup_factor_ >= 0 && warmup_factor_ <= 1, "warmup_factor must lie in 0..1, got ",
                warmup_factor_);
  }

  /// The learning rate of step `step` of `epoch`, both counted from 0, with `steps` steps of the
  /// optimizer an epoch.
  double at(int64_t epoch, int64_t step, int64_t steps) const {
    const auto in_epoch = static_cast<double>(std::max<int64_t>(steps, 1));
    const double done = static_cast<double>(epoch) * in_epoch + static_cast<double>(step);
    const double warmup = warmup_epochs_ * in_epoch;
    const bool warming = done < warmup;
    const double factor = warming ? warmup_factor_ + (1 - warmup_factor_) * done / warmup : 1.0;
    if (const auto* steps_of_epochs = std::get_if<MultiStepSchedule>(&curve_)) {
      return factor * steps_of_epochs->at(epoch);
    }
    const double after = warming ? 0.0 : done - warmup;
    const double total = epochs_ * in_epoch - warmup;
    if (const auto* cosine = std::get_if<CosineSchedule>(&curve_)) {
      return factor * cosine->at(after, total);
    }
    return factor * std::get<OneCycleSchedule>(curve_).at(after, total);
  }

 private:
  Curve curve_;
  double epochs_;
  double warmup_epochs_;
  double warmup_factor_;
};

}  // namespace bsconv::train
