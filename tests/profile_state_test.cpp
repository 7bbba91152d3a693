// SPDX-License-Identifier: BSD-3-Clause-Clear
// Which module is charged, memory, time, and that a profiled model stays as it was.
#include <bsconv/nn.hpp>
#include <bsconv/profile/profiler.hpp>
#include <bsconv/zoo.hpp>

#include <thread>

#include "support/device.hpp"
#include "support/golden.hpp"
#include "support/layers.hpp"
#include "support/warnings.hpp"

namespace profile_state_test {
namespace {

using bsconv::Profile;
using bsconv::profile;
using bsconv::ProfileOptions;
using bsconv_test::message_of;

const bsconv::ProfileRow& row(const Profile& profile, const std::string& path) {
  for (const auto& candidate : profile.rows) {
    if (candidate.path == path) {
      return candidate;
    }
  }
  ADD_FAILURE() << "there is no row '" << path << "'";
  return profile.rows.front();
}

/// Draws numbers, counts its calls in a buffer, and throws when told to.
struct StatefulImpl : torch::nn::Module {
  torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(3, 4, 3));
  torch::nn::BatchNorm2d frozen = register_module("frozen", torch::nn::BatchNorm2d(4));
  torch::nn::BatchNorm2d live = register_module("live", torch::nn::BatchNorm2d(4));
  torch::nn::Dropout dropout = register_module("dropout", torch::nn::Dropout(0.5));
  torch::Tensor calls = register_buffer("calls", torch::zeros({1}));
  torch::Tensor absent = register_buffer("absent", torch::Tensor());
  bool throws = false;
  bool was_training = false;

  torch::Tensor forward(torch::Tensor x) {
    was_training = is_training();
    calls += 1;
    x = dropout(live(frozen(conv(x))));
    TORCH_CHECK(!throws, "forward fails");
    return x + torch::randn(x.sizes()).to(x.device());
  }
};
TORCH_MODULE(Stateful);

std::vector<torch::Tensor> snapshot(const Stateful& net) {
  std::vector<torch::Tensor> tensors;
  for (const auto& item : bsconv::weights::state_dict(*net)) {
    tensors.push_back(item.value().detach().cpu().clone());
  }
  for (const auto& parameter : net->parameters()) {
    tensors.push_back(parameter.grad().cpu().clone());
  }
  const bsconv::RngGuard guard;
  tensors.push_back(torch::randn({8}));
  return tensors;
}

class ProfiledModel : public bsconv_test::DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) {
      return;
    }
    net = Stateful();
    net->to(device());
    net->frozen->eval();
    input = torch::randn({2, 3, 6, 6}).to(device());
    net->forward(input).square().sum().backward();
    before = snapshot(net);
  }

  void expect_unchanged() {
    const auto after = snapshot(net);
    ASSERT_EQ(after.size(), before.size());
    for (std::size_t i = 0; i < after.size(); ++i) {
      EXPECT_TRUE(torch::equal(after[i], before[i])) << i;
    }
    EXPECT_TRUE(net->is_training());
    EXPECT_FALSE(net->frozen->is_training());
    EXPECT_TRUE(net->live->is_training());
    EXPECT_TRUE(net->dropout->is_training());
    EXPECT_TRUE(torch::GradMode::is_enabled());
    EXPECT_EQ(bsconv::CallObserver::current(), nullptr);
    EXPECT_EQ(bsconv::detail::operator_observer(), nullptr);
  }

  Stateful net{nullptr};
  torch::Tensor input;
  std::vector<torch::Tensor> before;
};
INSTANTIATE_TEST_SUITE_P(All, ProfiledModel, bsconv_test::devices(), bsconv_test::device_name);

TEST_P(ProfiledModel, StaysAsItWas) {
  const auto result = profile(net, ProfileOptions().timed_runs(2), input);
  EXPECT_FALSE(net->was_training);
  EXPECT_EQ(result.parameters(), 108 + 4 + 16);
  expect_unchanged();
}

