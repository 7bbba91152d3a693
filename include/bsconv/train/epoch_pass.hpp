// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <c10/util/Exception.h>

#include <bsconv/data/batch_source.hpp>
#include <bsconv/data/prefetch.hpp>
#include <bsconv/train/metrics.hpp>
#include <bsconv/train/run.hpp>

namespace bsconv::train {

/// Training on what is left of an epoch's batches: the steps, the sums of what came of them, and
/// the checkpoints in between.
class EpochPass {
 public:
  /// A pass of `run`, which outlives it, and whose course has started.
  explicit EpochPass(Run& run) : run_(run) {}

  /// Trains on the rest of the epoch of `source`. Returns whether it was stopped before its end,
  /// which it is between two steps of the optimizer. Throws `c10::Error` if a loss is not finite.
  bool train(const data::BatchSource& source) {
    const auto& options = run_.options;
    auto& course = run_.course;
    auto where = run_.position();
    run_.observers.on_pass_begin(where);
    const int64_t interval = options.device().is_cpu() ? 1 : options.log_interval();
    data::Prefetcher batches(source, course.epoch(), course.step(), options.workers());
    bool stopped = false;
    bool save = false;
    while (batches.has_next() && !stopped) {
      const auto in_group = course.step() % options.accumulate();
      const bool applied =
          in_group + 1 == options.accumulate() || course.step() + 1 == course.steps();
      if (in_group == 0) {
        where.learning_rate = run_.rate_of(course.step());
      }
      pending_.push_back(
          options.accumulate() == 1
              ? run_.learner.step(batches.next(), where.learning_rate)
              : part_of_step(batches.next(), where.learning_rate, in_group, applied));
      course.advance();
      where.step = course.step();
      const bool asked = run_.is_asked_to_stop();
      // With others, all collect at the same steps, and learn there of each other's wishes.
      stopping_ = stopping_ || (asked && run_.processes.is_alone());
      save = save || is_saved(where.step);
      if (!batches.has_next() || where.step % interval == 0 || (applied && (save || stopping_))) {
        collect(asked);
        run_.observers.on_step(where, course.sums());
      }
      stopped = stopping_ && applied;
      if (save && applied && !stopped) {
        spend();
        run_.write("last.safetensors", run_.checkpoint());
        save = false;
      }
    }
    run_.observers.on_pass_end(where, course.sums());
    spend();
    return stopped;
  }

 private:
  /// Counts the seconds since the last time, or since the pass began.
  void spend() {
    const auto now = std::chrono::steady_clock::now();
    run_.course.spend(std::chrono::duration<double>(now - counted_).count());
    counted_ = now;
  }

  /// Whether a checkpoint is due after batch `step` of an epoch.
  bool is_saved(int64_t step) const {
    const int64_t steps = run_.options.checkpoint_steps();
    return steps > 0 && step % steps == 0;
  }

  /// One of the batches whose gradients are accumulated, the last if `applied`.
  StepResult part_of_step(const data::Batch& batch, double learning_rate, int64_t in_group,
                          bool applied) {
    if (in_group == 0) {
      run_.learner.begin(learning_rate);
    }
    const int64_t first = run_.course.step() - in_group;
    auto result = run_.learner.backward(
        batch, std::min(run_.options.accumulate(), run_.course.steps() - first), applied);
    if (applied) {
      run_.learner.apply();
    }
    return result;
  }

  /// NaN without the sign that says nothing to a reader.
  static double unsigned_nan(double value) { return std::isnan(value) ? std::fabs(value) : value; }

  /// Adds up what came of the batches since the last time, in all processes, and finds out whether
  /// one of these is `asked` to stop.
  void collect(bool asked) {
    const auto fetched = metrics_of(pending_);
    std::vector<MetricSums> sums(pending_.size());
    for (std::size_t i = 0; i < pending_.size(); ++i) {
      sums[i].add(fetched[i], pending_[i].examples);
    }
    stopping_ = run_.processes.sum(sums, asked);
    auto step = run_.course.step() - static_cast<int64_t>(pending_.size());
    for (const auto& batch : sums) {
      ++step;
      const auto metrics = batch.mean();
      TORCH_CHECK(std::isfinite(metrics.loss), "the loss is not finite at step ", step,
                  " of epoch ", run_.course.epoch() + 1, ": ", unsigned_nan(metrics.loss),
                  " (cross entropy ", unsigned_nan(metrics.cross_entropy), ", regularization ",
                  unsigned_nan(metrics.regularization), "); a lower learning rate may help; ",
                  run_.folder.last_good());
      run_.course.add(batch);
    }
    pending_.clear();
  }

  Run& run_;
  /// Up to when seconds were counted.
  std::chrono::steady_clock::time_point counted_ = std::chrono::steady_clock::now();
  /// What came of the batches since metrics were last fetched.
  std::vector<StepResult> pending_;
  /// Whether all processes know that one was asked to stop.
  bool stopping_ = false;
};

}  // namespace bsconv::train
