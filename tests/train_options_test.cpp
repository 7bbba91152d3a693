// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/train/options.hpp>
#include <bsconv/train/schedule.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace train_options_test {
namespace {

using bsconv::train::MultiStepSchedule;
using bsconv::train::TrainOptions;
using bsconv_test::error_of;
using testing::HasSubstr;

TEST(TrainSchedule, FallsAfterTheGivenEpochs) {
  const MultiStepSchedule schedule(0.1, {100, 150, 180});
  EXPECT_DOUBLE_EQ(schedule.at(0), 0.1);
  EXPECT_DOUBLE_EQ(schedule.at(99), 0.1);
  EXPECT_DOUBLE_EQ(schedule.at(100), 0.01);
  EXPECT_DOUBLE_EQ(schedule.at(149), 0.01);
  EXPECT_DOUBLE_EQ(schedule.at(150), 0.001);
  EXPECT_DOUBLE_EQ(schedule.at(199), 0.0001);
  EXPECT_DOUBLE_EQ(MultiStepSchedule(0.2, {}, 0.5).at(1000), 0.2);
  EXPECT_DOUBLE_EQ(MultiStepSchedule(0.2, {1}, 0.5).at(1), 0.1);
}

TEST(TrainSchedule, RefusesWrongValues) {
  EXPECT_THAT(error_of([] {
                MultiStepSchedule(0.1, {10, 10});
              }),
              HasSubstr("in increasing order, got [10, 10]"));
  EXPECT_THAT(error_of([] { MultiStepSchedule(0.1, {0}); }), HasSubstr("epochs from 1 on"));
  for (const double bad : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_THAT(error_of([bad] { MultiStepSchedule(bad, {}); }),
                HasSubstr("learning_rate must be a positive number, got"));
    EXPECT_THAT(error_of([bad] { MultiStepSchedule(0.1, {}, bad); }),
                HasSubstr("gamma must be a positive number, got"));
  }
}

TEST(TrainOptions, AreTheReferences) {
  const TrainOptions options;
  EXPECT_NO_THROW(options.check());
  EXPECT_EQ(options.epochs(), 200);
  EXPECT_EQ(options.batch_size(), 128);
  EXPECT_EQ(options.learning_rate(), 0.1);
  EXPECT_EQ(options.momentum(), 0.9);
  EXPECT_EQ(options.weight_decay(), 1e-4);
  EXPECT_EQ(options.schedule(), (std::vector<int64_t>{100, 150, 180}));
  EXPECT_EQ(options.gamma(), 0.1);
  EXPECT_EQ(options.alpha(), 0.1);
}

TEST(TrainOptions, RefuseValuesOutOfRange) {
  const auto error = [](const TrainOptions& options) { return error_of([&] { options.check(); }); };
  EXPECT_THAT(error(TrainOptions().epochs(-1)), HasSubstr("epochs must not be negative, got -1"));
  EXPECT_THAT(error(TrainOptions().batch_size(0)), HasSubstr("batch_size must be positive, got 0"));
  EXPECT_THAT(error(TrainOptions().workers(-2)), HasSubstr("workers must not be negative, got -2"));
  EXPECT_THAT(error(TrainOptions().log_interval(0)), HasSubstr("log_interval must be positive"));
  EXPECT_THAT(error(TrainOptions().momentum(1)), HasSubstr("momentum must lie in 0..1"));
  EXPECT_THAT(error(TrainOptions().momentum(std::nan(""))), HasSubstr("got nan"));
  EXPECT_THAT(error(TrainOptions().weight_decay(-1)),
              HasSubstr("weight_decay must be a number from 0 on, got -1"));
  EXPECT_THAT(error(TrainOptions().alpha(std::nan(""))),
              HasSubstr("alpha must be a number from 0 on, got nan"));
  EXPECT_THAT(error(TrainOptions().learning_rate(0)), HasSubstr("learning_rate must be"));
  EXPECT_THAT(error(TrainOptions().schedule({5, 4})), HasSubstr("schedule must be"));
}

}  // namespace
}  // namespace train_options_test
