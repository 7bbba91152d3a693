// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/train/metrics.hpp>
#include <bsconv/train/progress.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <set>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace train_metrics_test {
namespace {

using bsconv::train::EpochSummary;
using bsconv::train::MetricSums;
using bsconv::train::Position;
using bsconv::train::Progress;
using bsconv::train::ProgressStyle;
using bsconv::train::StepResult;
using testing::HasSubstr;
using testing::Not;

TEST(TrainMetrics, AverageOverImagesNotBatches) {
  MetricSums sums;
  EXPECT_EQ(sums.mean().loss, 0);
  sums.add({2.0, 1.5, 0.5, 0.75}, 4);
  sums.add({8.0, 7.0, 1.0, 0.0}, 2);
  EXPECT_EQ(sums.correct, 3);
  EXPECT_EQ(sums.examples, 6);
  EXPECT_DOUBLE_EQ(sums.mean().loss, 4.0);
  EXPECT_DOUBLE_EQ(sums.mean().cross_entropy, 20.0 / 6);
  EXPECT_DOUBLE_EQ(sums.mean().regularization, 4.0 / 6);
  EXPECT_DOUBLE_EQ(sums.mean().accuracy, 0.5);
}

TEST(TrainMetrics, AStepMayHaveNoRegularization) {
  StepResult step;
  step.loss = torch::tensor(2.5F);
  step.cross_entropy = torch::tensor(2.5F);
  step.correct = torch::tensor(3, torch::kLong);
  step.examples = 4;
  EXPECT_DOUBLE_EQ(step.metrics().accuracy, 0.75);
  EXPECT_EQ(step.metrics().regularization, 0);
  step.regularization = torch::tensor(0.25F);
  EXPECT_EQ(step.metrics().regularization, 0.25);
}

TEST(TrainMetrics, OfManyStepsAreFetchedAtOnce) {
  EXPECT_TRUE(bsconv::train::metrics_of({}).empty());
  StepResult first;
  first.loss = torch::tensor(2.5F);
  first.cross_entropy = torch::tensor(2.0F);
  first.regularization = torch::tensor(0.5F);
  first.correct = torch::tensor(3, torch::kLong);
  first.correct_top5 = torch::tensor(4, torch::kLong);
  first.examples = 4;
  StepResult second = first;
  second.loss = torch::tensor(1.5F);
  second.regularization = torch::Tensor();
  second.correct_top5 = torch::Tensor();
  second.distillation = torch::tensor(0.75F);
  second.examples = 6;
  const auto metrics = bsconv::train::metrics_of({first, second});
  ASSERT_EQ(metrics.size(), 2U);
  EXPECT_EQ(metrics[0].loss, 2.5);
  EXPECT_EQ(metrics[0].cross_entropy, 2.0);
  EXPECT_EQ(metrics[0].regularization, 0.5);
  EXPECT_EQ(metrics[0].accuracy, 0.75);
  EXPECT_EQ(metrics[0].accuracy_top5, 1.0);
  EXPECT_EQ(metrics[1].loss, 1.5);
  EXPECT_EQ(metrics[1].regularization, 0.0);
  EXPECT_EQ(metrics[1].accuracy, 0.5);
  EXPECT_TRUE(std::isnan(metrics[1].accuracy_top5));
  EXPECT_TRUE(std::isnan(metrics[0].distillation));
  EXPECT_EQ(metrics[1].distillation, 0.75);
}

TEST(TrainMetrics, DistillationIsTheAverageOfWhatATeacherSaw) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  MetricSums sums;
  sums.add({2.0, 1.5, 0.5, 0.75}, 4);
  EXPECT_TRUE(std::isnan(sums.mean().distillation));
  MetricSums more;
  more.add({2.0, 1.5, 0.5, 0.75, nan, 3.0}, 2);
  more.add({2.0, 1.5, 0.5, 0.75, nan, 6.0}, 4);
  sums += more;
  EXPECT_DOUBLE_EQ(sums.mean().distillation, 5.0);
}

TEST(TrainMetrics, SumsAreAddedFieldByField) {
  MetricSums sums;
  std::vector<std::string> names;
  MetricSums::visit_fields([&](const char* name, auto field) {
    names.emplace_back(name);
    using Field = std::remove_reference_t<decltype(sums.*field)>;
    sums.*field = static_cast<Field>(names.size());
  });
  // Each has eight bytes, so none was left out.
  EXPECT_EQ(names.size() * 8, sizeof(MetricSums));
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
  sums += MetricSums(sums);
  std::size_t field_number = 0;
  MetricSums::visit_fields([&](const char* name, auto field) {
    ++field_number;
    EXPECT_EQ(static_cast<std::size_t>(sums.*field), 2 * field_number) << name;
  });
}

EpochSummary summary() {
  EpochSummary row;
  row.epoch = 2;
  row.epochs = 5;
  row.learning_rate = 0.1;
  row.train = {1.5, 1.25, 0.25, 0.5};
  row.test = {2.5, 2.25, 0.25, 0.375};
  row.best_accuracy = 0.4;
  row.best_epoch = 1;
  row.seconds = 10;
  row.images_per_second = 512;
  return row;
}

