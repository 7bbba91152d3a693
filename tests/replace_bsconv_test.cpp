// SPDX-License-Identifier: BSD-3-Clause-Clear
// Replacement in every kind of holder, checked by value, parameters, training and serialization.
#include <bsconv/nn.hpp>
#include <bsconv/replace.hpp>
#include <bsconv/util/autocast_scope.hpp>

#include "support/golden.hpp"

namespace replace_bsconv_test {
namespace {

namespace F = torch::nn::functional;
using bsconv_test::message_of;

torch::nn::Conv2dOptions same(int64_t in, int64_t out, int64_t kernel = 3) {
  return torch::nn::Conv2dOptions(in, out, kernel).padding(kernel / 2);
}

/// A network as users write them: every kind of holder, none of which knows this library.
struct ForeignImpl : torch::nn::Module {
  torch::nn::Conv2d typed{nullptr};
  torch::nn::Conv2d reflected{nullptr};
  std::shared_ptr<torch::nn::Conv2dImpl> pointer;
  torch::nn::AnyModule any;
  torch::nn::Sequential inner{nullptr};
  torch::nn::Sequential sequential{nullptr};
  torch::nn::ModuleList list{nullptr};
  torch::nn::ModuleDict dict{nullptr};
  torch::nn::BatchNorm2d bn{nullptr};
  torch::nn::Linear fc{nullptr};

  ForeignImpl() {
    typed = register_module("typed", torch::nn::Conv2d(same(3, 8)));
    reflected = register_module(
        "reflected", torch::nn::Conv2d(same(8, 8, 5).stride(2).padding_mode(torch::kReflect)));
    pointer = register_module(
        "pointer", std::make_shared<torch::nn::Conv2dImpl>(
                       torch::nn::Conv2dOptions(8, 8, 3).padding(torch::kSame).bias(false)));
    any = torch::nn::AnyModule(torch::nn::Conv2d(same(8, 12).padding_mode(torch::kCircular)));
    register_module("any", any.ptr());
    sequential = register_module(
        "sequential", torch::nn::Sequential(torch::nn::Conv2d(same(12, 12)), torch::nn::ReLU(),
                                            torch::nn::Conv2d(same(12, 8).dilation(2).padding(2))));
    list = register_module("list", torch::nn::ModuleList(torch::nn::Conv2d(same(8, 8))));
    dict = register_module("dict", torch::nn::ModuleDict());
    dict->update({{"conv", torch::nn::Conv2d(same(8, 16)).ptr()}});
    bn = register_module("bn", torch::nn::BatchNorm2d(16));
    fc = register_module("fc", torch::nn::Linear(16, 4));
  }

