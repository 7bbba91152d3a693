// SPDX-License-Identifier: BSD-3-Clause-Clear
// Weight-preserving replacement and the analysis of kernels, against LibTorch's own SVD.
#include <gmock/gmock.h>
#include <bsconv/bsconv.hpp>

#include <sstream>
#include <string>
#include <vector>

#include "support/golden.hpp"

namespace replace_components_test {
namespace {

using bsconv::Initialization;
using testing::ElementsAre;
using testing::HasSubstr;

torch::Tensor rebuilt(const bsconv::KernelComponents& components) {
  return (components.pointwise.unsqueeze(-1).unsqueeze(-1) * components.depthwise.unsqueeze(2))
      .sum(1);
}

TEST(KernelComponents, EqualTheFirstSingularVectors) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    torch::manual_seed(seed);
    const int64_t out = 1 + torch::randint(12, {1}).item<int64_t>();
    const int64_t in = 1 + torch::randint(12, {1}).item<int64_t>();
    const auto weight = torch::randn({out, in, 3, 5}, torch::kDouble);
    const auto components = bsconv::kernel_components(weight);
    const auto [u, s, vh] = torch::linalg_svd(weight.flatten(2), /*full_matrices=*/false);
    const auto expected = (u.select(2, 0).unsqueeze(-1) * s.select(1, 0).view({-1, 1, 1}) *
                           vh.select(1, 0).unsqueeze(1))
                              .view_as(weight);
    EXPECT_TRUE(torch::allclose(rebuilt(components), expected, 1e-8, 1e-10)) << seed;
    const auto share = s.select(1, 0).square() / s.square().sum(1);
    EXPECT_TRUE(torch::allclose(components.explained.squeeze(1), share, 1e-8, 1e-10)) << seed;
    // The root of the singular value stands on each side.
    EXPECT_TRUE(
        torch::allclose(components.pointwise.flatten(1).norm(2, 1), s.select(1, 0).sqrt(), 1e-8));
    EXPECT_TRUE(
        torch::allclose(components.depthwise.flatten(1).norm(2, 1), s.select(1, 0).sqrt(), 1e-8));
  }
}

TEST(KernelComponents, AreExactForBlueprintsAndZeros) {
  torch::manual_seed(1);
  const auto weight = torch::randn({4, 3, 1, 1}) * torch::randn({4, 1, 3, 3});
  const auto components = bsconv::kernel_components(weight);
  EXPECT_TRUE(torch::allclose(rebuilt(components).to(torch::kFloat), weight, 1e-5, 1e-6));
  EXPECT_NEAR(components.explained_variance(), 1.0, 1e-6);
  const auto none = bsconv::kernel_components(torch::zeros({2, 3, 3, 3}));
  EXPECT_TRUE(torch::equal(rebuilt(none), torch::zeros({2, 3, 3, 3}, torch::kDouble)));
  EXPECT_EQ(none.explained_variance(), 1.0);
}

TEST(KernelComponents, RefuseOtherShapesAndNaN) {
  EXPECT_THROW(bsconv::kernel_components(torch::zeros({3, 3})), c10::ValueError);
  EXPECT_THROW(bsconv::kernel_components(torch::full({1, 1, 3, 3}, std::nanf(""))),
               c10::ValueError);
}

torch::nn::Conv2d blueprint_convolution(int64_t in, int64_t out, int64_t rank) {
  torch::nn::Conv2d conv(torch::nn::Conv2dOptions(in, out, 3).padding(1).stride(2));
  const torch::NoGradGuard no_grad;
  const auto pointwise = torch::randn({out, rank}).matmul(torch::randn({rank, in}));
  conv->weight.copy_(pointwise.view({out, in, 1, 1}) * torch::randn({out, 1, 3, 3}));
  return conv;
}

TEST(ReplaceSvd, KeepsWhatBlueprintsCanExpress) {
  torch::manual_seed(2);
  torch::nn::Sequential net(blueprint_convolution(6, 10, 6));
  const auto x = torch::randn({2, 6, 9, 9});
  const auto expected = net->forward(x);
  const auto report = bsconv::replace_with_bsconv_u(
      net, bsconv::BSConvUReplacementOptions().initialization(Initialization::svd));
  EXPECT_TRUE(torch::allclose(net->forward(x), expected, 1e-4, 1e-5));
  ASSERT_TRUE(report.rows.at(0).explained_variance.has_value());
  EXPECT_NEAR(*report.rows.at(0).explained_variance, 1.0, 1e-5);
  EXPECT_THAT(report.to_string(2), HasSubstr("explains 100.0 %"));
}

