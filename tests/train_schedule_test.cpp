// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/train/options.hpp>
#include <bsconv/train/schedule.hpp>

#include <cmath>
#include <cstddef>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace train_schedule_test {
namespace {

using bsconv::train::CosineSchedule;
using bsconv::train::MultiStepSchedule;
using bsconv::train::OneCycleSchedule;
using bsconv::train::Schedule;
using bsconv::train::ScheduleType;
using bsconv::train::TrainOptions;
using bsconv_test::error_of;
using testing::HasSubstr;

template <class Function>
void expect_rates(const std::vector<double>& expected, const Function& rate) {
  for (std::size_t step = 0; step < expected.size(); ++step) {
    EXPECT_NEAR(rate(static_cast<int64_t>(step)), expected[step], 1e-12) << "step " << step;
  }
}

TEST(TrainLearningRates, CosineIsPyTorchs) {
  // torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12, 0.01) of PyTorch 2.11.
  const CosineSchedule cosine(0.4, 0.01);
  expect_rates(
      {0.4, 0.3933555361263683, 0.3738749537379656, 0.34288582233137677, 0.30250000000000005,
       0.25546971379499156, 0.20500000000000002, 0.1545302862050085, 0.10750000000000005,
       0.06711417766862325, 0.03612504626203446, 0.016644463873631703},
      [&](int64_t step) { return cosine.at(static_cast<double>(step), 12); });
  EXPECT_EQ(cosine.at(12, 12), 0.01);
  EXPECT_EQ(cosine.at(40, 12), 0.01);
}

TEST(TrainLearningRates, OneCycleIsPyTorchs) {
  // torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=12) of PyTorch 2.11.
  const OneCycleSchedule cycle(0.4);
  expect_rates({0.016, 0.1399158616878332, 0.3517140636488515, 0.39776617418036475,
                0.3732051879365647, 0.3246982615799052, 0.25895159907804133, 0.18505484106679002,
                0.11322439928347969, 0.05339101207553224, 0.01382679497015809, 1.6e-06},
               [&](int64_t step) { return cycle.at(static_cast<double>(step), 12); });
  // …, total_steps=10, pct_start=0.25, div_factor=10, final_div_factor=100).
  const OneCycleSchedule other(0.4, 0.25, 10, 100);
  expect_rates({0.04, 0.31, 0.3956338906266144, 0.3618415954761145, 0.3001, 0.2210847869608772,
                0.13845840452388553, 0.0665077048495002, 0.017673617563008327, 0.0004},
               [&](int64_t step) { return other.at(static_cast<double>(step), 10); });
  for (const double steps : {1.0, 2.0, 3.0}) {
    for (double step = 0; step < steps; ++step) {
      EXPECT_TRUE(std::isfinite(cycle.at(step, steps))) << step << " of " << steps;
    }
  }
}

TEST(TrainLearningRates, WarmUpRisesInFrontOfEveryCurve) {
  // torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, 4) of PyTorch 2.11.
  const Schedule steps(MultiStepSchedule(0.4, {3}), 5, 2, 0.01);
  const std::vector<double> expected = {0.004, 0.103, 0.202, 0.301, 0.4, 0.4, 0.04, 0.04};
  expect_rates(expected, [&](int64_t step) { return steps.at(step / 2, step % 2, 2); });

  const Schedule cosine(CosineSchedule(0.4), 5, 0.5, 0);
  EXPECT_EQ(cosine.at(0, 0, 4), 0);
  EXPECT_DOUBLE_EQ(cosine.at(0, 1, 4), 0.2);
  EXPECT_DOUBLE_EQ(cosine.at(0, 2, 4), 0.4);
  EXPECT_DOUBLE_EQ(cosine.at(2, 3, 4), 0.2);
  EXPECT_LT(cosine.at(4, 3, 4), 0.01);

  const Schedule cycle(OneCycleSchedule(0.4), 3, 1, 0.5);
  EXPECT_DOUBLE_EQ(cycle.at(0, 0, 10), 0.008);
  EXPECT_DOUBLE_EQ(cycle.at(1, 0, 10), 0.016);
  EXPECT_NEAR(cycle.at(2, 9, 10), 1.6e-6, 1e-12);
}

TEST(TrainLearningRates, FollowTheSettings) {
  auto options = TrainOptions().epochs(10).learning_rate(0.2);
  EXPECT_EQ(options.learning_rates().at(0, 5, 7), 0.2);
  EXPECT_EQ(options.schedule({2}).learning_rates().at(2, 0, 7), 0.2 * 0.1);
  options.schedule_type(ScheduleType::cosine).min_learning_rate(0.1);
  EXPECT_NEAR(options.learning_rates().at(5, 0, 7), 0.15, 1e-12);
  options.schedule_type(ScheduleType::onecycle);
  EXPECT_NEAR(options.learning_rates().at(0, 0, 7), 0.2 / 25, 1e-12);
}

TEST(TrainLearningRates, RefuseWrongValues) {
  const auto error = [](const TrainOptions& options) { return error_of([&] { options.check(); }); };
  const auto cosine = TrainOptions().schedule_type(ScheduleType::cosine);
  const auto cycle = TrainOptions().schedule_type(ScheduleType::onecycle);
  EXPECT_THAT(error(TrainOptions(cosine).min_learning_rate(1)),
              HasSubstr("min_learning_rate must lie between 0 and the learning rate 0.1, got 1"));
  EXPECT_THAT(error(TrainOptions(cosine).learning_rate(-1)), HasSubstr("learning_rate must be a"));
  EXPECT_THAT(error(TrainOptions(cycle).pct_start(1)),
              HasSubstr("pct_start must lie between 0 and 1, got 1"));
  EXPECT_THAT(error(TrainOptions(cycle).div_factor(0.5)),
              HasSubstr("div_factor must be a number from 1 on, got 0.5"));
  EXPECT_THAT(error(TrainOptions(cycle).final_div_factor(std::nan(""))),
              HasSubstr("final_div_factor must be a number from 1 on, got nan"));
  EXPECT_THAT(error(TrainOptions().epochs(5).warmup_epochs(5)),
              HasSubstr("warmup_epochs must lie in 0..5, the number of epochs excluded, got 5"));
  EXPECT_THAT(error(TrainOptions().warmup_factor(2)),
              HasSubstr("warmup_factor must lie in 0..1, got 2"));
}

}  // namespace
}  // namespace train_schedule_test
