// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn.h>
#include <bsconv/train/ema.hpp>

#include <algorithm>
#include <memory>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace train_ema_test {
namespace {

using bsconv::train::Ema;
using bsconv::train::EmaScope;
using bsconv_test::error_of;
using testing::HasSubstr;

struct Numbers : torch::nn::Module {
  Numbers() {
    weight = register_parameter("weight", torch::zeros({2}));
    mean = register_buffer("mean", torch::zeros({1}));
    count = register_buffer("count", torch::zeros({}, torch::kLong));
  }
  void set(double value, int64_t number) {
    const torch::NoGradGuard no_grad;
    weight.fill_(value);
    mean.fill_(2 * value);
    count.fill_(number);
  }
  torch::Tensor weight;
  torch::Tensor mean;
  torch::Tensor count;
};

TEST(TrainEma, AveragesWithAWarmUp) {
  Numbers numbers;
  numbers.set(1, 0);
  Ema ema(numbers, 0.9);
  double expected = 1;
  for (int64_t n = 1; n <= 200; ++n) {
    const auto value = static_cast<double>(n % 7);
    numbers.set(value, n);
    ema.update(numbers);
    const auto count = static_cast<double>(n);
    const double decay = std::min(0.9, (1 + count) / (10 + count));
    expected = decay * expected + (1 - decay) * value;
    ASSERT_NEAR(ema.average()["weight"][1].item<double>(), expected, 1e-5) << n;
  }
  EXPECT_NEAR(ema.average()["mean"].item<double>(), 2 * expected, 1e-5);
  EXPECT_EQ(ema.average()["count"].item<int64_t>(), 200);
  EXPECT_EQ(ema.updates(), 200);
  EXPECT_EQ(numbers.weight[0].item<float>(), 200 % 7);
}

TEST(TrainEma, AScopeLendsTheAverage) {
  Numbers numbers;
  numbers.set(0.1, 1);
  Ema ema(numbers, 0.5);
  numbers.set(0.7, 2);
  ema.update(numbers);
  const auto own = numbers.weight.detach().clone();
  {
    const EmaScope scope(numbers, &ema);
    EXPECT_TRUE(numbers.weight.equal(ema.average()["weight"]));
    EXPECT_FALSE(numbers.weight.equal(own));
    EXPECT_TRUE(numbers.weight.requires_grad());
  }
  EXPECT_TRUE(numbers.weight.equal(own));
  EXPECT_EQ(numbers.count.item<int64_t>(), 2);
  const EmaScope nothing(numbers, nullptr);
  EXPECT_TRUE(numbers.weight.equal(own));
}

TEST(TrainEma, AScopeGivesSharedTensorsBack) {
  const auto shared = std::make_shared<Numbers>();
  torch::nn::Module both;
  both.register_module("a", shared);
  both.register_module("b", shared);
  shared->set(1, 1);
  Ema ema(both, 0.5);
  shared->set(2, 2);
  ema.update(both);
  {
    const EmaScope scope(both, &ema);
    EXPECT_NE(shared->weight[0].item<float>(), 2);
  }
  EXPECT_EQ(shared->weight[0].item<float>(), 2);
  EXPECT_EQ(shared->mean.item<float>(), 4);
}

TEST(TrainEma, GoesOnAndRefusesWhatDoesNotFit) {
  Numbers numbers;
  Ema first(numbers, 0.9);
  numbers.set(1, 1);
  first.update(numbers);
  Ema second(numbers, 0.9);
  second.load(numbers, first.average(), first.updates());
  numbers.set(2, 2);
  first.update(numbers);
  second.update(numbers);
  EXPECT_TRUE(first.average()["weight"].equal(second.average()["weight"]));
  auto wrong = bsconv::weights::clone_state_dict(first.average());
  wrong["weight"] = torch::zeros({3});
  EXPECT_THAT(error_of([&] { second.load(numbers, wrong, 1); }),
              HasSubstr("the moving average does not fit the model:\n  wrong shape: weight"));
  EXPECT_THAT(error_of([&] { Ema(numbers, 1); }), HasSubstr("the decay must lie in 0..1"));
  second.restart(numbers);
  EXPECT_EQ(second.updates(), 0);
  EXPECT_TRUE(second.average()["weight"].equal(numbers.weight));
}

}  // namespace
}  // namespace train_ema_test