TEST(ReplaceSvd, SubspaceStartsWithoutRegularizationLoss) {
  torch::manual_seed(3);
  torch::nn::Sequential net(blueprint_convolution(16, 10, 4), torch::nn::Conv2d(10, 12, 3));
  const auto x = torch::randn({2, 16, 9, 9});
  const auto expected = net[0]->as<torch::nn::Conv2d>()->forward(x);
  const auto report = bsconv::replace_with_bsconv_s(
      net, bsconv::BSConvSReplacementOptions().p(0.25).initialization(Initialization::svd));
  EXPECT_TRUE(torch::allclose(net[0]->as<bsconv::BSConvS>()->forward(x), expected, 1e-4, 1e-4));
  EXPECT_LT(bsconv::regularization_loss(*net).item<double>(), 1e-5);
  EXPECT_NEAR(*report.rows.at(0).explained_variance, 1.0, 1e-5);
  EXPECT_LT(*report.rows.at(1).explained_variance, 0.9);
}

// The share that is reported is the one that the new weights have.
TEST(ReplaceSvd, ReportsTheShareOfTheSubspace) {
  torch::manual_seed(4);
  torch::nn::Conv2d conv(torch::nn::Conv2dOptions(12, 8, 3));
  bsconv::BSConvS layer(bsconv::BSConvSOptions(12, 8, 3).p(0.5));
  const double share = bsconv::initialize_from(*layer, *conv);
  const torch::NoGradGuard no_grad;
  const auto pointwise = layer->pw2->weight.flatten(1).matmul(layer->pw1->weight.flatten(1));
  const auto made = pointwise.view({8, 12, 1, 1}) * layer->dw->weight;
  const double lost = (made - conv->weight).square().sum().item<double>();
  EXPECT_NEAR(1.0 - lost / conv->weight.square().sum().item<double>(), share, 1e-5);
  EXPECT_TRUE(torch::equal(layer->dw->bias, conv->bias));
}

TEST(ReplaceSvd, ABiasIsTakenOverOrZero) {
  const torch::nn::Conv2d without(torch::nn::Conv2dOptions(12, 8, 3).bias(false));
  bsconv::BSConvU layer(12, 8, 3);
  bsconv::initialize_from(*layer, *without);
  EXPECT_EQ(layer->dw->bias.abs().max().item<float>(), 0);
  const torch::nn::Conv2d with(torch::nn::Conv2dOptions(12, 8, 3));
  bsconv::BSConvU none(bsconv::BSConvUOptions(12, 8, 3).bias(false));
  const auto before = none->pw->weight.detach().clone();
  EXPECT_THAT(bsconv_test::message_of([&] { bsconv::initialize_from(*none, *with); }),
              HasSubstr("the convolution has a bias, the layer has none"));
  EXPECT_TRUE(torch::equal(none->pw->weight, before));
}

TEST(ReplaceSvd, LeavesAloneWhatItWouldLose) {
  torch::manual_seed(5);
  torch::nn::Sequential net(blueprint_convolution(6, 10, 6),
                            torch::nn::Conv2d(torch::nn::Conv2dOptions(10, 8, 3)));
  const auto options = bsconv::BSConvUReplacementOptions()
                           .initialization(Initialization::svd)
                           .min_explained_variance(0.9);
  const auto plan =
      bsconv::replace_with_bsconv_u(net, bsconv::BSConvUReplacementOptions(options).dry_run(true));
  const auto report = bsconv::replace_with_bsconv_u(net, options);
  EXPECT_EQ(report.replaced(), 1U);
  EXPECT_EQ(report.kept(), 1U);
  EXPECT_EQ(report.refused(), 0U);
  EXPECT_EQ(plan.replaced(), 1U);
  EXPECT_EQ(plan.kept(), 1U);
  EXPECT_THAT(plan.to_string(1), HasSubstr("Would keep 1: torch::nn::Conv2d(10, 8"));
  EXPECT_THAT(report.to_string(1), HasSubstr("Kept 1: torch::nn::Conv2d(10, 8"));
  EXPECT_THAT(report.to_string(1), HasSubstr("Replaced 1 module (1 kept); parameters: "));
  EXPECT_THAT(report.to_string(1), HasSubstr("% of its weights' squared norm, less than 90.0 %"));
  EXPECT_NE(net[1]->as<torch::nn::Conv2d>(), nullptr);
  EXPECT_THROW(bsconv::replace_with_bsconv_u(
                   net, bsconv::BSConvUReplacementOptions().min_explained_variance(1.5)),
               c10::ValueError);
}

