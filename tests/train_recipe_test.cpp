// SPDX-License-Identifier: BSD-3-Clause-Clear
// The trainer with the settings beyond the reference's recipe.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn.h>
#include <torch/utils.h>
#include <bsconv/data.hpp>
#include <bsconv/train/trainer.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace train_recipe_test {
namespace {

using bsconv::data::Batch;
using bsconv::data::DataLoader;
using bsconv::data::LoaderOptions;
using bsconv::data::Split;
using bsconv::train::Checkpoint;
using bsconv::train::load_checkpoint;
using bsconv::train::OptimizerType;
using bsconv::train::Precision;
using bsconv::train::ScheduleType;
using bsconv::train::Trainer;
using bsconv::train::TrainOptions;
using bsconv_test::error_of;
using bsconv_test::TemporaryDirectory;
using testing::ElementsAre;
using testing::HasSubstr;

torch::nn::Sequential recipe_net(uint64_t seed = 1) {
  torch::manual_seed(seed);
  return torch::nn::Sequential(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 6, 5).stride(4)),
                               torch::nn::BatchNorm2d(6), torch::nn::ReLU(),
                               torch::nn::Dropout(0.2), torch::nn::Flatten(),
                               torch::nn::Linear(6 * 49, 10));
}

/// 5 batches an epoch, the last one smaller.
DataLoader recipe_training(int64_t batch_size = 32) {
  return DataLoader(bsconv::data::digits(Split::train).subset(torch::arange(150)),
                    LoaderOptions().batch_size(batch_size).shuffle(true).seed(4));
}

DataLoader recipe_test() {
  return DataLoader(bsconv::data::digits(Split::test).subset(torch::arange(64)),
                    LoaderOptions().batch_size(64));
}

TrainOptions recipe_options(const std::filesystem::path& folder = {}) {
  return TrainOptions()
      .epochs(3)
      .learning_rate(0.05)
      .schedule({2})
      .batch_size(32)
      .seed(4)
      .output_dir(folder);
}

class TrainRecipe : public testing::Test {
 protected:
  void SetUp() override {
    threads_ = torch::get_num_threads();
    torch::set_num_threads(1);
  }
  void TearDown() override { torch::set_num_threads(threads_); }

  const TemporaryDirectory directory;

 private:
  int threads_ = 1;
};

void expect_equal(const bsconv::weights::StateDict& left, const bsconv::weights::StateDict& right) {
  ASSERT_EQ(left.keys(), right.keys());
  for (const auto& item : left) {
    EXPECT_TRUE(item.value().equal(right[item.key()])) << item.key();
  }
}

/// Stops a run after each of some batches, goes on from the file, and compares with a whole run.
void expect_resumes_bit_for_bit(const TrainOptions& options, const std::filesystem::path& folder) {
  const auto run = [](const TrainOptions& settings, int64_t questions, const std::string& from) {
    Trainer trainer(recipe_net(from.empty() ? 1 : 77), settings);
    torch::manual_seed(from.empty() ? 3 : 99);
    if (!from.empty()) {
      trainer.resume_from(from);
    }
    trainer.stop_when([questions]() mutable { return --questions == 0; });
    trainer.fit(recipe_training(), recipe_test());
    return trainer.checkpoint();
  };
  const auto whole = run(options, 0, "");
  for (const int64_t questions : {2, 5, 9}) {
    const auto settings = TrainOptions(options).output_dir(folder).overwrite(true);
    const auto part = run(settings, questions, "");
    EXPECT_LT(part.epoch, options.epochs());
    const auto resumed = run(settings, 0, (folder / "last.safetensors").native());
    EXPECT_EQ(resumed.epoch, options.epochs());
    expect_equal(whole.model, resumed.model);
    expect_equal(whole.momentum, resumed.momentum);
    expect_equal(whole.adamw, resumed.adamw);
    expect_equal(whole.ema, resumed.ema);
    expect_equal(whole.scaler, resumed.scaler);
    expect_equal(whole.generators, resumed.generators);
    EXPECT_EQ(whole.ema_updates, resumed.ema_updates);
    for (std::size_t i = 0; i < whole.history.size(); ++i) {
      EXPECT_EQ(whole.history[i].train.loss, resumed.history[i].train.loss);
      EXPECT_EQ(whole.history[i].test.loss, resumed.history[i].test.loss);
      EXPECT_EQ(whole.history[i].test.accuracy_top5, resumed.history[i].test.accuracy_top5);
      EXPECT_EQ(whole.history[i].learning_rate, resumed.history[i].learning_rate);
    }
  }
}

