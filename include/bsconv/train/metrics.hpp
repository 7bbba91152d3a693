// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iomanip>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include <torch/types.h>

#include <bsconv/weights/atomic_file.hpp>

namespace bsconv::train {

/// Averages over images.
struct Metrics {
  /// What is minimized: cross entropy, or with a teacher the weighted mean of it and the
  /// distillation loss, plus regularization loss.
  double loss = 0;
  /// Cross entropy, in nats.
  double cross_entropy = 0;
  /// Regularization loss, alpha included.
  double regularization = 0;
  /// Share of images whose highest logit is the right class, 0 to 1.
  double accuracy = 0;
  /// Share of images whose right class is among the five highest logits; NaN if not measured, as
  /// with five classes or fewer.
  double accuracy_top5 = std::numeric_limits<double>::quiet_NaN();
  /// Distillation loss, without its weight; NaN without a teacher.
  double distillation = std::numeric_limits<double>::quiet_NaN();

  /// What stands for metrics that were not measured: NaN throughout.
  static Metrics none() {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    return {nan, nan, nan, nan, nan, nan};
  }
};

/// Sums over the images seen so far.
struct MetricSums {
  /// Sum of the loss over images.
  double loss = 0;
  /// Sum of the cross entropy over images.
  double cross_entropy = 0;
  /// Sum of the regularization loss over images.
  double regularization = 0;
  /// Images classified correctly.
  int64_t correct = 0;
  /// Images seen.
  int64_t examples = 0;
  /// Images whose class was among the five highest logits.
  int64_t correct_top5 = 0;
  /// Images of which that was measured.
  int64_t examples_top5 = 0;
  /// Sum of the distillation loss over images.
  double distillation = 0;
  /// Images that a teacher was asked about.
  int64_t examples_distilled = 0;

  /// Calls `visit(name, field)` for every field, with its name and a pointer to the member, in one
  /// order.
  template <class Visitor>
  static void visit_fields(Visitor&& visit) {
    visit("loss", &MetricSums::loss);
    visit("cross_entropy", &MetricSums::cross_entropy);
    visit("regularization", &MetricSums::regularization);
    visit("correct", &MetricSums::correct);
    visit("examples", &MetricSums::examples);
    visit("correct_top5", &MetricSums::correct_top5);
    visit("examples_top5", &MetricSums::examples_top5);
    visit("distillation", &MetricSums::distillation);
    visit("examples_distilled", &MetricSums::examples_distilled);
  }

  /// Adds a batch of `count` images with these averages.
  void add(const Metrics& batch, int64_t count) {
    loss += batch.loss * static_cast<double>(count);
    cross_entropy += batch.cross_entropy * static_cast<double>(count);
    regularization += batch.regularization * static_cast<double>(count);
    correct += std::llround(batch.accuracy * static_cast<double>(count));
    examples += count;
    if (!std::isnan(batch.accuracy_top5)) {
      correct_top5 += std::llround(batch.accuracy_top5 * static_cast<double>(count));
      examples_top5 += count;
    }
    if (!std::isnan(batch.distillation)) {
      distillation += batch.distillation * static_cast<double>(count);
      examples_distilled += count;
    }
  }

  /// Adds the sums over other images.
  MetricSums& operator+=(const MetricSums& other) {
    visit_fields([&](const char*, auto field) { this->*field += other.*field; });
    return *this;
  }

  /// The averages; all zero if no image was seen.
  Metrics mean() const {
    const double count = examples > 0 ? static_cast<double>(examples) : 1.0;
    const auto average = [](double sum, int64_t images) {
      return images > 0 ? sum / static_cast<double>(images)
                        : std::numeric_limits<double>::quiet_NaN();
    };
    return {loss / count,
            cross_entropy / count,
            regularization / count,
            static_cast<double>(correct) / count,
            average(static_cast<double>(correct_top5), examples_top5),
            average(distillation, examples_distilled)};
  }
};

/// One batch's results, still on the device where they were computed.
struct StepResult {
  /// What is minimized, a scalar tensor; see `Metrics::loss`.
  torch::Tensor loss;
  /// Cross entropy, a scalar tensor.
  torch::Tensor cross_entropy;
  /// Regularization loss, a scalar tensor; undefined if the model has none.
  torch::Tensor regularization;
  /// Images classified correctly, an int64 scalar tensor.
  torch::Tensor correct;
  /// Images in the batch.
  int64_t examples = 0;
  /// Images whose class is among the five highest logits, an int64 scalar tensor; undefined if
  /// there are five classes or fewer.
  torch::Tensor correct_top5 = {};
  /// Distillation loss without its weight, a scalar tensor; undefined without a teacher.
  torch::Tensor distillation = {};