TEST_P(ProfiledModel, StaysAsItWasWhenForwardThrows) {
  net->throws = true;
  EXPECT_NE(message_of([&] { profile(net, input); }).find("forward fails"), std::string::npos);
  expect_unchanged();
  EXPECT_NE(message_of([&] { profile(net, torch::zeros({1}).to(device())); }),
            "(nothing was thrown)");
  expect_unchanged();
}

TEST(ProfileState, AnErrorPassesWhereABufferCanNotBePutBack) {
  struct Growing : torch::nn::Module {
    torch::Tensor sizes = register_buffer("sizes", torch::zeros({2}));
    torch::Tensor forward(const torch::Tensor&) {
      sizes.resize_({3}).zero_();
      TORCH_CHECK(false, "forward fails");
    }
  } net;
  bsconv_test::Warnings warnings;
  EXPECT_NE(message_of([&] { profile(net, torch::zeros({1})); }).find("forward fails"),
            std::string::npos);
  ASSERT_EQ(warnings.messages.size(), 1U);
  EXPECT_NE(warnings.messages[0].find("could not put back the buffers of a model: "),
            std::string::npos);
}

TEST_P(ProfiledModel, IsTimedOperatorByOperator) {
  const auto timed = profile(net, ProfileOptions().timed_runs(3), input);
  EXPECT_GT(row(timed, "conv").total.seconds, 0.0);
  EXPECT_GT(timed.total().seconds, row(timed, "conv").total.seconds);
  EXPECT_GT(timed.rows[0].own.seconds, 0.0);
  EXPECT_EQ(row(timed, "conv").own.seconds, row(timed, "conv").total.seconds);
  const auto untimed = profile(net, input);
  EXPECT_EQ(untimed.total().seconds, 0.0);
  EXPECT_EQ(timed.flops(), untimed.flops());
  EXPECT_EQ(timed.total().operators, untimed.total().operators);
  EXPECT_EQ(timed.total().activation_bytes, untimed.total().activation_bytes);
  EXPECT_NE(message_of([&] {
              profile(net, ProfileOptions().timed_runs(-1), input);
            }).find("timed_runs must be at least 0, got -1"),
            std::string::npos);
}

TEST(ProfileMemory, CountsWhatOperatorsWrite) {
  torch::nn::Sequential net(torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 2, 1).bias(false)),
                            torch::nn::ReLU(torch::nn::ReLUOptions().inplace(true)),
                            torch::nn::Flatten(), torch::nn::Tanh());
  const auto result = profile(net, torch::zeros({1, 1, 8, 8}));
  EXPECT_EQ(row(result, "0").own.activation_bytes, 512);
  EXPECT_EQ(row(result, "1").own.activation_bytes, 0);
  EXPECT_EQ(row(result, "2").own.activation_bytes, 0);
  EXPECT_EQ(row(result, "3").own.activation_bytes, 512);
  EXPECT_EQ(result.total().activation_bytes, 1024);
  EXPECT_EQ(result.peak_activation_bytes, 1024);
}

TEST(ProfileMemory, PeakIsWhatLivesAtOnce) {
  torch::nn::Sequential net;
  for (int i = 0; i < 10; ++i) {
    net->push_back(torch::nn::Tanh());
  }
  const auto result = profile(net, torch::zeros({256}));
  EXPECT_EQ(result.total().activation_bytes, 10 * 1024);
  EXPECT_EQ(result.peak_activation_bytes, 2 * 1024);
}

struct TwoReluImpl : torch::nn::Module {
  torch::nn::Conv2d conv1 = register_module("conv1", torch::nn::Conv2d(1, 2, 1));
  torch::nn::ReLU relu1 = register_module("relu1", torch::nn::ReLU());
  torch::nn::Conv2d conv2 = register_module("conv2", torch::nn::Conv2d(2, 3, 1));
  torch::nn::ReLU relu2 = register_module("relu2", torch::nn::ReLU());
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& y) {
    return relu2(conv2(relu1(conv1(x)))) * y;
  }
};
TORCH_MODULE(TwoRelu);

