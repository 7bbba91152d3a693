// SPDX-License-Identifier: BSD-3-Clause-Clear
// Replacement of layers that stand at several places, of nested holders, and in any geometry.
#include <bsconv/nn.hpp>
#include <bsconv/replace.hpp>

#include "support/device.hpp"
#include "support/golden.hpp"
#include "support/layers.hpp"

namespace replace_sharing_test {
namespace {

using bsconv::ReplacementKind;
using bsconv::ReplacementRule;
using bsconv::Replacer;
using bsconv_test::Draw;
using torch::nn::AnyModule;
using Names = std::vector<std::string>;

torch::nn::Conv2d conv(int64_t channels = 4) {
  return torch::nn::Conv2d(torch::nn::Conv2dOptions(channels, channels, 3).padding(1));
}

template <class Options>
Options dry() {
  return Options().dry_run(true);
}

class ReplacedGeometry : public bsconv_test::DeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, ReplacedGeometry, bsconv_test::devices(), bsconv_test::device_name);

TEST_P(ReplacedGeometry, IsThatOfTheConvolution) {
  struct TypedImpl : torch::nn::Module {
    explicit TypedImpl(const torch::nn::Conv2dOptions& options) : conv(options) {
      register_module("conv", conv);
    }
    torch::nn::Conv2d conv;
  };
  Draw draw(4);
  for (int round = 0; round < 60; ++round) {
    const auto options = bsconv_test::random_convolution(draw);
    TypedImpl typed(options);
    torch::nn::Sequential sequential{torch::nn::Conv2d(options)};
    typed.to(device());
    sequential->to(device());
    SCOPED_TRACE(testing::Message() << *typed.conv);
    const bool subspace = draw.flip();
    const auto replace = [&](torch::nn::Module& model) {
      const auto report =
          subspace ? bsconv::replace_with_bsconv_s(
                         model, bsconv::BSConvSReplacementOptions().kernel_sizes({}).p(0.5))
                   : bsconv::replace_with_bsconv_u(
                         model, bsconv::BSConvUReplacementOptions().kernel_sizes({}));
      EXPECT_EQ(report.replaced(), 1U);
    };
    replace(typed);
    replace(*sequential);
    const auto input =
        torch::randn({2, options.in_channels(), draw(14, 17), draw(15, 18)}).to(device());
    const auto check = [&](const torch::Tensor& output, const torch::nn::Module& model,
                           const std::string& path) {
      const auto p = model.named_parameters();
      const auto pointwise =
          subspace ? p[path + ".pw2.weight"].flatten(1).matmul(p[path + ".pw1.weight"].flatten(1))
                   : p[path + ".pw.weight"].flatten(1);
      const auto* bias = p.find(path + ".dw.bias");
      EXPECT_EQ(bias != nullptr, options.bias());
      const auto expected =
          bsconv_test::dense_result(options, pointwise, p[path + ".dw.weight"],
                                    bias == nullptr ? torch::Tensor() : *bias, input);
      ASSERT_EQ(output.sizes(), expected.sizes());
      EXPECT_TRUE(torch::allclose(output, expected, 1e-4, 1e-4));
    };
    check(typed.conv(input), typed, "conv");
    check(sequential->forward(input), *sequential, "0");
  }
}

TEST(ReplaceSharing, TypedMemberAndSequentialShareTheReplacement) {
  struct NetImpl : torch::nn::Module {
    explicit NetImpl(bool typed_first) {
      auto shared = conv();
      if (typed_first) {
        typed = register_module("typed", shared);
      }
      sequential = register_module("sequential", torch::nn::Sequential(shared));
      if (!typed_first) {
        typed = register_module("typed", shared);
      }
    }
    torch::nn::Conv2d typed{nullptr};
    torch::nn::Sequential sequential{nullptr};
  };
  for (const bool typed_first : {false, true}) {
    NetImpl net(typed_first);
    const auto planned =
        bsconv::replace_with_bsconv_u(net, dry<bsconv::BSConvUReplacementOptions>());
    const auto report = bsconv::replace_with_bsconv_u(net);
    EXPECT_EQ(report.replaced(), 1U);
    EXPECT_EQ(planned.replaced(), 1U);
    EXPECT_EQ(planned.parameters_after, report.parameters_after);
    EXPECT_EQ(report.parameters_after, 16 + 36 + 4);
    EXPECT_EQ(bsconv::parameter_count(net), 16 + 36 + 4);
    const auto input = torch::randn({1, 4, 5, 5});
    EXPECT_TRUE(torch::equal(net.typed(input), net.sequential->forward(input)));
  }
}

TEST(ReplaceSharing, ADryRunCountsASharedLayerOnce) {
  const auto shared = conv();
  torch::nn::Sequential net(shared, torch::nn::ReLU(), shared);
  torch::nn::ModuleList list{shared, shared};
  for (torch::nn::Module* model :
       {static_cast<torch::nn::Module*>(&*net), static_cast<torch::nn::Module*>(&*list)}) {
    const auto planned =
        bsconv::replace_with_bsconv_s(*model, dry<bsconv::BSConvSReplacementOptions>());
    EXPECT_EQ(planned.replaced(), 1U);
    EXPECT_EQ(planned.parameters_before, 148);
    EXPECT_EQ(planned.parameters_after, 16 + 16 + 36 + 4);
  }
  const auto report = bsconv::replace_with_bsconv_s(net);
  EXPECT_EQ(report.parameters_after, 16 + 16 + 36 + 4);
  EXPECT_EQ(net->ptr(0), net->ptr(2));
}

TEST(ReplaceSharing, WhatCanNotBeReplacedAtASecondPlaceIsReported) {
  struct NetImpl : torch::nn::Module {
    torch::nn::ReLU typed{nullptr};
    torch::nn::Sequential sequential{nullptr};
    NetImpl() {
      torch::nn::ReLU shared;
      sequential = register_module("sequential", torch::nn::Sequential(shared));
      typed = register_module("typed", shared);
    }
  } net;
  const Replacer replacer({{[](const torch::nn::Module& module, const std::string&) {
                              return dynamic_cast<const torch::nn::ReLUImpl*>(&module) != nullptr;
                            },
                            [](const torch::nn::Module&, const std::string&) {
                              return AnyModule(torch::nn::Tanh());
                            }}});
  const auto report = replacer.apply(net);
  ASSERT_EQ(report.rows.size(), 2U);
  EXPECT_EQ(report.rows[0].path, "sequential.0");
  EXPECT_EQ(report.rows[0].kind, ReplacementKind::exchanged);
  EXPECT_EQ(report.rows[1].path, "typed");
  EXPECT_EQ(report.rows[1].kind, ReplacementKind::refused);
  EXPECT_NE(report.rows[1].reason.find("only Conv2d can be replaced there"), std::string::npos);
}

TEST(ReplaceNested, ReachesEveryDepth) {
  torch::nn::ModuleDict dict;
  dict->update({{"conv", conv().ptr()}, {"list", torch::nn::ModuleList(conv(), conv()).ptr()}});
  bsconv::Chain chain;
  chain->push_back("conv", conv());
  bsconv::Chain outer;
  outer->push_back("chain", chain);
  struct RootImpl : torch::nn::Module {};
  RootImpl root;
  root.register_module("dict", dict);
  root.register_module("outer", outer);
  root.register_module(
      "sequential",
      torch::nn::Sequential(std::dynamic_pointer_cast<bsconv::ChainImpl>(outer->clone()), conv()));
  const auto report = bsconv::replace_with_bsconv_u(root);
  Names paths;
  for (const auto& row : report.rows) {
    paths.push_back(row.path);
  }
  EXPECT_EQ(paths, (Names{"dict.conv", "dict.list.0", "dict.list.1", "outer.chain.conv",
                          "sequential.0.chain.conv", "sequential.1"}));
  EXPECT_EQ(report.refused(), 0U);
  EXPECT_EQ(dict->keys(), (Names{"conv", "list"}));
  EXPECT_EQ(bsconv::parameter_count(root), 6 * (16 + 36 + 4));
  EXPECT_TRUE(bsconv::replace_with_bsconv_u(root).rows.empty());
}

TEST(ReplaceNested, NewLayersTakeOptionsModeAndDtype) {
  torch::nn::ModuleList net(torch::nn::Sequential(conv()), conv());
  net->to(torch::kDouble);
  net->eval();
  bsconv::replace_with_bsconv_s(net, bsconv::BSConvSReplacementOptions()
                                         .with_bn(true)
                                         .bn_options(torch::nn::BatchNormOptions(1).eps(0.5))
                                         .p(0.5)
                                         .min_mid_channels(2));
  int64_t layers = 0;
  bsconv::for_each_module(*net, [&](const torch::nn::Module& module, const std::string&) {
    EXPECT_EQ(module.is_training(), false) << module.name();
    if (const auto* layer = dynamic_cast<const bsconv::BSConvSImpl*>(&module)) {
      ++layers;
      EXPECT_EQ(layer->options.mid_channels(), 2);
      EXPECT_EQ(layer->bn2->options.eps(), 0.5);
    }
  });
  EXPECT_EQ(layers, 2);  // one exchanged, one grafted
  for (const auto& item : bsconv::weights::state_dict(*net)) {
    const bool counter = item.key().find("num_batches_tracked") != std::string::npos;
    EXPECT_EQ(item.value().scalar_type(), counter ? torch::kLong : torch::kDouble) << item.key();
  }
}

TEST(ReplaceNested, LeavesThePartsOfItsOwnLayersAlone) {
  torch::nn::ModuleList net(torch::nn::Sequential(conv()), conv(), bsconv::BSConvS(4, 4, 3));
  const auto all = bsconv::BSConvUReplacementOptions().kernel_sizes({}).groups({});
  EXPECT_EQ(bsconv::replace_with_bsconv_u(net, all).replaced(), 2U);
  const auto names = bsconv_test::parameter_names(*net);
  EXPECT_TRUE(bsconv::replace_with_bsconv_u(net, all).rows.empty());
  EXPECT_EQ(bsconv_test::parameter_names(*net), names);
}

TEST(ReplaceNested, DrawsTheInitialWeightsInTreeOrder) {
  torch::nn::Sequential net(conv(3), conv(3));
  torch::manual_seed(9);
  bsconv::replace_with_bsconv_u(net);
  torch::manual_seed(9);
  const bsconv::BSConvUOptions options = bsconv::BSConvUOptions(3, 3, 3).padding(1);
  torch::nn::Sequential expected{bsconv::BSConvU(options), bsconv::BSConvU(options)};
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_TRUE(torch::equal(net->parameters()[i], expected->parameters()[i])) << i;
  }
}