  /// The values on the host; waits for the device.
  Metrics metrics() const;
};

/// The values of `results` on the host, all fetched at once; waits for the device.
inline std::vector<Metrics> metrics_of(const std::vector<StepResult>& results) {
  std::vector<torch::Tensor> losses;
  std::vector<torch::Tensor> counts;
  const auto fetch = [](const std::vector<torch::Tensor>& values) {
    return torch::stack(values).to(torch::kCPU, torch::kDouble);
  };
  for (const auto& result : results) {
    // What is missing is not read below.
    losses.insert(losses.end(),
                  {result.loss, result.cross_entropy,
                   result.regularization.defined() ? result.regularization : result.loss,
                   result.distillation.defined() ? result.distillation : result.loss});
    counts.insert(counts.end(), {result.correct, result.correct_top5.defined() ? result.correct_top5
                                                                               : result.correct});
  }
  std::vector<Metrics> found;
  if (results.empty()) {
    return found;
  }
  const auto loss_values = fetch(losses);
  const auto count_values = fetch(counts);
  const auto* loss = loss_values.const_data_ptr<double>();
  const auto* count = count_values.const_data_ptr<double>();
  constexpr double not_measured = std::numeric_limits<double>::quiet_NaN();
  for (const auto& result : results) {
    const double images = result.examples > 0 ? static_cast<double>(result.examples) : 1.0;
    found.push_back({loss[0], loss[1], result.regularization.defined() ? loss[2] : 0.0,
                     count[0] / images,
                     result.correct_top5.defined() ? count[1] / images : not_measured,
                     result.distillation.defined() ? loss[3] : not_measured});
    loss += 4;
    count += 2;
  }
  return found;
}

inline Metrics StepResult::metrics() const { return metrics_of({*this}).front(); }

/// What came of one epoch.
struct EpochSummary {
  /// The epoch, counted from 1.
  int64_t epoch = 0;
  /// How many epochs the training has in all.
  int64_t epochs = 0;
  /// Learning rate of this epoch's last step.
  double learning_rate = 0;
  /// Averages over the training images, in training mode, while the weights changed.
  Metrics train;
  /// Averages over the test images, in evaluation mode, after the epoch; NaN if it had no test.
  Metrics test;
  /// Best test accuracy so far, this epoch included, 0 to 1.
  double best_accuracy = 0;
  /// The epoch, counted from 1, that reached it first.
  int64_t best_epoch = 0;
  /// Seconds of training and test in this epoch, without what lay between a stop and a resume.
  double seconds = 0;
  /// Training images per second.
  double images_per_second = 0;

  /// Whether there was a test after it.
  bool tested() const { return !std::isnan(test.accuracy); }
};

/// The epochs as a CSV table with a header line. What was not measured is an empty cell; the last
/// column, `train_distillation`, is there if any epoch had a teacher.
inline std::string to_csv(const std::vector<EpochSummary>& epochs) {
  const bool distilled = std::any_of(epochs.begin(), epochs.end(), [](const EpochSummary& row) {
    return !std::isnan(row.train.distillation);
  });
  std::ostringstream out;
  out << "epoch,learning_rate,train_loss,train_cross_entropy,train_regularization,train_top1,"
         "train_top5,test_loss,test_cross_entropy,test_regularization,test_top1,test_top5,"
         "best_top1,images_per_second,seconds"
      << (distilled ? ",train_distillation\n" : "\n");
  const auto cell = [&out](double value, int digits = 9) {
    out << ',';
    if (!std::isnan(value)) {
      out << std::setprecision(digits) << value;
    }
  };
  for (const auto& row : epochs) {
    out << row.epoch;
    cell(row.learning_rate);
    for (const auto* part : {&row.train, &row.test}) {
      cell(part->loss);
      cell(part->cross_entropy);
      cell(part->regularization);
      cell(part->accuracy);
      cell(part->accuracy_top5);
    }
    cell(row.best_accuracy);
    cell(row.images_per_second, 6);
    cell(row.seconds, 6);
    if (distilled) {
      cell(row.train.distillation);
    }
    out << '\n';
  }
  return out.str();
}

/// Writes `to_csv(epochs)` to `path`, complete or not at all.
inline void write_csv(const std::filesystem::path& path, const std::vector<EpochSummary>& epochs) {
  weights::write_text_file(path, to_csv(epochs));
}

}  // namespace bsconv::train