TEST(ProfileOwners, TypedMembersGetTheirOwnOperators) {
  TwoRelu net;
  const auto result = profile(net, ProfileOptions().convention(bsconv::Convention::complete),
                              torch::zeros({1, 1, 4, 4}), torch::zeros({1}));
  EXPECT_EQ(row(result, "relu1").own.flops, 32);
  EXPECT_EQ(row(result, "relu2").own.flops, 48);
  EXPECT_EQ(result.rows[0].own.flops, 48);
  EXPECT_EQ(result.total().flops, 32 + 48 + 48 + 16 * 2 + 32 + 16 * 6 + 48);
}

TEST(ProfileOwners, ASharedLayerHasOneRowAndCountsEachRun) {
  torch::nn::Conv2d conv(torch::nn::Conv2dOptions(2, 2, 1).bias(false));
  torch::nn::Sequential net(conv, torch::nn::Tanh(), conv);
  const auto result = profile(net, torch::zeros({1, 2, 3, 3}));
  EXPECT_EQ(result.rows.size(), 3U);
  EXPECT_EQ(row(result, "0").own.flops, 2 * 36);
  EXPECT_EQ(result.parameters(), 4);
}

TEST(ProfileOwners, FrozenParametersAreNotCounted) {
  torch::nn::Sequential net(torch::nn::Linear(3, 2));
  net->parameters()[1].set_requires_grad(false);
  const auto result = profile(net, torch::zeros({1, 3}));
  EXPECT_EQ(result.parameters(), 6);
  EXPECT_EQ(result.parameters(), bsconv::parameter_count(*net));
}

TEST(ProfileOwners, ALayerCanBeTheWholeModel) {
  torch::nn::Conv2d conv(torch::nn::Conv2dOptions(2, 4, {3, 5}).groups(2));
  const auto result = profile(conv, torch::zeros({1, 2, 5, 5}));
  ASSERT_EQ(result.rows.size(), 1U);
  EXPECT_TRUE(result.rows[0].is_leaf);
  EXPECT_EQ(result.rows[0].info, "3x5 DW");
  EXPECT_EQ(result.flops(), 3 * 4 * 15 + 12);
}

TEST(ProfileOwners, OtherThreadsAreNotSeen) {
  struct Busy : torch::nn::Module {
    torch::Tensor forward(const torch::Tensor& x) {
      std::thread([&] { x.tanh(); }).join();
      return x.sigmoid();
    }
  } net;
  const auto result = profile(net, ProfileOptions(), torch::ones({4}));
  EXPECT_EQ(result.uncounted, (std::map<std::string, int64_t>{{"sigmoid", 1}}));
}

TEST(ProfileSum, RowsAddUp) {
  auto model = bsconv::create_model("cifar_mobilenetv3_small_w1_bsconvs_p1d6",
                                    bsconv::ModelOptions().num_classes(10));
  const auto result = profile(model, ProfileOptions().convention(bsconv::Convention::complete),
                              torch::zeros({1, 3, 32, 32}));
  bsconv::ModuleCost sum;
  for (const auto& entry : result.rows) {
    sum.flops += entry.own.flops;
    sum.parameters += entry.own.parameters;
    sum.activation_bytes += entry.own.activation_bytes;
    sum.operators += entry.own.operators;
  }
  EXPECT_EQ(sum.flops, result.flops());
  EXPECT_EQ(sum.parameters, result.parameters());
  EXPECT_EQ(sum.activation_bytes, result.total().activation_bytes);
  EXPECT_EQ(sum.operators, result.total().operators);
  EXPECT_TRUE(result.uncounted.empty());
  EXPECT_GT(result.flops(), profile(model, torch::zeros({1, 3, 32, 32})).flops());
}

}  // namespace
}  // namespace profile_state_test