  torch::Tensor forward(torch::Tensor x) {
    x = torch::relu(typed(x));
    x = reflected->forward(x);
    x = pointer->forward(x);
    x = any.forward(x);
    x = sequential->forward(x);
    x = list[0]->as<torch::nn::Conv2d>()->forward(x);
    x = dict["conv"]->as<torch::nn::Conv2d>()->forward(x);
    return fc(torch::relu(bn(x)).mean({2, 3}));
  }
};
TORCH_MODULE(Foreign);

const std::vector<std::string> replaced_paths = {
    "typed", "reflected", "pointer", "any", "sequential.0", "sequential.2", "list.0", "dict.conv"};

/// One blueprint separable convolution computed from its parameters alone.
torch::Tensor reference_layer(const torch::OrderedDict<std::string, torch::Tensor>& parameters,
                              const std::string& path, torch::Tensor x, int64_t pad,
                              int64_t stride = 1, int64_t dilation = 1,
                              const std::string& mode = "zeros") {
  if (parameters.contains(path + ".pw.weight")) {
    x = torch::conv2d(x, parameters[path + ".pw.weight"]);
  } else {
    x = torch::conv2d(x, parameters[path + ".pw1.weight"]);
    x = torch::conv2d(x, parameters[path + ".pw2.weight"]);
  }
  F::PadFuncOptions padding({pad, pad, pad, pad});
  if (mode == "reflect") {
    padding.mode(torch::kReflect);
  } else if (mode == "circular") {
    padding.mode(torch::kCircular);
  }
  const auto weight = parameters[path + ".dw.weight"];
  const auto* bias = parameters.find(path + ".dw.bias");
  return F::conv2d(F::pad(x, padding), weight,
                   F::Conv2dFuncOptions()
                       .bias(bias == nullptr ? torch::Tensor() : *bias)
                       .stride(stride)
                       .dilation(dilation)
                       .groups(weight.size(0)));
}

torch::Tensor reference_forward(Foreign& net, torch::Tensor x) {
  const auto p = net->named_parameters();
  x = torch::relu(reference_layer(p, "typed", x, 1));
  x = reference_layer(p, "reflected", x, 2, 2, 1, "reflect");
  x = reference_layer(p, "pointer", x, 1);
  x = reference_layer(p, "any", x, 1, 1, 1, "circular");
  x = torch::relu(reference_layer(p, "sequential.0", x, 1));
  x = reference_layer(p, "sequential.2", x, 2, 1, 2);
  x = reference_layer(p, "list.0", x, 1);
  x = reference_layer(p, "dict.conv", x, 1);
  return net->fc(torch::relu(net->bn(x)).mean({2, 3}));
}

enum class Variant { u, s };

bsconv::ReplacementReport replace(torch::nn::Module& model, Variant variant, bool dry_run = false) {
  return variant == Variant::u
             ? bsconv::replace_with_bsconv_u(model,
                                             bsconv::BSConvUReplacementOptions().dry_run(dry_run))
             : bsconv::replace_with_bsconv_s(
                   model, bsconv::BSConvSReplacementOptions().p(0.5).dry_run(dry_run));
}

class ReplaceForeign : public testing::TestWithParam<std::tuple<Variant, torch::DeviceType>> {
 protected:
  void SetUp() override {
    if (device() == torch::kCUDA && !torch::cuda::is_available()) {
      GTEST_SKIP() << "there is no CUDA device";
    }
    torch::manual_seed(11);
    net = Foreign();
    net->to(device());
    input = torch::randn({2, 3, 14, 18}).to(device());
  }
  Variant variant() const { return std::get<0>(GetParam()); }
  torch::Device device() const { return torch::Device(std::get<1>(GetParam())); }

  Foreign net{nullptr};
  torch::Tensor input;
};

TEST_P(ReplaceForeign, ReportsEveryLayer) {
  const int64_t before = bsconv::parameter_count(*net);
  const auto report = replace(*net, variant());
  ASSERT_EQ(report.rows.size(), replaced_paths.size());
  for (std::size_t i = 0; i < report.rows.size(); ++i) {
    const auto& row = report.rows[i];
    EXPECT_EQ(row.path, replaced_paths[i]);
    EXPECT_EQ(row.kind, row.path.rfind("sequential", 0) == 0 ? bsconv::ReplacementKind::exchanged
                                                             : bsconv::ReplacementKind::grafted);
    EXPECT_EQ(row.old_type.rfind("torch::nn::Conv2d(", 0), 0U);
    EXPECT_EQ(
        row.new_type.rfind(variant() == Variant::u ? "bsconv::BSConvU(" : "bsconv::BSConvS(", 0),
        0U);
    EXPECT_LT(row.parameters_after, row.parameters_before);
  }
  EXPECT_EQ(report.parameters_before, before);
  EXPECT_EQ(report.parameters_after, bsconv::parameter_count(*net));
  EXPECT_EQ(bsconv::has_regularization(*net), variant() == Variant::s);
}

TEST_P(ReplaceForeign, ComputesWhatTheParametersSay) {
  const auto before = net->forward(input);
  replace(*net, variant());
  const auto output = net->forward(input);
  EXPECT_FALSE(torch::allclose(output, before));
  EXPECT_TRUE(torch::allclose(output, reference_forward(net, input), 1e-4, 1e-5));
}

TEST_P(ReplaceForeign, ParametersAreTheSubstitutesAlone) {
  replace(*net, variant());
  std::vector<std::string> expected;
  for (const auto& path : replaced_paths) {
    if (variant() == Variant::u) {
      expected.push_back(path + ".pw.weight");
    } else {
      expected.push_back(path + ".pw1.weight");
      expected.push_back(path + ".pw2.weight");
    }
    expected.push_back(path + ".dw.weight");
    if (path != "pointer") {
      expected.push_back(path + ".dw.bias");
    }
  }
  for (const char* name : {"bn.weight", "bn.bias", "fc.weight", "fc.bias"}) {
    expected.emplace_back(name);
  }
  EXPECT_EQ(net->named_parameters().keys(), expected);
  for (const auto& parameter : net->parameters()) {
    EXPECT_EQ(parameter.device().type(), device().type());
  }
}

TEST_P(ReplaceForeign, OneStepTrainsEveryParameter) {
  replace(*net, variant());
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1));
  std::vector<torch::Tensor> before;
  for (const auto& parameter : net->parameters()) {
    before.push_back(parameter.detach().clone());
  }
  optimizer.zero_grad();
  auto loss = net->forward(input).square().sum() + bsconv::regularization_loss(*net);
  loss.backward();
  optimizer.step();
  const auto names = net->named_parameters();
  for (std::size_t i = 0; i < before.size(); ++i) {
    ASSERT_TRUE(names[i].value().grad().defined()) << names[i].key();
    // A bias ahead of a batch normalization has no effect in training.
    if (names[i].key() != "dict.conv.dw.bias") {
      EXPECT_FALSE(torch::equal(names[i].value(), before[i])) << names[i].key();
    }
  }
}

