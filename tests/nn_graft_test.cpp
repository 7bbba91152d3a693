// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/nn.hpp>

#include <string>
#include <thread>
#include <vector>

#include "support/device.hpp"
#include "support/golden.hpp"
#include "support/layers.hpp"

namespace nn_graft_test {
namespace {

using bsconv::BSConvU;
using bsconv::BSConvUOptions;
using bsconv_test::message_of;
using torch::nn::AnyModule;
using Names = std::vector<std::string>;

/// Computes `scale * x + offset` with a parameter and a buffer of its own.
struct AffineImpl : torch::nn::Module {
  AffineImpl() {
    scale = register_parameter("scale", torch::tensor(2.0));
    offset = register_buffer("offset", torch::tensor(3.0));
  }
  torch::Tensor forward(const torch::Tensor& x) { return scale * x + offset; }
  torch::Tensor scale, offset;
};
TORCH_MODULE(Affine);

torch::nn::Conv2d plain() {
  return torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 6, 3).padding(1));
}

class GraftOnDevice : public bsconv_test::DeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, GraftOnDevice, bsconv_test::devices(), bsconv_test::device_name);

TEST_P(GraftOnDevice, TheSubstituteComputesForTheConvolution) {
  auto conv = plain();
  conv->to(device());
  BSConvU substitute(BSConvUOptions(4, 6, 3).padding(1));
  substitute->to(device());
  bsconv::graft(*conv, AnyModule(substitute));
  const auto input = torch::randn({2, 4, 5, 5}).to(device());
  EXPECT_TRUE(torch::equal(conv->forward(input), substitute->forward(input)));
  EXPECT_EQ(bsconv::grafted_substitute(*conv), substitute.ptr());
  EXPECT_EQ(conv->named_children().keys(), (Names{"pw", "dw"}));
  EXPECT_FALSE(conv->bias.defined());
  EXPECT_EQ(conv->weight.sizes().vec(), (std::vector<int64_t>{6, 4, 3, 3}));
  EXPECT_EQ(conv->weight.device().type(), device().type());
  bsconv_test::expect_step_changes_all(*conv, conv->forward(input).square().sum());
  EXPECT_TRUE(torch::equal(conv->forward(input), substitute->forward(input)));
}

TEST_P(GraftOnDevice, FollowsTheSubstituteToAnotherDtypeAndDevice) {
  auto conv = plain();
  bsconv::graft(*conv, AnyModule(BSConvU(4, 6, 3)));
  conv->to(device(), torch::kDouble);
  const auto output = conv->forward(torch::ones({1, 4, 5, 5}, torch::kDouble).to(device()));
  EXPECT_EQ(output.scalar_type(), torch::kDouble);
  EXPECT_EQ(conv->weight.device().type(), device().type());
  EXPECT_EQ(conv->weight.scalar_type(), torch::kDouble);
  conv->to(torch::kFloat);
  conv->forward(torch::ones({1, 4, 5, 5}).to(device()));
  EXPECT_EQ(conv->weight.scalar_type(), torch::kFloat);
}

TEST(Graft, ThreadsMayRunItTogetherAfterAConversion) {
  auto conv = plain();
  BSConvU substitute(BSConvUOptions(4, 6, 3).padding(1));
  bsconv::graft(*conv, AnyModule(substitute));
  for (const auto dtype : {torch::kDouble, torch::kFloat}) {
    conv->to(dtype);
    const auto input = torch::randn({2, 4, 5, 5}, dtype);
    std::vector<torch::Tensor> outputs(4);
    std::vector<std::thread> threads;
    for (auto& output : outputs) {
      threads.emplace_back([&] { output = conv->forward(input); });
    }
    for (auto& thread : threads) {
      thread.join();
    }
    const auto expected = substitute->forward(input);
    for (const auto& output : outputs) {
      EXPECT_TRUE(torch::equal(output, expected));
    }
    EXPECT_EQ(conv->weight.scalar_type(), dtype);
  }
}

