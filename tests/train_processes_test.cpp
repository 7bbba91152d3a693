// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gtest/gtest.h>
#include <torch/nn.h>
#include <bsconv/data/digits.hpp>
#include <bsconv/data/loader.hpp>
#include <bsconv/train/communicator.hpp>
#include <bsconv/train/processes.hpp>
#include <bsconv/train/trainer.hpp>

#include <cstdint>
#include <memory>
#include <vector>

// Tests are compiled several files at a time.
namespace train_processes_test {
namespace {

using bsconv::data::DataLoader;
using bsconv::data::LoaderOptions;
using bsconv::train::MetricSums;
using bsconv::train::Processes;
using bsconv::train::Trainer;
using bsconv::train::TrainOptions;

/// The first of two processes, of which the other always has the same.
class Twin : public bsconv::train::Communicator {
 public:
  int64_t rank() const override { return 0; }
  int64_t world_size() const override { return 2; }
  void sum(torch::Tensor& tensor) override {
    ++sums;
    tensor.mul_(2);
  }
  void broadcast(const std::vector<torch::Tensor>& /*tensors*/) override {}
  void average_gradients(const bsconv::weights::StateDict& /*parameters*/) override {}
  void backward(const torch::Tensor& loss, bool /*average*/) override { loss.backward(); }
  torch::Tensor run(const bsconv::train::ForwardFunction& forward,
                    const torch::Tensor& images) override {
    return forward(images);
  }

  int sums = 0;
};

TEST(TrainProcesses, AddManySumsAndAWishAtOnce) {
  MetricSums first;
  first.add({2.0, 1.5, 0.5, 0.75, 1.0, 3.0}, 4);
  MetricSums second;
  second.add({8.0, 7.0, 1.0, 0.5}, 2);
  const std::vector<MetricSums> own = {first, second};

  auto alone = own;
  EXPECT_TRUE(Processes().is_alone());
  EXPECT_FALSE(Processes().sum(alone, false));
  EXPECT_TRUE(Processes().sum(alone, true));
  EXPECT_EQ(alone[0].loss, first.loss);

  const auto twin = std::make_shared<Twin>();
  const Processes two(twin);
  EXPECT_FALSE(two.is_alone());
  auto both = own;
  EXPECT_FALSE(two.sum(both, false));
  EXPECT_EQ(twin->sums, 1);
  ASSERT_EQ(both.size(), 2U);
  EXPECT_EQ(both[0].loss, 2 * first.loss);
  EXPECT_EQ(both[0].examples, 8);
  EXPECT_EQ(both[0].correct_top5, 8);
  EXPECT_EQ(both[0].distillation, 24.0);
  EXPECT_EQ(both[0].examples_distilled, 8);
  EXPECT_EQ(both[1].cross_entropy, 28.0);
  EXPECT_EQ(both[1].correct, 2);
  EXPECT_TRUE(two.sum(both, true));
  std::vector<MetricSums> none;
  EXPECT_TRUE(two.sum(none, true));
  EXPECT_FALSE(two.sum(none, false));
}

DataLoader training() {
  return DataLoader(bsconv::data::digits(bsconv::data::Split::train).subset(torch::arange(150)),
                    LoaderOptions().batch_size(32).shard({0, 2}));
}

DataLoader test() {
  return DataLoader(bsconv::data::digits(bsconv::data::Split::test).subset(torch::arange(70)),
                    LoaderOptions().batch_size(32));
}

torch::nn::Sequential net() {
  return torch::nn::Sequential(torch::nn::Flatten(), torch::nn::Linear(3072, 10));
}

TEST(TrainProcesses, TalkOnceABatch) {
  const auto twin = std::make_shared<Twin>();
  Trainer trainer(net(), TrainOptions().epochs(1).learning_rate(0.001));
  const auto result = trainer.communicator(twin).fit(training(), test());
  EXPECT_FALSE(result.interrupted);
  // At the start, five batches, the test, whether to stop, at the end.
  EXPECT_EQ(twin->sums, 9);
}

TEST(TrainProcesses, StopBetweenStepsOfTheOptimizer) {
  Trainer trainer(net(), TrainOptions().epochs(1).learning_rate(0.001).accumulate(3));
  trainer.communicator(std::make_shared<Twin>()).stop_when([] { return true; });
  EXPECT_TRUE(trainer.fit(training(), test()).interrupted);
  EXPECT_EQ(trainer.checkpoint().step, 3);
}

}  // namespace
}  // namespace train_processes_test
