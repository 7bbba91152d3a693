// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <bsconv/weights/state_dict.hpp>

#include <string>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace weights_state_dict_test {
namespace {

using bsconv::weights::DtypePolicy;
using bsconv::weights::load_state_dict;
using bsconv::weights::LoadOptions;
using bsconv::weights::state_dict;
using bsconv::weights::StateDict;
using bsconv_test::error_of;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

/// Registers a child before its own parameter and buffer.
struct NetImpl : torch::nn::Module {
  NetImpl() {
    conv =
        register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 3, 1).bias(false)));
    bn = register_module("bn", torch::nn::BatchNorm2d(3));
    mean = register_buffer("mean", torch::ones({2}));
    scale = register_parameter("scale", torch::ones({2}));
  }
  torch::nn::Conv2d conv = nullptr;
  torch::nn::BatchNorm2d bn = nullptr;
  torch::Tensor mean;
  torch::Tensor scale;
};
TORCH_MODULE(Net);

TEST(WeightsStateDict, HasPythonsNamesAndOrder) {
  Net net;
  EXPECT_THAT(state_dict(*net).keys(),
              ElementsAre("scale", "mean", "conv.weight", "bn.weight", "bn.bias", "bn.running_mean",
                          "bn.running_var", "bn.num_batches_tracked"));
}

TEST(WeightsStateDict, SharesTheModulesTensorsAndCloneDoesNot) {
  Net net;
  const auto state = state_dict(*net);
  const auto copy = bsconv::weights::clone_state_dict(state);
  net->mean.fill_(5);
  EXPECT_EQ(state["mean"][0].item<float>(), 5);
  EXPECT_EQ(copy["mean"][0].item<float>(), 1);
  EXPECT_FALSE(copy["scale"].requires_grad());
}

TEST(WeightsStateDict, LoadsIntoAnotherModule) {
  torch::manual_seed(1);
  const Net from;
  Net to;
  from->bn->running_var.fill_(3);
  from->bn->num_batches_tracked.fill_(7);
  EXPECT_TRUE(load_state_dict(*to, state_dict(*from)).empty());
  for (const auto& item : state_dict(*to)) {
    EXPECT_TRUE(item.value().equal(state_dict(*from)[item.key()])) << item.key();
  }
  EXPECT_TRUE(to->scale.requires_grad());
}

TEST(WeightsStateDict, ListsAllDifferencesAtOnceAndLeavesTheModelAlone) {
  Net net;
  auto state = bsconv::weights::clone_state_dict(state_dict(*net));
  for (auto& item : state) {
    item.value().fill_(1).add_(41);
  }
  state.erase("bn.bias");
  state["conv.weight"] = torch::zeros({3, 2, 3, 3});
  state["mean"] = torch::zeros({2}, torch::kDouble);
  state["bn.weight"] = torch::Tensor();
  state.insert("extra", torch::zeros({1}));
  const auto before = bsconv::weights::clone_state_dict(state_dict(*net));
  const auto message = error_of([&] { load_state_dict(*net, state); });
  EXPECT_THAT(message, HasSubstr("left unchanged"));
  EXPECT_THAT(message, HasSubstr("  missing: bn.bias\n"));
  EXPECT_THAT(message, HasSubstr("  unexpected: extra\n"));
  EXPECT_THAT(message, HasSubstr("  wrong shape: conv.weight: the model has Float [3, 2, 1, 1], "
                                 "found Float [3, 2, 3, 3]\n"));
  EXPECT_THAT(message,
              HasSubstr("  wrong dtype: mean: the model has Float [2], found Double [2]\n"));
  EXPECT_THAT(message, HasSubstr("  wrong shape: bn.weight: the model has Float [3], found an "
                                 "undefined tensor\n"));
  for (const auto& item : state_dict(*net)) {
    EXPECT_TRUE(item.value().equal(before[item.key()])) << item.key();
  }
}

TEST(WeightsStateDict, ListsTenDifferencesOfAKind) {
  StateDict state = bsconv::weights::clone_state_dict(state_dict(*Net()));
  for (int i = 0; i < 13; ++i) {
    state.insert("extra" + std::to_string(i), torch::zeros({1}));
  }
  Net net;
  const auto difference = bsconv::weights::compare_state_dict(*net, state);
  const auto text = difference.to_string();
  EXPECT_THAT(text, HasSubstr("  unexpected: extra9\n  unexpected: and 3 more\n"));
  EXPECT_THAT(text, Not(HasSubstr("extra10")));
  EXPECT_THAT(difference.to_string(13), HasSubstr("  unexpected: extra12\n"));
  EXPECT_THAT(difference.to_string(13), Not(HasSubstr("more")));
}

TEST(WeightsStateDict, LoadsPartlyWhenNotStrict) {
  Net net;
  StateDict state;
  state.insert("mean", torch::full({2}, 3.0));
  state.insert("extra", torch::zeros({1}));
  const auto difference = load_state_dict(*net, state, LoadOptions().strict(false));
  EXPECT_EQ(net->mean[1].item<float>(), 3);
  EXPECT_EQ(difference.missing.size(), 7U);
  EXPECT_THAT(difference.unexpected, ElementsAre("extra"));
  state["mean"] = torch::zeros({3});
  const auto message = error_of([&] { load_state_dict(*net, state, LoadOptions().strict(false)); });
  EXPECT_THAT(message, HasSubstr("wrong shape: mean"));
  EXPECT_THAT(message, Not(HasSubstr("missing")));
}

TEST(WeightsStateDict, ConvertsTheDtypeOnlyOnRequest) {
  torch::nn::Linear net(2, 2);
  StateDict state;
  state.insert("weight", torch::full({2, 2}, 0.1, torch::kDouble));
  state.insert("bias", torch::full({2}, 0.5, torch::kHalf));
  EXPECT_THAT(error_of([&] { load_state_dict(*net, state); }), HasSubstr("wrong dtype: weight"));
  const auto difference =
      load_state_dict(*net, state, LoadOptions().dtype_policy(DtypePolicy::convert));
  EXPECT_EQ(difference.dtypes.size(), 2U);
  EXPECT_EQ(net->weight.scalar_type(), torch::kFloat);
  EXPECT_EQ(net->weight[0][0].item<float>(), 0.1F);
  EXPECT_EQ(net->bias[0].item<float>(), 0.5F);
}

}  // namespace
}  // namespace weights_state_dict_test