TEST(TrainMetrics, CsvHasALineAnEpoch) {
  EXPECT_EQ(bsconv::train::to_csv({summary()}),
            "epoch,learning_rate,train_loss,train_cross_entropy,train_regularization,train_top1,"
            "train_top5,test_loss,test_cross_entropy,test_regularization,test_top1,test_top5,"
            "best_top1,images_per_second,seconds\n"
            "2,0.1,1.5,1.25,0.25,0.5,,2.5,2.25,0.25,0.375,,0.4,512,10\n");
  const bsconv_test::TemporaryDirectory directory;
  bsconv::train::write_csv(directory / "metrics.csv", {summary(), summary()});
  EXPECT_EQ(bsconv_test::read_file(directory / "metrics.csv"),
            bsconv::train::to_csv({summary(), summary()}));
  EXPECT_THAT(bsconv_test::error_of([] { bsconv::train::write_csv("/proc/metrics.csv", {}); }),
              HasSubstr("cannot write '/proc/metrics.csv'"));
}

TEST(TrainMetrics, CsvHasTheTeachersPartOnceThereIsOne) {
  auto taught = summary();
  taught.train.distillation = 4.5;
  const auto csv = bsconv::train::to_csv({summary(), taught});
  EXPECT_THAT(csv, HasSubstr("images_per_second,seconds,train_distillation\n"));
  EXPECT_THAT(csv, HasSubstr("0.4,512,10,\n"));
  EXPECT_THAT(csv, HasSubstr("0.4,512,10,4.5\n"));
}

TEST(TrainProgress, FormatsDurations) {
  EXPECT_EQ(bsconv::train::format_duration(0.4), "0:00");
  EXPECT_EQ(bsconv::train::format_duration(67), "1:07");
  EXPECT_EQ(bsconv::train::format_duration(3600 + 23 * 60 + 4.6), "1:23:05");
  EXPECT_EQ(bsconv::train::format_duration(std::numeric_limits<double>::quiet_NaN()), "?");
  EXPECT_EQ(bsconv::train::format_duration(-1), "?");
}

std::string run_pass(ProgressStyle style, int64_t steps) {
  std::ostringstream out;
  Progress progress(out, style, 10);
  Position position;
  position.epoch = 3;
  position.epochs = 7;
  position.steps = steps;
  progress.on_pass_begin(position);
  MetricSums sums;
  for (position.step = 1; position.step <= steps; ++position.step) {
    sums.add({1.5, 1.25, 0.25, 0.5}, 2);
    progress.on_step(position, sums);
  }
  position.step = steps;
  progress.on_pass_end(position, sums);
  return out.str();
}

TEST(TrainProgress, PrintsALinePerTenBatchesAndTheLast) {
  const auto text = run_pass(ProgressStyle::lines, 23);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3);
  EXPECT_THAT(text, HasSubstr("epoch 3/7  train  10/23  loss 1.5000 (ce 1.2500 + reg 0.2500)  "
                              "top-1 50.00 %  "));
  EXPECT_THAT(text, HasSubstr("epoch 3/7  train  23/23  "));
  EXPECT_THAT(text, HasSubstr(" images/s  "));
  EXPECT_THAT(text, HasSubstr(" left\n"));
  EXPECT_THAT(text, Not(HasSubstr("\r")));
}

TEST(TrainProgress, DrawsABarInOneLineOnATerminal) {
  const auto text = run_pass(ProgressStyle::bar, 23);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  EXPECT_THAT(text, HasSubstr("[####################] 23/23"));
  EXPECT_EQ(text.front(), '\r');
}

TEST(TrainProgress, SummarizesAnEpochWithTheBestAccuracy) {
  std::ostringstream out;
  Progress(out, ProgressStyle::lines).on_epoch_end(summary());
  EXPECT_EQ(out.str(),
            "epoch 2/5 done: lr 0.1, train loss 1.5000 (ce 1.2500 + reg 0.2500)  top-1 50.00 %, "
            "test loss 2.5000 (ce 2.2500 + reg 0.2500)  top-1 37.50 %, best 40.00 % (epoch 1), "
            "512 images/s, 0:10, about 0:30 left\n");
}

TEST(TrainProgress, NamesTheTeachersPartOfTheLoss) {
  auto metrics = summary().train;
  metrics.distillation = 4.5;
  EXPECT_EQ(bsconv::train::to_string(metrics),
            "loss 1.5000 (ce 1.2500, teacher 4.5000, reg 0.2500)  top-1 50.00 %");
}

TEST(TrainProgress, TimeLeftCountsTheResumedPartOfAnEpoch) {
  std::ostringstream out;
  Progress progress(out, ProgressStyle::lines);
  Position position;
  position.steps = 100;
  position.step = 80;
  progress.on_pass_begin(position);
  progress.on_epoch_end(summary());
  EXPECT_THAT(out.str(), HasSubstr(", 0:10, about 2:30 left\n"));
}

}  // namespace
}  // namespace train_metrics_test