/// A convolution of a user's own that changes its weight before it uses it.
struct StandardizedImpl : torch::nn::Conv2dImpl {
  using Conv2dImpl::Conv2dImpl;
  torch::Tensor forward(const torch::Tensor& x) {
    return torch::conv2d(x, weight - weight.mean(), bias);
  }
};
TORCH_MODULE(Standardized);

TEST(ReplaceNested, NeverComputesWithTheOldWeight) {
  struct NetImpl : torch::nn::Module {
    Standardized conv = register_module("conv", Standardized(2, 2, 3));
  } net;
  bsconv::replace_with_bsconv_u(net);
  const auto message = bsconv_test::message_of([&] { net.conv(torch::ones({1, 2, 4, 4})); });
  EXPECT_NE(message.find("only conv2d may use it"), std::string::npos) << message;
}

TEST(ReplaceNested, OtherOperatorsOfOtherLayersAreUntouched) {
  auto grafted = conv();
  auto plain = conv();
  const auto input = torch::randn({1, 4, 5, 5});
  const auto expected = plain(input);
  bsconv::replace_with_bsconv_u(grafted);
  EXPECT_TRUE(torch::equal(plain(input), expected));
  EXPECT_TRUE(torch::equal(plain->weight + 1, plain->weight.clone().add_(1)));
}

}  // namespace
}  // namespace replace_sharing_test