TEST_F(TrainRecipe, ResumesBitForBitWithEveryOptimizerScheduleAndAverage) {
  int number = 0;
  for (const auto optimizer : {OptimizerType::sgd, OptimizerType::adamw}) {
    for (const auto schedule :
         {ScheduleType::multistep, ScheduleType::cosine, ScheduleType::onecycle}) {
      for (const double ema : {0.0, 0.9}) {
        SCOPED_TRACE(c10::str(to_string(optimizer), ", ", to_string(schedule), ", EMA ", ema));
        expect_resumes_bit_for_bit(recipe_options()
                                       .optimizer(optimizer)
                                       .nesterov(ema > 0)
                                       .exempt_norm_bias(ema == 0)
                                       .schedule_type(schedule)
                                       .warmup_epochs(1.5)
                                       .clip_grad_norm(ema)
                                       .ema_decay(ema),
                                   directory / std::to_string(number++));
      }
    }
  }
}

TEST_F(TrainRecipe, ResumesBitForBitWithTheRest) {
  const auto options = recipe_options().label_smoothing(0.1);
  expect_resumes_bit_for_bit(TrainOptions(options).accumulate(2), directory / "accumulate");
  expect_resumes_bit_for_bit(TrainOptions(options).precision(Precision::bf16), directory / "bf16");
  expect_resumes_bit_for_bit(TrainOptions(options).precision(Precision::fp16), directory / "fp16");
  expect_resumes_bit_for_bit(TrainOptions(options).channels_last(true).ema_decay(0.5),
                             directory / "channels_last");
}

TEST_F(TrainRecipe, EveryRecipeLearns) {
  const auto best = [](const TrainOptions& options) {
    Trainer trainer(recipe_net(), TrainOptions(options).epochs(12).schedule({9}));
    return trainer.fit(recipe_training(), recipe_test()).best_accuracy;
  };
  const auto sgd = recipe_options();
  EXPECT_GT(best(TrainOptions(sgd).nesterov(true).schedule_type(ScheduleType::cosine)), 0.6);
  EXPECT_GT(best(TrainOptions(sgd).optimizer(OptimizerType::adamw).learning_rate(0.01)), 0.6);
  EXPECT_GT(best(TrainOptions(sgd).schedule_type(ScheduleType::onecycle).learning_rate(0.1)), 0.6);
  EXPECT_GT(best(TrainOptions(sgd).ema_decay(0.8)), 0.6);
  EXPECT_GT(best(TrainOptions(sgd).precision(Precision::bf16)), 0.6);
  EXPECT_GT(best(TrainOptions(sgd).precision(Precision::fp16)), 0.6);
  EXPECT_GT(best(TrainOptions(sgd).channels_last(true).accumulate(2).label_smoothing(0.1)), 0.6);
}

/// A linear model: nothing in it depends on the batch.
torch::nn::Sequential linear_net() {
  torch::manual_seed(2);
  return torch::nn::Sequential(torch::nn::Flatten(), torch::nn::Linear(3072, 10));
}

TEST_F(TrainRecipe, AccumulationIsALargerBatch) {
  const auto weight = [](const TrainOptions& options, int64_t batch_size) {
    auto net = linear_net();
    Trainer trainer(net, options);
    trainer.fit(recipe_training(batch_size), recipe_test());
    return net->ptr<torch::nn::LinearImpl>(1)->weight.detach();
  };
  // 150 images: three steps, of 50 images at once or of two batches of 25.
  const auto options = recipe_options().epochs(1).learning_rate(0.01);
  EXPECT_TRUE(
      weight(options, 50).allclose(weight(TrainOptions(options).accumulate(2), 25), 1e-4, 1e-6));
  EXPECT_FALSE(weight(options, 50).allclose(weight(options, 25), 1e-4, 1e-6));
  // The last group of an epoch may be smaller; its gradients are averaged over what it has.
  const auto all = weight(TrainOptions(options).accumulate(100), 50);
  EXPECT_TRUE(weight(options, 150).allclose(all, 1e-4, 1e-6));
}