TEST(Graft, TakesEveryWayToCallTheConvolution) {
  namespace F = torch::nn::functional;
  auto conv = plain();
  BSConvU substitute(BSConvUOptions(4, 6, 3).padding(1));
  bsconv::graft(*conv, AnyModule(substitute));
  const auto input = torch::randn({2, 4, 5, 5});
  const auto expected = substitute->forward(input);
  EXPECT_TRUE(torch::equal(conv(input), expected));
  EXPECT_TRUE(torch::equal(AnyModule(conv).forward(input), expected));
  EXPECT_TRUE(torch::equal(torch::conv2d(input, conv->weight, conv->bias), expected));
  EXPECT_TRUE(torch::equal(torch::conv2d(input, conv->weight, {}, 1, "same"), expected));
  EXPECT_TRUE(torch::equal(F::conv2d(input, conv->weight), expected));
  const torch::InferenceMode inference;
  EXPECT_TRUE(torch::equal(conv(input), expected));
}

TEST(Graft, PaddingIsTheSubstitutesAlone) {
  for (const bool reflect : {false, true}) {
    torch::nn::Conv2dOptions options(4, 6, 3);
    options.padding(1);
    if (reflect) {
      options.padding_mode(torch::kReflect);
    }
    torch::nn::Conv2d conv(options);
    BSConvU substitute{BSConvUOptions(options)};
    bsconv::graft(*conv, AnyModule(substitute));
    const auto input = torch::randn({1, 4, 6, 7});
    EXPECT_EQ(conv(input).sizes().vec(), (std::vector<int64_t>{1, 6, 6, 7}));
    EXPECT_TRUE(torch::equal(conv(input), substitute(input)));
  }
}

TEST(Graft, WhatHasParametersOfItsOwnBecomesAChild) {
  auto conv = plain();
  bsconv::graft(*conv, AnyModule(Affine()));
  EXPECT_EQ(bsconv::weights::state_dict(*conv).keys(),
            (Names{"replacement.scale", "replacement.offset"}));
  const auto input = torch::randn({2, 4, 5, 5});
  EXPECT_TRUE(torch::allclose(conv(input), 2 * input + 3));
}

TEST(Graft, WhatHasNoParametersWorksToo) {
  auto conv = plain();
  bsconv::graft(*conv, AnyModule(torch::nn::ReLU()));
  EXPECT_EQ(conv->named_children().keys(), Names{"replacement"});
  EXPECT_TRUE(conv->parameters().empty());
  const auto input = torch::randn({2, 4, 5, 5});
  EXPECT_TRUE(torch::equal(conv(input), input.relu()));
}

TEST(Graft, ReachesModeAndGradientsOfTheSubstitute) {
  auto conv = plain();
  BSConvU substitute(BSConvUOptions(4, 6, 3).with_bn(true));
  bsconv::graft(*conv, AnyModule(substitute));
  conv->eval();
  EXPECT_FALSE(substitute->bn->is_training());
  conv->train();
  EXPECT_TRUE(substitute->bn->is_training());
  conv(torch::randn({2, 4, 5, 5})).sum().backward();
  ASSERT_TRUE(substitute->pw->weight.grad().defined());
  conv->zero_grad();
  EXPECT_FALSE(substitute->pw->weight.grad().defined());
}

struct DroppingImpl : torch::nn::Module {
  torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(4, 6, 3));
  torch::Tensor forward(const torch::Tensor& x) {
    return torch::dropout(conv(x), 0.5, is_training());
  }
};
TORCH_MODULE(Dropping);

TEST(Graft, ReachesASubstituteThatAsksForItsOwnMode) {
  auto conv = plain();
  Dropping substitute;
  bsconv::graft(*conv, AnyModule(substitute));
  EXPECT_EQ(conv->named_children().keys(), Names{"replacement"});
  const auto input = torch::randn({2, 4, 5, 5});
  conv->eval();
  EXPECT_TRUE(torch::equal(conv(input), substitute->conv(input)));
  conv->train();
  EXPECT_GT(conv(input).eq(0).sum().item<int64_t>(), 0);
}

