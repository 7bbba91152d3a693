// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn.h>
#include <bsconv/train/clip_gradients.hpp>
#include <bsconv/train/optimizer.hpp>
#include <bsconv/train/optimizer_state.hpp>

#include <memory>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace train_optimizer_test {
namespace {

using bsconv::train::make_optimizer;
using bsconv::train::OptimizerType;
using bsconv::train::TrainOptions;
using bsconv_test::error_of;
using testing::HasSubstr;

torch::nn::Sequential small_net() {
  return torch::nn::Sequential(torch::nn::Conv2d(3, 4, 3), torch::nn::BatchNorm2d(4),
                               torch::nn::Flatten(), torch::nn::Linear(4, 2));
}

TEST(TrainOptimizer, TakesTheSettings) {
  const auto net = small_net();
  const auto parameters = bsconv::train::trainable_parameters(*net);
  const auto sgd = make_optimizer(
      TrainOptions().learning_rate(0.3).momentum(0.8).nesterov(true).weight_decay(0.01),
      parameters);
  ASSERT_EQ(sgd->param_groups().size(), 1U);
  const auto& options =
      static_cast<const torch::optim::SGDOptions&>(sgd->param_groups()[0].options());
  EXPECT_EQ(options.lr(), 0.3);
  EXPECT_EQ(options.momentum(), 0.8);
  EXPECT_TRUE(options.nesterov());
  EXPECT_EQ(options.weight_decay(), 0.01);
  EXPECT_EQ(sgd->param_groups()[0].params().size(), 6U);

  const auto adamw = make_optimizer(TrainOptions()
                                        .optimizer(OptimizerType::adamw)
                                        .beta1(0.7)
                                        .beta2(0.8)
                                        .epsilon(1e-3)
                                        .exempt_norm_bias(true),
                                    parameters);
  ASSERT_EQ(adamw->param_groups().size(), 2U);
  const auto group = [&adamw](std::size_t index) {
    return static_cast<const torch::optim::AdamWOptions&>(adamw->param_groups()[index].options());
  };
  EXPECT_EQ(group(0).betas(), std::make_tuple(0.7, 0.8));
  EXPECT_EQ(group(0).eps(), 1e-3);
  EXPECT_EQ(group(0).weight_decay(), 1e-4);
  EXPECT_EQ(group(1).weight_decay(), 0);
  EXPECT_EQ(adamw->param_groups()[0].params().size(), 2U);
  EXPECT_EQ(adamw->param_groups()[1].params().size(), 4U);
  bsconv::train::set_learning_rate(*adamw, 0.125);
  EXPECT_EQ(group(0).lr(), 0.125);
  EXPECT_EQ(group(1).lr(), 0.125);
}

TEST(TrainOptimizer, ExemptParametersDoNotDecay) {
  for (const auto type : {OptimizerType::sgd, OptimizerType::adamw}) {
    const auto net = small_net();
    const auto parameters = bsconv::train::trainable_parameters(*net);
    const auto optimizer = make_optimizer(
        TrainOptions().optimizer(type).weight_decay(0.5).exempt_norm_bias(true), parameters);
    for (const auto& item : parameters) {
      item.value().mutable_grad() = torch::zeros_like(item.value());
    }
    const auto scale = parameters["1.weight"].detach().clone();
    const auto weight = parameters["0.weight"].detach().clone();
    optimizer->step();
    EXPECT_TRUE(scale.equal(parameters["1.weight"]));
    EXPECT_TRUE(weight.mul(0.95).allclose(parameters["0.weight"]));
  }
}

TEST(TrainOptimizer, AdamWsStateGoesOn) {
  const auto net = small_net();
  const auto parameters = bsconv::train::trainable_parameters(*net);
  const auto options = TrainOptions().optimizer(OptimizerType::adamw).learning_rate(0.01);
  const auto first = make_optimizer(options, parameters);
  auto& adamw = static_cast<torch::optim::AdamW&>(*first);
  EXPECT_TRUE(bsconv::train::adamw_state(adamw, parameters).is_empty());
  for (int step = 0; step < 3; ++step) {
    for (const auto& item : parameters) {
      item.value().mutable_grad() = torch::randn_like(item.value());
    }
    adamw.step();
  }
  const auto state = bsconv::train::adamw_state(adamw, parameters);
  EXPECT_EQ(state.size(), 18U);
  EXPECT_EQ(state["step/0.weight"].item<int64_t>(), 3);
  const auto second = make_optimizer(options, parameters);
  auto& other = static_cast<torch::optim::AdamW&>(*second);
  bsconv::train::load_adamw_state(other, parameters, state);
  const auto again = bsconv::train::adamw_state(other, parameters);
  for (const auto& item : state) {
    EXPECT_TRUE(item.value().equal(again[item.key()])) << item.key();
  }

  auto bad = state;
  bad["exp_avg/0.weight"] = torch::zeros({1});
  bad["step/0.bias"] = torch::zeros({1});
  bad.erase("exp_avg_sq/1.bias");
  bad.insert("exp_avg/none", torch::zeros({1}));
  bad.insert("nothing", torch::zeros({1}));
  const auto message = error_of([&] { bsconv::train::load_adamw_state(other, parameters, bad); });
  EXPECT_THAT(message, HasSubstr("AdamW's state does not fit the model:\n"));
  EXPECT_THAT(message, HasSubstr("  does not fit: exp_avg/0.weight: the parameter is Float "
                                 "[4, 3, 3, 3], the moment Float [1]\n"));
  EXPECT_THAT(message, HasSubstr("  no whole number: step/0.bias\n"));
  EXPECT_THAT(message, HasSubstr("  missing: exp_avg_sq/1.bias\n"));
  EXPECT_THAT(message, HasSubstr("  unexpected: exp_avg/none\n"));
  EXPECT_THAT(message, HasSubstr("  unexpected: nothing\n"));
  EXPECT_EQ(bsconv::train::adamw_state(other, parameters).size(), 18U);
}

TEST(TrainClipGradients, ScalesAllTogether) {
  const auto a = torch::zeros({2}, torch::requires_grad());
  const auto b = torch::zeros({1}, torch::requires_grad());
  const auto without = torch::zeros({1}, torch::requires_grad());
  a.mutable_grad() = torch::tensor({3.0F, 0.0F});
  b.mutable_grad() = torch::tensor({4.0F});
  const std::vector<torch::Tensor> parameters = {a, without, b};
  EXPECT_FLOAT_EQ(bsconv::train::clip_gradients(parameters, 10).item<float>(), 5);
  EXPECT_EQ(a.grad()[0].item<float>(), 3);
  EXPECT_FLOAT_EQ(bsconv::train::clip_gradients(parameters, 1).item<float>(), 5);
  EXPECT_NEAR(a.grad()[0].item<float>(), 0.6, 1e-6);
  EXPECT_NEAR(b.grad()[0].item<float>(), 0.8, 1e-6);
  EXPECT_FALSE(bsconv::train::clip_gradients({without}, 1).defined());
  EXPECT_THAT(error_of([&] { bsconv::train::clip_gradients(parameters, 0); }),
              HasSubstr("max_norm must be positive, got 0"));
}

TEST(TrainClipGradients, AgreesWithLibTorch) {
  torch::manual_seed(5);
  std::vector<torch::Tensor> ours;
  std::vector<torch::Tensor> theirs;
  for (const int64_t size : {3, 50, 700}) {
    const auto gradient = torch::randn({size});
    for (auto* list : {&ours, &theirs}) {
      list->push_back(torch::zeros({size}, torch::requires_grad()));
      list->back().mutable_grad() = gradient.clone();
    }
  }
  bsconv::train::clip_gradients(ours, 0.7);
  torch::nn::utils::clip_grad_norm_(theirs, 0.7);
  for (std::size_t i = 0; i < ours.size(); ++i) {
    EXPECT_TRUE(ours[i].grad().allclose(theirs[i].grad(), 1e-5, 1e-7));
  }
}

}  // namespace
}  // namespace train_optimizer_test
