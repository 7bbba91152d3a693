// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <bsconv/nn.hpp>
#include <bsconv/replace.hpp>
#include <bsconv/weights/state_dict.hpp>

#include "support/golden.hpp"

namespace replace_replacer_test {
namespace {

using bsconv::ReplacementRule;
using bsconv::Replacer;
using bsconv_test::message_of;

template <class Type>
ReplacementRule rule(std::function<torch::nn::AnyModule()> make) {
  return {[]([[maybe_unused]] const torch::nn::Module& module, const std::string&) {
            if constexpr (std::is_same_v<Type, torch::nn::Module>) {
              return true;
            } else {
              return dynamic_cast<const Type*>(&module) != nullptr;
            }
          },
          [make](const torch::nn::Module&, const std::string&) { return make(); }};
}

struct TypedReluImpl : torch::nn::Module {
  torch::nn::ReLU relu = register_module("relu", torch::nn::ReLU());
  torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(1, 1, 1));
  torch::Tensor forward(const torch::Tensor& x) { return relu(conv(x)); }
};
TORCH_MODULE(TypedRelu);

TEST(Replacer, ExchangesInContainers) {
  const auto to_tanh =
      rule<torch::nn::ReLUImpl>([] { return torch::nn::AnyModule(torch::nn::Tanh()); });
  torch::nn::Sequential sequential{torch::nn::ReLU()};
  EXPECT_EQ(Replacer({to_tanh}).apply(*sequential).replaced(), 1U);
  const auto x = torch::randn({3, 4});
  EXPECT_TRUE(torch::equal(sequential->forward(x), x.tanh()));

  torch::nn::ModuleList list{torch::nn::ReLU(), torch::nn::Sigmoid()};
  EXPECT_EQ(Replacer({to_tanh}).apply(*list).replaced(), 1U);
  EXPECT_NE(list[0]->as<torch::nn::Tanh>(), nullptr);
  EXPECT_NE(list->children()[0]->as<torch::nn::Tanh>(), nullptr);

  torch::nn::ModuleDict dict;
  dict->update({{"a", torch::nn::ReLU().ptr()}});
  EXPECT_EQ(Replacer({to_tanh}).apply(*dict).replaced(), 1U);
  EXPECT_NE(dict["a"]->as<torch::nn::Tanh>(), nullptr);

  bsconv::Chain chain;
  chain->push_back("first", torch::nn::ReLU());
  EXPECT_EQ(Replacer({to_tanh}).apply(*chain).replaced(), 1U);
  EXPECT_TRUE(torch::equal(chain->forward(x), x.tanh()));
  EXPECT_NE(message_of([&] {
              chain->replace_child("second", torch::nn::AnyModule(torch::nn::Tanh()));
            }).find("has no child 'second'"),
            std::string::npos);
}

TEST(Replacer, OneOfTheTimesThatAModuleStandsInAContainer) {
  const torch::nn::ReLU shared;
  const ReplacementRule last = {
      [](const torch::nn::Module&, const std::string& path) { return path == "2"; },
      [](const torch::nn::Module&, const std::string&) {
        return torch::nn::AnyModule(torch::nn::Tanh());
      }};
  torch::nn::Sequential sequential{shared, torch::nn::Sigmoid(), shared};
  EXPECT_EQ(Replacer({last}).apply(*sequential).replaced(), 1U);
  const auto x = torch::randn({3, 4});
  EXPECT_TRUE(torch::equal(sequential->forward(x), x.relu().sigmoid().tanh()));
  EXPECT_NE(sequential->named_children()["2"]->as<torch::nn::Tanh>(), nullptr);
  torch::nn::ModuleList list{shared, torch::nn::Sigmoid(), shared};
  EXPECT_EQ(Replacer({last}).apply(*list).replaced(), 1U);
  EXPECT_NE(list[2]->as<torch::nn::Tanh>(), nullptr);
  EXPECT_NE(list[0]->as<torch::nn::ReLU>(), nullptr);
}

TEST(Replacer, ARuleThatThrowsLeavesTheModelAsItWas) {
  torch::nn::Sequential model{torch::nn::Conv2d(1, 1, 1), TypedRelu(), torch::nn::Conv2d(1, 1, 1)};
  const auto x = torch::randn({1, 1, 3, 3});
  const auto before = model->forward(x);
  const auto names = model->named_parameters().keys();
  int made = 0;
  const auto failing = rule<torch::nn::Conv2dImpl>([&made] {
    TORCH_CHECK(++made < 3, "no third layer");
    return torch::nn::AnyModule(torch::nn::Tanh());
  });
  EXPECT_EQ(message_of([&] { Replacer({failing}).apply(*model); }).find("no third layer"), 0U);
  EXPECT_EQ(made, 3);
  EXPECT_EQ(model->named_parameters().keys(), names);
  EXPECT_TRUE(torch::equal(model->forward(x), before));
}

struct PaddedConv2dImpl : torch::nn::Conv2dImpl {
  using torch::nn::Conv2dImpl::Conv2dImpl;
  torch::Tensor forward(const torch::Tensor& x) {
    return Conv2dImpl::forward(torch::constant_pad_nd(x, {1, 1, 1, 1}));
  }
};
TORCH_MODULE(PaddedConv2d);

TEST(Replacer, WhatADerivedConvolutionDoesBesideStays) {
  torch::nn::Sequential net(PaddedConv2d(torch::nn::Conv2dOptions(4, 6, 3)));
  const auto report = bsconv::replace_with_bsconv_u(net);
  ASSERT_EQ(report.replaced(), 1U);
  EXPECT_EQ(report.rows[0].kind, bsconv::ReplacementKind::grafted);
  EXPECT_EQ(net->forward(torch::ones({1, 4, 8, 8})).sizes().vec(),
            (std::vector<int64_t>{1, 6, 8, 8}));
}

// A convolution with a normalization and a factor of its own.
struct ScaledConv2dImpl : torch::nn::Conv2dImpl {
  explicit ScaledConv2dImpl(const torch::nn::Conv2dOptions& options)
      : Conv2dImpl(options),
        norm(register_module("norm", torch::nn::BatchNorm2d(options.out_channels()))),
        gain(register_parameter("gain", torch::full({1}, 2.0))) {}
  torch::Tensor forward(const torch::Tensor& x) { return norm(Conv2dImpl::forward(x)) * gain; }
  torch::nn::BatchNorm2d norm;
  torch::Tensor gain;
};
TORCH_MODULE(ScaledConv2d);

TEST(Replacer, WhatADerivedConvolutionHasBesideStays) {
  torch::nn::Sequential net(ScaledConv2d(torch::nn::Conv2dOptions(4, 6, 3)));
  bsconv::replace_with_bsconv_u(net, bsconv::BSConvUReplacementOptions().with_bn(true));
  const auto names = [&] { return bsconv::weights::state_dict(*net).keys(); };
  EXPECT_THAT(names(), testing::IsSupersetOf({"0.gain", "0.norm.weight", "0.norm.running_mean",
                                              "0.pw.weight", "0.dw.weight"}));
  EXPECT_THAT(names(), testing::Not(testing::Contains("0.weight")));
  net->eval();
  EXPECT_FALSE(net[0]->as<ScaledConv2d>()->norm->is_training());
  const auto x = torch::randn({2, 4, 8, 8});
  const torch::NoGradGuard no_grad;
  const auto before = net->forward(x);
  EXPECT_EQ(bsconv::fuse(*net), 1U);
  EXPECT_THAT(names(), testing::IsSupersetOf({"0.gain", "0.norm.weight"}));
  EXPECT_TRUE(torch::allclose(net->forward(x), before, 1e-4, 1e-5));
}

// Containers that have registered more than they run in turn.
struct StemSequentialImpl : torch::nn::SequentialImpl {
  StemSequentialImpl() : SequentialImpl(torch::nn::Conv2d(6, 6, 3), torch::nn::ReLU()) {
    register_module("stem", stem);
    register_module("relu", relu);
  }
  torch::nn::Conv2d stem{torch::nn::Conv2dOptions(4, 6, 3)};
  torch::nn::ReLU relu;
};
struct StemListImpl : torch::nn::ModuleListImpl {
  StemListImpl() { register_module("relu", torch::nn::ReLU()); }
};
struct StemChainImpl : bsconv::Composite<StemChainImpl> {
  StemChainImpl() { add("conv", torch::nn::Conv2d(6, 6, 3)); }
  torch::nn::Conv2d stem = register_module("stem", torch::nn::Conv2d(4, 6, 3));
  torch::Tensor forward(const torch::Tensor& x) override { return call_all(stem(x)); }
};

TEST(Replacer, KnowsWhatAContainerHolds) {
  const auto to_tanh =
      rule<torch::nn::ReLUImpl>([] { return torch::nn::AnyModule(torch::nn::Tanh()); });
  StemSequentialImpl sequential;
  EXPECT_EQ(bsconv::replace_with_bsconv_u(sequential).replaced(), 2U);
  EXPECT_NE(bsconv::grafted_substitute(*sequential.stem), nullptr);
  const auto report = Replacer({to_tanh}).apply(sequential);
  EXPECT_EQ(report.replaced(), 1U);
  ASSERT_EQ(report.refused(), 1U);
  EXPECT_EQ(report.rows[1].path, "relu");
  EXPECT_EQ(sequential.forward(sequential.stem(torch::ones({1, 4, 8, 8}))).size(1), 6);
  StemListImpl list;
  EXPECT_EQ(Replacer({to_tanh}).apply(list).refused(), 1U);
  StemChainImpl chain;
  EXPECT_EQ(bsconv::replace_with_bsconv_u(chain).replaced(), 2U);
  EXPECT_EQ(chain.forward(torch::ones({1, 4, 8, 8})).size(1), 6);
}

TEST(Replacer, ADryRunCountsOnlyWhatItWouldReplace) {
  TypedRelu net;
  const auto everything =
      rule<torch::nn::Module>([] { return torch::nn::AnyModule(torch::nn::Conv2d(1, 1, 3)); });
  const auto dry = Replacer({everything}).apply(*net, true);
  EXPECT_EQ(dry.refused(), 1U);
  EXPECT_EQ(dry.parameters_after, dry.parameters_before);
}

TEST(Replacer, RefusesTypedMembersOfOtherTypes) {
  TypedRelu net;
  const auto report = Replacer({rule<torch::nn::ReLUImpl>([] {
                        return torch::nn::AnyModule(torch::nn::Tanh());
                      })}).apply(*net);
  ASSERT_EQ(report.refused(), 1U);
  EXPECT_EQ(report.replaced(), 0U);
  EXPECT_NE(report.rows[0].reason.find("only Conv2d can be replaced there"), std::string::npos);
  const auto text = report.to_string(1);
  EXPECT_NE(text.find("Not replaced: relu: torch::nn::ReLU()"), std::string::npos) << text;
  EXPECT_NE(text.find("(1 can't be replaced)"), std::string::npos) << text;
}

TEST(Replacer, ARuleMayKeepWhatItAcceptsAndCompleteItsRow) {
  const torch::nn::ReLU shared;
  torch::nn::Sequential net{shared, torch::nn::ReLU(), shared, torch::nn::Sigmoid()};
  auto to_tanh = rule<torch::nn::ReLUImpl>([] { return torch::nn::AnyModule(torch::nn::Tanh()); });
  to_tanh.keep = [](const torch::nn::Module&, const std::string& path) {
    return std::string(path == "1" ? "" : "it is shared");
  };
  to_tanh.annotate = [](bsconv::Replacement& row, const torch::nn::Module& module) {
    row.terms = dynamic_cast<const torch::nn::ReLUImpl&>(module).options.inplace() ? 0 : 7;
  };
  for (const bool dry_run : {true, false}) {
    const auto report = Replacer({to_tanh}).apply(*net, dry_run);
    ASSERT_EQ(report.rows.size(), 2U);
    EXPECT_EQ(report.rows[0].path, "0");
    EXPECT_EQ(report.rows[0].kind, bsconv::ReplacementKind::kept);
    EXPECT_EQ(report.rows[0].reason, "it is shared");
    EXPECT_EQ(report.rows[1].kind, bsconv::ReplacementKind::exchanged);
    EXPECT_EQ(report.rows[1].terms, 7);
    EXPECT_EQ(report.replaced(), 1U);
    EXPECT_EQ(report.kept(), 1U);
    EXPECT_THAT(report.to_string(1),
                testing::HasSubstr(dry_run ? "Would keep 0: torch::nn::ReLU(): it is shared\n"
                                           : "Kept 0: torch::nn::ReLU(): it is shared\n"));
  }
  const auto x = torch::randn({3, 4});
  EXPECT_TRUE(torch::equal(net->forward(x), x.relu().tanh().relu().sigmoid()));
}

TEST(Replacer, FirstRuleWinsAndTheReplacementIsNotSearched) {
  int made = 0;
  const auto first = rule<torch::nn::Conv2dImpl>([&made] {
    ++made;
    return torch::nn::AnyModule(torch::nn::Conv2d(1, 1, 1));
  });
  const auto second = rule<torch::nn::Module>(
      []() -> torch::nn::AnyModule { throw std::logic_error("the second rule ran"); });
  torch::nn::Sequential net(torch::nn::Conv2d(1, 1, 3));
  auto only_convs = second;
  only_convs.filter = [](const torch::nn::Module& module, const std::string&) {
    return dynamic_cast<const torch::nn::Conv2dImpl*>(&module) != nullptr;
  };
  const auto report = Replacer({first}).add_rule(only_convs).apply(*net);
  EXPECT_EQ(report.replaced(), 1U);
  EXPECT_EQ(made, 1);
}

TEST(Replacer, TriesTheRootFirst) {
  torch::nn::Sequential net{torch::nn::ReLU()};
  const auto report = Replacer({rule<torch::nn::Module>([] {
                        return torch::nn::AnyModule(torch::nn::Tanh());
                      })}).apply(*net);
  ASSERT_EQ(report.rows.size(), 1U);
  EXPECT_EQ(report.rows[0].path, "");
  EXPECT_NE(report.rows[0].reason.find("can't be exchanged in place"), std::string::npos);
}

TEST(Replacer, ASubstituteWithParametersOfItsOwnBecomesAChild) {
  TypedRelu net;
  Replacer({rule<torch::nn::Conv2dImpl>([] {
    return torch::nn::AnyModule(torch::nn::Conv2d(1, 2, 1));
  })}).apply(*net);
  EXPECT_EQ(net->named_parameters().keys(),
            (std::vector<std::string>{"conv.replacement.weight", "conv.replacement.bias"}));
  EXPECT_EQ(net->forward(torch::ones({1, 1, 3, 3})).size(1), 2);
}

TEST(Replacer, KeepsDtypeAndMode) {
  torch::nn::Sequential net(torch::nn::Conv2d(2, 2, 3));
  net->to(torch::kDouble);
  net->eval();
  bsconv::replace_with_bsconv_u(net);
  EXPECT_FALSE(net->ptr(0)->is_training());
  EXPECT_EQ(net->parameters()[0].scalar_type(), torch::kDouble);
}

TEST(Replacer, RefusesIncompleteRules) {
  EXPECT_NE(message_of([] {
              Replacer({ReplacementRule{}});
            }).find("needs both a filter and a transformer"),
            std::string::npos);
  torch::nn::Sequential net{torch::nn::ReLU()};
  EXPECT_NE(
      message_of([&] {
        Replacer({rule<torch::nn::ReLUImpl>([] { return torch::nn::AnyModule(); })}).apply(*net);
      }).find("the transformer returned no module for '0'"),
      std::string::npos);
}

TEST(ReplacementReport, PrintsAsMuchAsAsked) {
  torch::nn::Sequential net(torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 8, 3).bias(false)));
  const auto report =
      bsconv::replace_with_bsconv_u(net, bsconv::BSConvUReplacementOptions().with_bn(false));
  EXPECT_EQ(report.to_string(0), "");
  EXPECT_EQ(report.to_string(1), "Replaced 1 module; parameters: 288 -> 104, 36.1 %\n");
  EXPECT_EQ(report.to_string(2),
            "Replaced 0: torch::nn::Conv2d(4, 8, kernel_size=[3, 3], stride=[1, 1], bias=false) -> "
            "bsconv::BSConvU(4, 8, kernel_size=[3, 3], stride=[1, 1], padding=[0, 0], bias=false) "
            "(288 -> 104, 36.1 %)\nReplaced 1 module; parameters: 288 -> 104, 36.1 %\n");
  std::ostringstream stream;
  stream << report;
  EXPECT_EQ(stream.str(), report.to_string(2));
}

}  // namespace
}  // namespace replace_replacer_test
