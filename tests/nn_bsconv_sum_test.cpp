// SPDX-License-Identifier: BSD-3-Clause-Clear
// Sums of BSConv layers: values, names, clones, fusing, the profiler and the inference plan.
#include <gmock/gmock.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/infer.hpp>

#include "support/layers.hpp"

namespace nn_bsconv_sum_test {
namespace {

using bsconv::BSConvSOptions;
using bsconv::BSConvSum;
using bsconv::BSConvUOptions;
using testing::ElementsAre;

TEST(BSConvSum, AddsItsTerms) {
  torch::manual_seed(1);
  BSConvSum sum(BSConvUOptions(5, 7, {3, 5}).stride(2).padding({1, 2}), 3);
  EXPECT_THAT(bsconv_test::parameter_names(*sum),
              ElementsAre("term1.pw.weight", "term1.dw.weight", "term1.dw.bias", "term2.pw.weight",
                          "term2.dw.weight", "term3.pw.weight", "term3.dw.weight"));
  const auto x = torch::randn({2, 5, 11, 12});
  // The definition: a plain convolution whose kernel is the sum of products.
  const auto p = sum->named_parameters();
  auto kernel = torch::zeros({7, 5, 3, 5});
  for (const std::string term : {"term1", "term2", "term3"}) {
    kernel = kernel + p[term + ".pw.weight"] * p[term + ".dw.weight"];
  }
  const auto expected = torch::conv2d(x, kernel, p["term1.dw.bias"], 2, torch::IntArrayRef({1, 2}));
  EXPECT_TRUE(torch::allclose(sum->forward(x), expected, 1e-4, 1e-5));
  EXPECT_EQ(sum->terms(), 3);
}

TEST(BSConvSum, TakesSubspaceTermsWithTheirLoss) {
  torch::manual_seed(2);
  BSConvSum sum(BSConvSOptions(16, 8, 3).padding(1).with_bn(true), 2);
  const auto first = std::dynamic_pointer_cast<bsconv::BSConvSImpl>(sum->term(0));
  const auto second = std::dynamic_pointer_cast<bsconv::BSConvSImpl>(sum->term(1));
  const auto x = torch::randn({2, 16, 6, 6});
  sum->eval();
  EXPECT_TRUE(torch::equal(sum->forward(x), first->forward(x) + second->forward(x)));
  const auto loss = first->regularization_loss() + second->regularization_loss();
  EXPECT_TRUE(torch::allclose(bsconv::regularization_loss(*sum, 1.0), loss));
  bsconv_test::expect_step_changes_all(*sum, sum->forward(x).square().sum() + loss);
}

TEST(BSConvSum, ClonesSavesAndPrints) {
  torch::manual_seed(3);
  const BSConvUOptions options = BSConvUOptions(4, 6, 3).with_bn(true);
  BSConvSum sum(options, 2);
  BSConvSum other(options, 2);
  const auto x = torch::randn({1, 4, 5, 5});
  const auto run = [&](BSConvSum model) {
    model->eval();
    return model->forward(x);
  };
  bsconv_test::expect_deep_clone(sum, run);
  bsconv_test::expect_round_trip(sum, other, run);
  EXPECT_EQ(bsconv::describe(*sum),
            "bsconv::BSConvSum(terms=2, bsconv::BSConvU(4, 6, kernel_size=[3, 3], stride=[1, 1], "
            "padding=[0, 0], with_bn=true))");
}

TEST(BSConvSum, FusesItsTerms) {
  torch::manual_seed(4);
  BSConvSum sum(BSConvUOptions(4, 6, 3).with_bn(true), 2);
  bsconv_test::randomize(*sum);
  sum->eval();
  const auto x = torch::randn({1, 4, 5, 5});
  const auto expected = sum->forward(x);
  EXPECT_EQ(bsconv::fuse(*sum), 2U);
  EXPECT_TRUE(torch::allclose(sum->forward(x), expected, 1e-4, 1e-5));
}

TEST(BSConvSum, RefusesFewerThanOneTerm) {
  EXPECT_THROW(BSConvSum(BSConvUOptions(4, 6, 3), 0), c10::ValueError);
  EXPECT_THROW(BSConvSum(BSConvSOptions(4, 6, 0), 2), c10::ValueError);
}

TEST(BSConvSum, RunsInTheProfilerAndThePlan) {
  torch::manual_seed(5);
  auto model = bsconv::create_model("cifar_resnet20", bsconv::ModelOptions().num_classes(10));
  bsconv::replace_with_bsconv_u(model, bsconv::BSConvUReplacementOptions().terms(2));
  bsconv_test::randomize(*model);
  model->eval();
  const torch::NoGradGuard no_grad;
  const auto x = torch::rand({2, 3, 32, 32});
  const auto profile = bsconv::profile(model, torch::zeros({1, 3, 32, 32}));
  EXPECT_EQ(profile.parameters(), bsconv::parameter_count(*model));
  auto plain =
      bsconv::create_model("cifar_resnet20_bsconvu", bsconv::ModelOptions().num_classes(10));
  const auto single = bsconv::profile(plain, torch::zeros({1, 3, 32, 32}));
  EXPECT_GT(profile.flops(), single.flops() * 1.8);
  const auto fast = bsconv::optimize(model, x);
  const auto expected = model->forward(x);
  EXPECT_LE((fast(x) - expected).abs().max().item<double>(),
            1e-4 * expected.abs().mean().item<double>());
  EXPECT_EQ(fast.report().eager, "");
  EXPECT_EQ(fast.report().fallbacks(), 0U) << fast.report();
}

}  // namespace
}  // namespace nn_bsconv_sum_test
