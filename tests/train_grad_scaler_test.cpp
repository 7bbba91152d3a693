// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <bsconv/train/grad_scaler.hpp>

#include <limits>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace train_grad_scaler_test {
namespace {

using bsconv::train::GradScaler;
using bsconv::train::GradScalerOptions;
using bsconv_test::error_of;
using testing::HasSubstr;

class TrainGradScaler : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (device().is_cuda() && !torch::cuda::is_available()) {
      GTEST_SKIP() << "no CUDA device";
    }
  }
  static torch::Device device() { return torch::Device(GetParam()); }
  static torch::Tensor parameter(float gradient) {
    auto result = torch::zeros({2}, torch::TensorOptions(device()).requires_grad(true));
    result.mutable_grad() = torch::full({2}, gradient, device());
    return result;
  }
};

TEST_P(TrainGradScaler, DividesWhatItMultiplied) {
  GradScaler scaler(device(), GradScalerOptions().init_scale(1024));
  auto weight = torch::ones({3}, torch::TensorOptions(device()).requires_grad(true));
  scaler.scale((weight * 2).sum()).backward();
  EXPECT_EQ(weight.grad()[0].item<float>(), 2048);
  EXPECT_TRUE(scaler.unscale({weight}));
  EXPECT_EQ(weight.grad()[0].item<float>(), 2);
}

TEST_P(TrainGradScaler, GrowsAfterGoodStepsAndFallsAfterABadOne) {
  GradScaler scaler(device(), GradScalerOptions().init_scale(8).growth_interval(2));
  const std::vector<torch::Tensor> good = {parameter(8)};
  const std::vector<torch::Tensor> bad = {parameter(8),
                                          parameter(std::numeric_limits<float>::infinity())};
  const auto step = [&scaler](const std::vector<torch::Tensor>& parameters) {
    const bool finite = scaler.unscale(parameters);
    scaler.update();
    return finite;
  };
  EXPECT_TRUE(step(good));
  EXPECT_EQ(scaler.factor(), 8);
  EXPECT_TRUE(step(good));
  EXPECT_EQ(scaler.factor(), 16);
  EXPECT_TRUE(step(good));
  EXPECT_FALSE(step(bad));
  EXPECT_EQ(scaler.factor(), 8);
  EXPECT_FALSE(step({parameter(std::numeric_limits<float>::quiet_NaN())}));
  EXPECT_EQ(scaler.factor(), 4);
  // A bad step starts the count of good ones anew.
  EXPECT_TRUE(step(good));
  EXPECT_EQ(scaler.factor(), 4);
  EXPECT_TRUE(step(good));
  EXPECT_EQ(scaler.factor(), 8);
}

TEST_P(TrainGradScaler, ItsStateGoesOn) {
  const auto options = GradScalerOptions().init_scale(8).growth_interval(2);
  GradScaler first(device(), options);
  first.unscale({parameter(1)});
  first.update();
  GradScaler second(device(), GradScalerOptions(options).init_scale(2));
  second.load_state(first.state());
  EXPECT_EQ(second.factor(), 8);
  second.unscale({parameter(1)});
  second.update();
  EXPECT_EQ(second.factor(), 16);
  auto state = first.state();
  state["scale"] = torch::zeros({2});
  EXPECT_THAT(error_of([&] { second.load_state(state); }),
              HasSubstr("the gradient scaler's 'scale' is missing or is no Float number"));
  state.erase("growth_tracker");
  state["scale"] = torch::zeros({});
  EXPECT_THAT(error_of([&] { second.load_state(state); }),
              HasSubstr("'growth_tracker' is missing or is no Int number"));
}

TEST_P(TrainGradScaler, RefusesWrongOptions) {
  const auto error = [](const GradScalerOptions& options) {
    return error_of([&] { GradScaler(device(), options); });
  };
  EXPECT_THAT(error(GradScalerOptions().init_scale(0)), HasSubstr("init_scale must be positive"));
  EXPECT_THAT(error(GradScalerOptions().growth_factor(1)), HasSubstr("growth_factor must be"));
  EXPECT_THAT(error(GradScalerOptions().backoff_factor(1)), HasSubstr("backoff_factor must lie"));
  EXPECT_THAT(error(GradScalerOptions().growth_interval(0)), HasSubstr("growth_interval must be"));
}

INSTANTIATE_TEST_SUITE_P(Devices, TrainGradScaler, testing::Values("cpu", "cuda"));

}  // namespace
}  // namespace train_grad_scaler_test