TEST_F(TrainRecipe, ClippingBoundsTheStep) {
  auto net = linear_net();
  const auto before = net->ptr<torch::nn::LinearImpl>(1)->weight.detach().clone();
  Trainer trainer(net, recipe_options().momentum(0).weight_decay(0).clip_grad_norm(0.01));
  trainer.train_step(recipe_training().get(0, 0));
  const auto moved = (net->ptr<torch::nn::LinearImpl>(1)->weight - before).norm().item<double>();
  EXPECT_LE(moved, 0.05 * 0.01 * 1.001);
  EXPECT_GT(moved, 0.05 * 0.01 * 0.9);
}

TEST_F(TrainRecipe, LossesArePyTorchs) {
  // torch.nn.functional.cross_entropy of PyTorch 2.11 on the same numbers.
  const auto logits = torch::tensor({{1., 2., 3., .5, -1., .25}, {0., 0., 1., 1., 2., -2.}});
  const auto labels = torch::tensor({2, 0}, torch::kLong);
  const auto targets =
      torch::tensor({{.7, .3, 0., 0., 0., 0.}, {0., 0., .5, .5, 0., 0.}}, torch::kDouble);
  const torch::nn::Sequential none;
  const auto loss = [&](double smoothing, const torch::Tensor& soft) {
    return bsconv::train::classification_loss(*none, logits, labels, 0, smoothing, soft)
        .loss.item<double>();
  };
  EXPECT_NEAR(loss(0.1, {}), 1.6938143968582153, 1e-6);
  EXPECT_NEAR(loss(0, targets), 1.958397626876831, 1e-6);
  EXPECT_NEAR(loss(0.1, targets), 2.0088143348693848, 1e-6);
  const auto metrics =
      bsconv::train::classification_loss(*none, logits, labels, 0, 0, targets).metrics();
  EXPECT_ANY_THROW(
      bsconv::train::classification_loss(*none, logits, torch::full_like(labels, -100), 0));
  EXPECT_EQ(metrics.accuracy, 0.5);
  EXPECT_EQ(metrics.accuracy_top5, 1.0);
  const auto few = bsconv::train::classification_loss(*none, logits.slice(1, 0, 5), labels, 0);
  EXPECT_TRUE(std::isnan(few.metrics().accuracy_top5));
  EXPECT_THAT(error_of([&] {
                loss(0, torch::ones({2, 3}));
              }),
              HasSubstr("targets must be [N, classes] as the logits, [2, 6], got [2, 3]"));
}

TEST_F(TrainRecipe, LearnsMixedTargets) {
  auto net = linear_net();
  Trainer trainer(net, recipe_options().learning_rate(0.002).momentum(0).weight_decay(0));
  auto batch = recipe_training().get(0, 0);
  batch.targets = torch::full({32, 10}, 0.1);
  const auto first = trainer.train_step(batch).metrics().loss;
  for (int step = 0; step < 20; ++step) {
    trainer.train_step(batch);
  }
  const auto last = trainer.train_step(batch).metrics().loss;
  EXPECT_LT(last, first);
  EXPECT_NEAR(last, std::log(10.0), 0.02);
}