TEST(Graft, TheWeightRefusesEverythingElse) {
  auto conv = plain();
  bsconv::graft(*conv, AnyModule(BSConvU(4, 6, 3)));
  const auto expect = [&](auto&& use) {
    const auto message = message_of(use);
    EXPECT_NE(message.find("the weight of this Conv2d is a stand-in"), std::string::npos)
        << message;
    EXPECT_NE(message.find("bsconv::BSConvUImpl"), std::string::npos) << message;
    EXPECT_NE(message.find("Use the layer's parameters() instead"), std::string::npos) << message;
  };
  const torch::NoGradGuard no_grad;
  expect([&] { conv->weight.norm(); });
  expect([&] { conv->weight + 1; });
  expect([&] { conv->weight.clone(); });
  expect([&] { torch::nn::init::kaiming_uniform_(conv->weight); });
  expect([&] { torch::cat({torch::ones({6, 4, 3, 3}), conv->weight}); });
  expect([&] { torch::conv_transpose2d(torch::ones({1, 6, 5, 5}), conv->weight); });
}

TEST(Graft, RefusesWhatCanNotBeDone) {
  auto conv = plain();
  bsconv::graft(*conv, AnyModule(BSConvU(4, 6, 3)));
  const auto names = bsconv_test::parameter_names(*conv);
  EXPECT_NE(message_of([&] {
              bsconv::graft(*conv, AnyModule(BSConvU(4, 6, 3)));
            }).find("this Conv2d has been replaced already"),
            std::string::npos);
  EXPECT_EQ(bsconv_test::parameter_names(*conv), names);
  torch::nn::Sequential holder(conv);
  EXPECT_NE(message_of([&] { conv->clone(); }), "(nothing was thrown)");
  EXPECT_NE(message_of([&] { holder->clone(); }), "(nothing was thrown)");
  const auto as_input = message_of([&] { torch::conv2d(conv->weight, torch::ones({2, 4, 1, 1})); });
  EXPECT_NE(as_input.find("was used as an input or a bias"), std::string::npos) << as_input;
  const auto wrong = message_of([&] { conv(torch::ones({1, 3, 5, 5})); });
  EXPECT_NE(wrong.find("BSConvU: expected 4 input channels, got 3"), std::string::npos) << wrong;
}

TEST(Graft, ItsOwnersKeepItAlive) {
  torch::Tensor output;
  {
    auto conv = plain();
    bsconv::graft(*conv, AnyModule(BSConvU(4, 6, 3)));
    const auto weight = conv->weight;
    conv = plain();
    output = torch::conv2d(torch::ones({1, 4, 5, 5}), weight);
  }
  output.sum().backward();
  EXPECT_EQ(output.sizes().vec(), (std::vector<int64_t>{1, 6, 3, 3}));
}

TEST(Graft, ForEachModuleVisitsEachOnce) {
  auto conv = plain();
  bsconv::graft(*conv, AnyModule(BSConvU(4, 6, 3)));
  torch::nn::Sequential net(conv, torch::nn::ReLU(), conv);
  std::vector<std::string> seen;
  bsconv::for_each_module(*net, [&](const torch::nn::Module& module, const std::string& path) {
    seen.push_back(path + " " + module.name());
  });
  EXPECT_EQ(seen, (Names{" torch::nn::SequentialImpl", "0 torch::nn::Conv2dImpl",
                         "0 bsconv::BSConvUImpl", "0.pw torch::nn::Conv2dImpl",
                         "0.dw torch::nn::Conv2dImpl", "1 torch::nn::ReLUImpl"}));
}

}  // namespace
}  // namespace nn_graft_test