TEST(ReplaceSvd, ListsWhatItLeavesAloneInTreeOrder) {
  torch::manual_seed(7);
  const torch::nn::Conv2d kept(torch::nn::Conv2dOptions(10, 10, 3));
  torch::nn::Sequential net(blueprint_convolution(6, 10, 6), kept,
                            blueprint_convolution(10, 10, 10), kept,
                            blueprint_convolution(10, 8, 10));
  const auto report = bsconv::replace_with_bsconv_u(net, bsconv::BSConvUReplacementOptions()
                                                             .initialization(Initialization::svd)
                                                             .min_explained_variance(0.9));
  std::vector<std::string> paths;
  std::vector<bsconv::ReplacementKind> kinds;
  for (const auto& row : report.rows) {
    paths.push_back(row.path);
    kinds.push_back(row.kind);
  }
  using Kind = bsconv::ReplacementKind;
  EXPECT_THAT(paths, ElementsAre("0", "1", "2", "4"));
  EXPECT_THAT(kinds, ElementsAre(Kind::exchanged, Kind::kept, Kind::exchanged, Kind::exchanged));
  const auto& row = report.rows[1];
  EXPECT_LT(row.explained_variance.value(), 0.9);
  EXPECT_EQ(row.parameters_after, row.parameters_before);
  EXPECT_THAT(row.new_type, HasSubstr("bsconv::BSConvU(10, 10"));
  EXPECT_EQ(report.layer_terms().count("1"), 0U);
  EXPECT_EQ(report.parameters_after, bsconv::parameter_count(*net));
}

TEST(ReplaceSvd, AFrozenConvolutionStaysFrozen) {
  for (const auto initialization :
       {Initialization::random, Initialization::svd, Initialization::data}) {
    torch::nn::Conv2d frozen(torch::nn::Conv2dOptions(4, 6, 3));
    torch::nn::Sequential net(frozen, torch::nn::Conv2d(torch::nn::Conv2dOptions(6, 5, 3)));
    for (const auto& parameter : frozen->parameters()) {
      parameter.set_requires_grad(false);
    }
    bsconv::replace_with_bsconv_u(
        net, bsconv::BSConvUReplacementOptions()
                 .with_bn(true)
                 .initialization(initialization)
                 .calibration(bsconv::Calibration(net, {torch::randn({4, 4, 9, 9})})));
    for (const auto& item : net->named_parameters()) {
      const bool is_frozen = item.key()[0] == '0' && initialization != Initialization::random;
      EXPECT_EQ(item.value().requires_grad(), !is_frozen) << item.key();
    }
  }
}

TEST(KernelAnalysis, QuotesPathsInCsv) {
  bsconv::Chain chain;
  chain->push_back("a,b", torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 1, 3)));
  EXPECT_THAT(bsconv::analyze_kernels(chain).to_csv(), HasSubstr("\n\"a,b\",0,"));
}

TEST(KernelAnalysis, ListsTheConvolutionsThatCouldBeReplaced) {
  torch::manual_seed(6);
  torch::nn::Sequential net(blueprint_convolution(6, 10, 6), torch::nn::Conv2d(10, 8, 1),
                            torch::nn::Conv2d(torch::nn::Conv2dOptions(8, 8, 5)),
                            torch::nn::Conv2d(torch::nn::Conv2dOptions(8, 8, 3).groups(8)));
  const auto analysis = bsconv::analyze_kernels(net);
  ASSERT_EQ(analysis.layers.size(), 2U);
  EXPECT_EQ(analysis.layers[0].path, "0");
  EXPECT_NEAR(analysis.layers[0].least(), 1.0, 1e-5);
  EXPECT_LT(analysis.layers[1].median(), 0.9);
  EXPECT_THAT(analysis.to_table(), HasSubstr("8x8x5x5"));
  EXPECT_THAT(analysis.to_table(), HasSubstr("100.0 %"));
  std::istringstream lines(analysis.to_csv());
  std::string line;
  int count = 0;
  while (std::getline(lines, line)) {
    ++count;
  }
  EXPECT_EQ(count, 1 + 10 + 8);
  const auto svg = analysis.to_svg();
  EXPECT_THAT(svg, HasSubstr("<svg xmlns"));
  EXPECT_THAT(svg, HasSubstr(">all layers</text>"));
  EXPECT_THAT(svg, HasSubstr(">2</text>"));
  // The first layer's ten filters are blueprints.
  EXPECT_THAT(svg, HasSubstr("<title>95 to 100: 10</title>"));
}

}  // namespace
}  // namespace replace_components_test