TEST_F(TrainRecipe, TheAverageIsTestedAndTheWeightsStay) {
  auto net = recipe_net();
  Trainer trainer(net, recipe_options(directory.path()).ema_decay(0.999).epochs(1));
  const auto result = trainer.fit(recipe_training(), recipe_test());
  const auto checkpoint = load_checkpoint(directory / "last.safetensors");
  EXPECT_EQ(checkpoint.ema_updates, 5);
  EXPECT_FALSE(checkpoint.ema["0.weight"].equal(checkpoint.model["0.weight"]));
  EXPECT_TRUE(checkpoint.inference_model()["0.weight"].equal(checkpoint.ema["0.weight"]));
  expect_equal(checkpoint.model,
               bsconv::weights::clone_state_dict(bsconv::weights::state_dict(*net)));
  auto averaged = recipe_net();
  bsconv::weights::load_state_dict(*averaged, checkpoint.ema);
  Trainer other(averaged, recipe_options());
  EXPECT_EQ(other.evaluate(recipe_test()).loss, result.history[0].test.loss);
  Trainer without(recipe_net(), recipe_options());
  without.resume(checkpoint);
  EXPECT_TRUE(without.checkpoint().ema.is_empty());
  auto damaged = checkpoint;
  damaged.ema.erase("0.weight");
  Trainer again(recipe_net(), recipe_options().ema_decay(0.999));
  EXPECT_THAT(error_of([&] { again.resume(damaged); }), HasSubstr("missing: 0.weight"));
}

TEST_F(TrainRecipe, AnAverageAddedLaterStartsFromTheWeights) {
  Trainer first(recipe_net(), recipe_options(directory.path()).epochs(1));
  first.fit(recipe_training(), recipe_test());
  Trainer second(recipe_net(8), recipe_options().ema_decay(0.9));
  second.resume_from(directory / "last.safetensors");
  const auto checkpoint = second.checkpoint();
  expect_equal(checkpoint.model, checkpoint.ema);
  EXPECT_EQ(checkpoint.ema_updates, 0);
}

TEST_F(TrainRecipe, TestsEveryFewEpochsAndAfterTheLast) {
  Trainer trainer(recipe_net(), recipe_options(directory.path()).epochs(5).eval_every(2));
  const auto rows = trainer.fit(recipe_training(), recipe_test()).history;
  std::vector<bool> tested;
  for (const auto& row : rows) {
    tested.push_back(!std::isnan(row.test.loss));
  }
  EXPECT_THAT(tested, ElementsAre(false, true, false, true, true));
  EXPECT_EQ(rows[0].best_epoch, 0);
  EXPECT_EQ(rows[2].best_accuracy, rows[1].best_accuracy);
  EXPECT_EQ(load_checkpoint(directory / "best.safetensors").epoch, rows.back().best_epoch);
  const auto csv = bsconv_test::read_file(directory / "metrics.csv");
  EXPECT_THAT(csv, HasSubstr(",,,,,0,"));
}

TEST_F(TrainRecipe, StopsWhenTheAccuracyNoLongerRises) {
  // A vanishing learning rate: the first test stays the best.
  const auto options =
      recipe_options(directory.path()).epochs(20).learning_rate(1e-12).schedule({}).patience(3);
  auto still = torch::nn::Sequential(torch::nn::Flatten(), torch::nn::Linear(3072, 10));
  Trainer trainer(still, options);
  const auto result = trainer.fit(recipe_training(), recipe_test());
  EXPECT_TRUE(result.stopped_early);
  EXPECT_FALSE(result.interrupted);
  EXPECT_EQ(result.history.size(), 4U);
  EXPECT_EQ(result.history.back().best_epoch, 1);
  Trainer again(still, options);
  again.resume_from(directory / "last.safetensors");
  EXPECT_TRUE(again.fit(recipe_training(), recipe_test()).stopped_early);
  EXPECT_EQ(again.epoch(), 4);
  // Where not every epoch has a test, the last one that counts has.
  Trainer seldom(still, TrainOptions(options).output_dir({}).eval_every(2));
  const auto untested = seldom.fit(recipe_training(), recipe_test());
  EXPECT_TRUE(untested.stopped_early);
  EXPECT_EQ(untested.history.size(), 6U);
  EXPECT_TRUE(untested.history.back().tested());
  Trainer longer(still, TrainOptions(options).patience(0).epochs(5));
  longer.resume_from(directory / "last.safetensors");
  EXPECT_FALSE(longer.fit(recipe_training(), recipe_test()).stopped_early);
  EXPECT_EQ(longer.epoch(), 5);
}