TEST_P(ReplaceForeign, SavesAndLoads) {
  replace(*net, variant());
  net->eval();
  std::stringstream stream;
  torch::save(net, stream);
  Foreign other;
  other->to(device());
  replace(*other, variant());
  other->eval();
  EXPECT_FALSE(torch::allclose(net->forward(input), other->forward(input)));
  torch::load(other, stream);
  EXPECT_TRUE(torch::equal(net->forward(input), other->forward(input)));
}

TEST_P(ReplaceForeign, FollowsDtypeAndMode) {
  replace(*net, variant());
  const auto output = net->forward(input);
  net->eval();
  for (const auto& module : net->modules()) {
    EXPECT_FALSE(module->is_training());
  }
  net->train();
  net->to(torch::kDouble);
  const auto precise = net->forward(input.to(torch::kDouble));
  EXPECT_EQ(precise.scalar_type(), torch::kDouble);
  EXPECT_EQ(net->typed->weight.scalar_type(), torch::kDouble);
  EXPECT_EQ(net->typed->weight.device().type(), device().type());
  EXPECT_TRUE(torch::allclose(output, precise.to(torch::kFloat), 1e-3, 1e-4));
}

TEST_P(ReplaceForeign, RunsUnderAutocast) {
  replace(*net, variant());
  for (const bool training : {true, false}) {
    net->train(training);
    const auto output = net->typed->forward(input);
    torch::Tensor rounded;
    {
      const bsconv::detail::AutocastScope autocast(device().type(), torch::kBFloat16);
      rounded = net->typed->forward(input);
    }
    // The fused kernels for training on the CPU are single precision all the same.
    EXPECT_EQ(rounded.scalar_type(),
              training && device().is_cpu() ? torch::kFloat : torch::kBFloat16);
    EXPECT_TRUE(torch::allclose(rounded.to(torch::kFloat), output, 5e-2, 5e-2));
  }
}

TEST_P(ReplaceForeign, DryRunChangesNothing) {
  const auto names = net->named_parameters().keys();
  const auto output = net->forward(input);
  const auto next = [] {
    const bsconv::RngGuard guard;
    return torch::randn({4});
  };
  const auto expected_noise = next();
  const auto dry = replace(*net, variant(), true);
  EXPECT_TRUE(torch::equal(next(), expected_noise));
  EXPECT_EQ(net->named_parameters().keys(), names);
  EXPECT_TRUE(torch::equal(net->forward(input), output));
  const auto real = replace(*net, variant());
  ASSERT_EQ(dry.rows.size(), real.rows.size());
  EXPECT_EQ(dry.parameters_after, real.parameters_after);
  EXPECT_NE(dry.to_string(2).find("Would replace typed: "), std::string::npos);
}

TEST_P(ReplaceForeign, ASecondReplacementFindsNothing) {
  replace(*net, variant());
  EXPECT_TRUE(replace(*net, Variant::u).rows.empty());
  EXPECT_TRUE(replace(*net, Variant::s).rows.empty());
}

INSTANTIATE_TEST_SUITE_P(All, ReplaceForeign,
                         testing::Combine(testing::Values(Variant::u, Variant::s),
                                          testing::Values(torch::kCPU, torch::kCUDA)));

