// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gtest/gtest.h>
#include <bsconv/train/checkpoint_state.hpp>
#include <bsconv/train/course.hpp>
#include <bsconv/train/metrics.hpp>

#include <cstdint>
#include <limits>
#include <optional>

// Tests are compiled several files at a time.
namespace train_course_test {
namespace {

using bsconv::train::Checkpoint;
using bsconv::train::Course;
using bsconv::train::Metrics;
using bsconv::train::MetricSums;

MetricSums sums_of(double loss, double accuracy, int64_t images) {
  MetricSums sums;
  sums.add({loss, loss, 0.0, accuracy}, images);
  return sums;
}

// One epoch of two batches of ten images, of two seconds each.
bool train(Course& course, const std::optional<MetricSums>& tested) {
  course.start(2);
  while (course.step() < course.steps()) {
    course.add(sums_of(2.0, 0.5, 10));
    course.advance();
    course.spend(2.0);
  }
  return course.finish(9, 0.1, tested, /*test_seconds=*/1.0);
}

TEST(TrainCourse, SummarizesEpochs) {
  Course course;
  EXPECT_EQ(course.epoch(), 0);
  EXPECT_EQ(course.best_epoch(), 0);
  EXPECT_FALSE(train(course, std::nullopt));
  EXPECT_TRUE(train(course, sums_of(1.0, 0.25, 8)));
  EXPECT_EQ(course.epoch(), 2);
  EXPECT_EQ(course.step(), 0);
  EXPECT_EQ(course.sums().examples, 0);
  const auto& first = course.history().front();
  EXPECT_FALSE(first.tested());
  EXPECT_EQ(first.epoch, 1);
  EXPECT_EQ(first.epochs, 9);
  EXPECT_EQ(first.learning_rate, 0.1);
  EXPECT_EQ(first.train.loss, 2.0);
  EXPECT_EQ(first.seconds, 5.0);
  EXPECT_EQ(first.images_per_second, 5.0);
  EXPECT_EQ(course.history().back().test.accuracy, 0.25);
  EXPECT_EQ(course.best_accuracy(), 0.25);
  EXPECT_EQ(course.best_epoch(), 2);
}

TEST(TrainCourse, TheFirstOfEqualEpochsIsTheBest) {
  Course course;
  // An accuracy of zero is better than none, but not if the logits were no numbers.
  EXPECT_FALSE(train(course, sums_of(std::numeric_limits<double>::quiet_NaN(), 0.5, 8)));
  EXPECT_EQ(course.best_epoch(), 0);
  EXPECT_TRUE(train(course, sums_of(1.0, 0.0, 8)));
  EXPECT_FALSE(train(course, sums_of(1.0, 0.0, 8)));
  EXPECT_EQ(course.best_epoch(), 2);
}

TEST(TrainCourse, RunsOutOfPatienceAfterATest) {
  Course course;
  train(course, sums_of(1.0, 0.5, 8));
  EXPECT_FALSE(course.is_out_of(1));
  train(course, std::nullopt);
  EXPECT_FALSE(course.is_out_of(1));
  train(course, sums_of(1.0, 0.25, 8));
  EXPECT_TRUE(course.is_out_of(1));
  EXPECT_TRUE(course.is_out_of(2));
  EXPECT_FALSE(course.is_out_of(3));
  EXPECT_FALSE(course.is_out_of(0));
}

TEST(TrainCourse, GoesOnFromACheckpoint) {
  Course course;
  train(course, sums_of(1.0, 0.5, 8));
  course.add(sums_of(4.0, 0.5, 10));
  course.advance();
  course.spend(6.0);
  Checkpoint checkpoint;
  course.save(checkpoint);
  EXPECT_EQ(checkpoint.epoch, 1);
  EXPECT_EQ(checkpoint.step, 1);
  EXPECT_EQ(checkpoint.steps, 2);

  Course resumed;
  resumed.load(checkpoint);
  EXPECT_FALSE(train(resumed, std::nullopt));
  EXPECT_EQ(resumed.epoch(), 2);
  EXPECT_EQ(resumed.best_epoch(), 1);
  EXPECT_EQ(resumed.history().back().train.loss, 3.0);
  EXPECT_EQ(resumed.history().back().seconds, 9.0);
  EXPECT_EQ(resumed.history().back().images_per_second, 2.5);

  // Of a checkpoint that doesn't say how long it took, the rest alone counts for the speed.
  checkpoint.seconds = 0;
  Course untimed;
  untimed.load(checkpoint);
  train(untimed, std::nullopt);
  EXPECT_EQ(untimed.history().back().train.loss, 3.0);
  EXPECT_EQ(untimed.history().back().images_per_second, 5.0);
}

TEST(TrainCourse, AFinishedEpochStaysSoWithOtherBatches) {
  Checkpoint checkpoint;
  checkpoint.step = 4;
  checkpoint.steps = 4;
  for (const int64_t steps : {3, 4, 7}) {
    Course course;
    course.load(checkpoint);
    EXPECT_EQ(course.step_of(steps), steps);
    // Asking changes nothing.
    Checkpoint again;
    course.save(again);
    EXPECT_EQ(again.step, 4);
    EXPECT_EQ(again.steps, 4);
    course.start(steps);
    EXPECT_EQ(course.step(), steps);
    course.save(again);
    EXPECT_EQ(again.steps, steps);
  }
  checkpoint.step = 2;
  Course course;
  course.load(checkpoint);
  course.start(7);
  EXPECT_EQ(course.step(), 2);
}

}  // namespace
}  // namespace train_course_test