TEST_F(TrainRecipe, KeepsTheLastNumberedCheckpoints) {
  bsconv_test::write_file(directory / "epoch-best.safetensors", "mine");
  Trainer trainer(recipe_net(), recipe_options(directory.path()).epochs(4).keep_checkpoints(2));
  trainer.fit(recipe_training(), recipe_test());
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory.path())) {
    names.push_back(entry.path().filename().native());
  }
  std::sort(names.begin(), names.end());
  EXPECT_THAT(names,
              ElementsAre("best.safetensors", "epoch-0003.safetensors", "epoch-0004.safetensors",
                          "epoch-best.safetensors", "last.safetensors", "metrics.csv"));
  EXPECT_EQ(load_checkpoint(directory / "epoch-0003.safetensors").epoch, 3);
}

TEST_F(TrainRecipe, WritesCheckpointsInsideAnEpoch) {
  struct Steps : bsconv::train::Observer {
    void on_checkpoint(const std::filesystem::path& path) override {
      const auto checkpoint = load_checkpoint(path);
      if (path.filename() == "last.safetensors") {
        at.push_back(checkpoint.epoch * 100 + checkpoint.step);
        examples.push_back(checkpoint.partial.examples);
      }
    }
    std::vector<int64_t> at;
    std::vector<int64_t> examples;
  };
  const auto run = [&](const TrainOptions& options) {
    const auto steps = std::make_shared<Steps>();
    Trainer trainer(recipe_net(),
                    TrainOptions(options).output_dir(directory.path()).overwrite(true).epochs(2));
    trainer.observe(steps).fit(recipe_training(), recipe_test());
    return *steps;
  };
  const auto two = run(recipe_options().checkpoint_steps(2));
  EXPECT_THAT(two.at, ElementsAre(2, 4, 100, 102, 104, 200));
  EXPECT_THAT(two.examples, ElementsAre(64, 128, 0, 64, 128, 0));
  // Only between steps of the optimizer.
  EXPECT_THAT(run(recipe_options().checkpoint_steps(1).accumulate(3)).at,
              ElementsAre(3, 5, 100, 103, 105, 200));
}

TEST_F(TrainRecipe, AResumedRunWritesTheLinesOfTheEpochsBefore) {
  Trainer first(recipe_net(), recipe_options(directory.path()).epochs(1));
  first.fit(recipe_training(), recipe_test());
  const auto csv = bsconv_test::read_file(directory / "metrics.csv");
  std::filesystem::remove(directory / "metrics.csv");
  Trainer second(recipe_net(), recipe_options(directory.path()).epochs(1));
  second.resume_from(directory / "last.safetensors");
  second.fit(recipe_training(), recipe_test());
  EXPECT_EQ(bsconv_test::read_file(directory / "metrics.csv"), csv);
}

TEST_F(TrainRecipe, ResumesBetweenStepsOfTheOptimizerOnly) {
  const auto options = recipe_options().epochs(1).accumulate(2);
  auto checkpoint = Trainer(recipe_net(), options).checkpoint();
  checkpoint.step = 1;
  checkpoint.steps = 5;
  Trainer within(recipe_net(), options);
  within.resume(checkpoint);
  EXPECT_THAT(error_of([&] { within.fit(recipe_training(), recipe_test()); }),
              HasSubstr("cannot go on after batch 1 of an epoch: 2 batches make a step"));
  // All batches are done, of which there were more or fewer.
  for (const int64_t steps : {3, 7}) {
    checkpoint.step = checkpoint.steps = steps;
    Trainer finished(recipe_net(), options);
    finished.resume(checkpoint);
    const auto result = finished.fit(recipe_training(), recipe_test());
    ASSERT_EQ(result.history.size(), 1U);
    EXPECT_TRUE(result.history[0].tested());
  }
}

TEST_F(TrainRecipe, TellsTheRateOfAStepOfAllBatches) {
  const auto options =
      recipe_options().epochs(1).accumulate(100).schedule_type(ScheduleType::cosine);
  Trainer trainer(recipe_net(), options);
  EXPECT_DOUBLE_EQ(trainer.fit(recipe_training(), recipe_test()).history[0].learning_rate,
                   options.learning_rate());
}