TEST(ReplaceFilters, ChooseTheLayers) {
  using Options = bsconv::BSConvUReplacementOptions;
  const auto paths = [](const Options& options) {
    Foreign net;
    std::vector<std::string> found;
    for (const auto& row : bsconv::replace_with_bsconv_u(*net, options).rows) {
      found.push_back(row.path);
    }
    return found;
  };
  EXPECT_EQ(paths(Options().kernel_sizes({{5, 5}})), std::vector<std::string>{"reflected"});
  EXPECT_EQ(paths(Options().kernel_sizes({})), replaced_paths);
  EXPECT_EQ(paths(Options().include({"sequential.*", "typed"})),
            (std::vector<std::string>{"typed", "sequential.0", "sequential.2"}));
  EXPECT_EQ(paths(Options().include({"sequential.*"}).exclude({"*.0"})),
            std::vector<std::string>{"sequential.2"});
  EXPECT_EQ(paths(Options().min_channels(12)), std::vector<std::string>{"sequential.0"});
  EXPECT_TRUE(paths(Options().groups({8})).empty());
}

TEST(ReplaceFilters, GroupedConvolutionsWhenAsked) {
  torch::nn::Sequential net(torch::nn::Conv2d(same(8, 8).groups(4)));
  EXPECT_TRUE(bsconv::replace_with_bsconv_u(net).rows.empty());
  const auto report =
      bsconv::replace_with_bsconv_u(net, bsconv::BSConvUReplacementOptions().groups({4}));
  EXPECT_EQ(report.replaced(), 1U);
  EXPECT_EQ(net->forward(torch::ones({1, 8, 5, 5})).sizes().vec(),
            (std::vector<int64_t>{1, 8, 5, 5}));
}

TEST(ReplaceRoot, AConvolutionItself) {
  torch::nn::Conv2d conv(same(3, 8));
  const auto report = bsconv::replace_with_bsconv_u(conv);
  ASSERT_EQ(report.rows.size(), 1U);
  EXPECT_EQ(report.rows[0].path, "");
  EXPECT_EQ(conv->named_parameters().keys(),
            (std::vector<std::string>{"pw.weight", "dw.weight", "dw.bias"}));
  EXPECT_EQ(conv->forward(torch::ones({1, 3, 5, 5})).size(1), 8);
}

TEST(ReplaceShared, OneLayerAtTwoPlacesStaysOne) {
  torch::nn::Conv2d conv(same(4, 4));
  torch::nn::Sequential net(conv, torch::nn::ReLU(), conv);
  const auto report = bsconv::replace_with_bsconv_u(net);
  EXPECT_EQ(report.replaced(), 1U);
  EXPECT_EQ(net->ptr(0), net->ptr(2));
  EXPECT_NE(dynamic_cast<bsconv::BSConvUImpl*>(net->ptr(2).get()), nullptr);
}

TEST(ReplaceErrors, SayWhatIsWrong) {
  using U = bsconv::BSConvUReplacementOptions;
  using S = bsconv::BSConvSReplacementOptions;
  Foreign net;
  EXPECT_NE(message_of([&] {
              bsconv::replace_with_bsconv_u(net, U().min_channels(0));
            }).find("min_channels must be at least 1, got 0"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              bsconv::replace_with_bsconv_u(net, U().kernel_sizes({{3, 0}}));
            }).find("kernel_sizes must be at least 1, got 3x0"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              bsconv::replace_with_bsconv_u(net, U().groups({0}));
            }).find("groups must be at least 1, got 0"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              bsconv::replace_with_bsconv_s(net, S().p(1.5));
            }).find("p must lie between 0 and 1, got 1.5"),
            std::string::npos);
  EXPECT_EQ(net->named_parameters().keys()[0], "typed.weight");
}

TEST(ReplaceErrors, AGraftedWeightIsNoTensor) {
  torch::nn::Conv2d conv(same(3, 8));
  bsconv::replace_with_bsconv_u(conv);
  const auto message = message_of([&] { conv->weight.sum(); });
  EXPECT_NE(message.find("only conv2d may use it"), std::string::npos) << message;
  EXPECT_NE(message.find("BSConvU"), std::string::npos) << message;
  EXPECT_NE(message_of([&] { conv->clone(); }).find("does not have the same number of parameters"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              bsconv::graft(*conv, torch::nn::AnyModule(bsconv::BSConvU(3, 8, 3)));
            }).find("has been replaced already"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              torch::conv2d(torch::ones({1, 8, 5, 5}), torch::ones({8, 8, 1, 1}), conv->weight);
            }).find("was used as an input or a bias"),
            std::string::npos);
}

}  // namespace
}  // namespace replace_bsconv_test
