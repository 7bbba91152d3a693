// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include <bsconv/train/checkpoint_state.hpp>
#include <bsconv/train/metrics.hpp>

namespace bsconv::train {

/// Where a training stands, and how it came there: its epoch, the batch within, the sums over that
/// epoch's images, and the summaries of the epochs before.
class Course {
 public:
  /// Epochs that are finished.
  int64_t epoch() const noexcept { return epoch_; }
  /// Batches of the present epoch that are done.
  int64_t step() const noexcept { return step_; }
  /// Batches in an epoch; 1 before `start`.
  int64_t steps() const noexcept { return steps_; }
  /// Sums over the training images of the present epoch.
  const MetricSums& sums() const noexcept { return sums_; }
  /// The finished epochs.
  const std::vector<EpochSummary>& history() const noexcept { return history_; }
  /// Best test accuracy so far, 0 to 1; 0 if no epoch was tested.
  double best_accuracy() const { return history_.empty() ? 0.0 : history_.back().best_accuracy; }
  /// The epoch, counted from 1, that reached it first; 0 if none.
  int64_t best_epoch() const { return history_.empty() ? 0 : history_.back().best_epoch; }

  /// Whether the best of the epochs is `patience` epochs ago, and the last one, which was tested,
  /// no better. Never with a patience of 0.
  bool is_out_of(int64_t patience) const {
    return patience > 0 && !history_.empty() && history_.back().tested() && best_epoch() > 0 &&
           epoch_ - best_epoch() >= patience;
  }

  /// Takes on what `checkpoint` says of its training.
  void load(const Checkpoint& checkpoint) {
    epoch_ = checkpoint.epoch;
    step_ = checkpoint.step;
    loaded_steps_ = checkpoint.steps;
    sums_ = checkpoint.partial;
    seconds_ = checkpoint.seconds;
    untimed_ = checkpoint.seconds > 0 ? 0 : checkpoint.partial.examples;
    history_ = checkpoint.history;
  }

  /// Says so in `checkpoint`.
  void save(Checkpoint& checkpoint) const {
    checkpoint.epoch = epoch_;
    checkpoint.step = step_;
    checkpoint.steps = loaded_steps_ > 0 ? loaded_steps_ : steps_;
    checkpoint.partial = sums_;
    checkpoint.seconds = seconds_;
    checkpoint.history = history_;
  }

  /// The batch that `start(steps)` goes on after. An epoch that a checkpoint calls finished stays
  /// so, though it was of as many processes that its batches were more or fewer.
  int64_t step_of(int64_t steps) const noexcept {
    return step_ > 0 && step_ == loaded_steps_ ? steps : step_;
  }

  /// Epochs have `steps` batches from here on.
  void start(int64_t steps) {
    step_ = step_of(steps);
    steps_ = steps;
    loaded_steps_ = 0;
  }

  /// A batch is done.
  void advance() { ++step_; }
  /// The sums over the images of a batch.
  void add(const MetricSums& batch) { sums_ += batch; }
  /// Training has taken `seconds` more.
  void spend(double seconds) { seconds_ += seconds; }

  /// The epoch of `epochs` is finished, its last batch at `learning_rate`, with what its test found
  /// in `test_seconds` if it had one. Returns whether that is the best so far.
  bool finish(int64_t epochs, double learning_rate, const std::optional<MetricSums>& tested,
              double test_seconds) {
    EpochSummary summary;
    summary.epoch = epoch_ + 1;
    summary.epochs = epochs;
    summary.learning_rate = learning_rate;
    summary.train = sums_.mean();
    summary.test = tested ? tested->mean() : Metrics::none();
    summary.best_accuracy = best_accuracy();
    summary.best_epoch = best_epoch();
    // Logits that are no numbers have a class, too.
    const bool best = tested && std::isfinite(summary.test.loss) &&
                      (summary.best_epoch == 0 || summary.test.accuracy > summary.best_accuracy);
    if (best) {
      summary.best_accuracy = summary.test.accuracy;
      summary.best_epoch = summary.epoch;
    }
    summary.seconds = seconds_ + test_seconds;
    const auto examples = static_cast<double>(sums_.examples - untimed_);
    summary.images_per_second = seconds_ > 0 ? examples / seconds_ : 0;
    history_.push_back(summary);
    ++epoch_;
    step_ = 0;
    sums_ = MetricSums{};
    seconds_ = 0;
    untimed_ = 0;
    return best;
  }

 private:
  int64_t epoch_ = 0;
  int64_t step_ = 0;
  int64_t steps_ = 1;
  /// Those of the checkpoint that the training goes on from; 0 if it doesn't say, or there is none.
  int64_t loaded_steps_ = 0;
  MetricSums sums_;
  /// Seconds of training of the present epoch.
  double seconds_ = 0;
  /// The images of `sums_` whose seconds are not known.
  int64_t untimed_ = 0;
  std::vector<EpochSummary> history_;
};

}  // namespace bsconv::train