TEST_F(TrainRecipe, ASchedulesLastRateIsThatOfTheLastStepOfTheOptimizer) {
  const auto options =
      recipe_options().epochs(2).accumulate(2).schedule_type(ScheduleType::onecycle);
  Trainer trainer(recipe_net(), options);
  EXPECT_DOUBLE_EQ(trainer.fit(recipe_training(), recipe_test()).history.back().learning_rate,
                   options.learning_rate() / options.div_factor() / options.final_div_factor());
}

TEST_F(TrainRecipe, RefusesToResumeWithAnotherOptimizerOrAccumulation) {
  Trainer first(recipe_net(), recipe_options());
  first.stop_when([] { return true; });
  first.fit(recipe_training(), recipe_test());
  const auto checkpoint = first.checkpoint();
  Trainer adamw(recipe_net(), recipe_options().optimizer(OptimizerType::adamw));
  EXPECT_THAT(error_of([&] { adamw.resume(checkpoint); }),
              HasSubstr("cannot resume: the checkpoint's optimizer is sgd, the trainer's adamw"));
  Trainer grouped(recipe_net(), recipe_options().accumulate(2));
  EXPECT_THAT(error_of([&] { grouped.resume(checkpoint); }),
              HasSubstr("the checkpoint has 1, the trainer 2"));
}

TEST_F(TrainRecipe, ChannelsLastLaysWeightsAndImagesSo) {
  bool images_too = false;
  auto net = recipe_net();
  Trainer trainer(
      net.ptr(),
      [net, &images_too](const torch::Tensor& images) mutable {
        images_too = images.is_contiguous(torch::MemoryFormat::ChannelsLast);
        return net->forward(images);
      },
      recipe_options().channels_last(true));
  trainer.train_step(recipe_training().get(0, 0));
  EXPECT_TRUE(images_too);
  images_too = false;
  trainer.evaluate(recipe_test());
  EXPECT_TRUE(images_too);
  EXPECT_TRUE(
      net->ptr<torch::nn::Conv2dImpl>(0)->weight.is_contiguous(torch::MemoryFormat::ChannelsLast));
}

TEST_F(TrainRecipe, AutocastEndsWithTheForwardPass) {
  for (const auto precision : {Precision::f32, Precision::bf16, Precision::fp16}) {
    torch::ScalarType inside = torch::kByte;
    auto net = recipe_net();
    Trainer trainer(
        net.ptr(),
        [net, &inside](const torch::Tensor& images) mutable {
          auto logits = net->forward(images);
          inside = logits.scalar_type();
          return logits;
        },
        recipe_options().precision(precision));
    const auto result = trainer.train_step(recipe_training().get(0, 0));
    EXPECT_EQ(inside, precision == Precision::f32    ? torch::kFloat
                      : precision == Precision::bf16 ? torch::kBFloat16
                                                     : torch::kHalf);
    EXPECT_EQ(result.loss.scalar_type(), torch::kFloat);
    EXPECT_FALSE(at::autocast::is_autocast_enabled(torch::kCPU));
    EXPECT_EQ(net->ptr<torch::nn::LinearImpl>(5)->weight.grad().scalar_type(), torch::kFloat);
    inside = torch::kByte;
    trainer.evaluate(recipe_test());
    EXPECT_EQ(inside == torch::kFloat, precision == Precision::f32);
  }
}

TEST_F(TrainRecipe, AStepWithInfiniteGradientsIsLeftOutInFloat16) {
  auto net = linear_net();
  Trainer trainer(net, recipe_options().precision(Precision::fp16));
  const auto before = net->ptr<torch::nn::LinearImpl>(1)->weight.detach().clone();
  auto batch = recipe_training().get(0, 0);
  const double factor = trainer.learner().scaler()->factor();
  net->ptr<torch::nn::LinearImpl>(1)->weight.register_hook(
      [](const torch::Tensor& gradient) { return gradient * INFINITY; });
  trainer.train_step(batch);
  EXPECT_TRUE(net->ptr<torch::nn::LinearImpl>(1)->weight.equal(before));
  EXPECT_EQ(trainer.learner().scaler()->factor(), factor / 2);
}

}  // namespace
}  // namespace train_recipe_test
