// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <c10/util/ArrayRef.h>
#include <c10/util/Exception.h>

namespace bsconv::train {

/// A learning rate that is multiplied by `gamma` after each of the given epochs.
class MultiStepSchedule {
 public:
  /// `milestones` are numbers of finished epochs, strictly increasing; {100, 150, 180} lowers the
  /// rate for the 101st, 151st and 181st epoch. Throws if they are not, or if a factor is not a
  /// positive finite number.
  MultiStepSchedule(double learning_rate, std::vector<int64_t> milestones, double gamma = 0.1)
      : learning_rate_(learning_rate), milestones_(std::move(milestones)), gamma_(gamma) {
    TORCH_CHECK(learning_rate_ > 0 && learning_rate_ <= 1e6,
                "learning_rate must be a positive number, got ", learning_rate_);
    TORCH_CHECK(gamma_ > 0 && gamma_ <= 1e6, "gamma must be a positive number, got ", gamma_);
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

}  // namespace bsconv::train
