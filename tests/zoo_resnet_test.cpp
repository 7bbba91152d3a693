// SPDX-License-Identifier: BSD-3-Clause-Clear
// Residual units in training, beside LibTorch's operators.
#include <bsconv/bsconv.hpp>
#include <bsconv/fused_training.hpp>
#include <bsconv/util/autocast_scope.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "support/training_step.hpp"
#include "test_files.hpp"

namespace zoo_resnet_test {
namespace {

using bsconv::zoo::PreactivationUnit;
using bsconv::zoo::ResidualUnit;
using bsconv_test::copy_of;
using bsconv_test::count;
using bsconv_test::expect_same_step;
using bsconv_test::expect_same_step_as_it_is;
using bsconv_test::operators_of;
using testing::HasSubstr;
using testing::Not;
using torch::nn::AnyModule;
using torch::nn::BatchNorm2d;

/// A pre-activation unit of BSConv-U or, if `subspace`, BSConv-S layers; its projection is one of
/// neither.
PreactivationUnit make_unit(int64_t in, int64_t out, int64_t stride, bool subspace = false) {
  PreactivationUnit unit(in, out, stride);
  if (subspace) {
    bsconv::replace_with_bsconv_s(*unit);
  } else {
    bsconv::replace_with_bsconv_u(*unit);
  }
  unit->train();
  return unit;
}

std::string operators_of_unit(PreactivationUnit unit, const torch::Tensor& input) {
  return operators_of(*unit, input);
}

TEST(ZooResNet, APreactivationUnitIsOneOperator) {
  torch::manual_seed(1);
  const auto input = torch::randn({3, 16, 9, 10});
  for (const bool subspace : {false, true}) {
    const auto all = operators_of_unit(make_unit(16, 16, 1, subspace), input);
    EXPECT_EQ(count(all, "ChainFunction"), 1U) << all;
    EXPECT_THAT(all, Not(HasSubstr("NormFunction")));
    EXPECT_THAT(all, Not(HasSubstr("AddBackward")));
  }
  // The projection reads what the first normalization makes, too.
  const auto all = operators_of_unit(make_unit(16, 32, 2), input);
  EXPECT_EQ(count(all, "ChainFunction"), 1U) << all;
  EXPECT_THAT(all, HasSubstr("NormFunction"));
  EXPECT_THAT(all, Not(HasSubstr("AddBackward")));
}

TEST(ZooResNet, StepsOfPreactivationUnitsEqualLibTorchs) {
  torch::manual_seed(2);
  for (const bool subspace : {false, true}) {
    SCOPED_TRACE(subspace);
    expect_same_step(make_unit(16, 16, 1, subspace), torch::randn({3, 16, 9, 10}) + 0.3);
    expect_same_step(make_unit(16, 32, 2, subspace), torch::randn({3, 16, 9, 10}) + 0.3);
    // Vectors of 16 don't divide these.
    expect_same_step(make_unit(24, 24, 1, subspace), torch::randn({3, 24, 8, 10}) + 0.3);
    expect_same_step(make_unit(24, 32, 1, subspace), torch::randn({3, 24, 8, 10}) + 0.3);
    // Images of several bands; some values lie so near to a bend that rounding moves them across.
    expect_same_step(make_unit(64, 64, 1, subspace), torch::randn({2, 64, 40, 33}), 1e-3);
  }
}

TEST(ZooResNet, PreactivationUnitsWithNormalizationsOfOtherKinds) {
  torch::manual_seed(3);
  const auto input = torch::randn({3, 16, 9, 10}) + 0.3;
  const auto expect_with = [&](const torch::nn::BatchNorm2dOptions& options) {
    auto unit = make_unit(16, 16, 1);
    unit->replace_child("bn", AnyModule(BatchNorm2d(options)));
    EXPECT_THAT(operators_of_unit(unit, input), Not(HasSubstr("NormFunction")));
    expect_same_step(unit, input);
  };
  expect_with(torch::nn::BatchNorm2dOptions(16).affine(false));
  expect_with(torch::nn::BatchNorm2dOptions(16).momentum(std::nullopt));
  expect_with(torch::nn::BatchNorm2dOptions(16).track_running_stats(false));

  // One that is frozen is LibTorch's, and keeps its statistics.
  auto frozen = make_unit(16, 16, 1);
  frozen->named_children()["bn"]->eval();
  expect_same_step_as_it_is(frozen, input, 1e-4);
  auto other = make_unit(16, 16, 1);
  other->replace_child("relu", AnyModule(torch::nn::Tanh()));
  expect_same_step(other, input);
}

// What a dense convolution in front makes under autocast.
TEST(ZooResNet, UnderAutocastAPreactivationUnitComputesInSinglePrecision) {
  torch::manual_seed(4);
  bsconv::Layer unit = make_unit(16, 16, 1);
  const auto rounded = torch::randn({3, 16, 9, 10}).to(torch::kBFloat16);
  const auto expected = bsconv_test::step(*copy_of(unit), rounded.to(torch::kFloat), true);
  const bsconv::detail::AutocastScope autocast(torch::kCPU, torch::kBFloat16);
  const auto found = bsconv_test::step(*copy_of(unit), rounded, true);
  EXPECT_EQ(found[0].second.scalar_type(), torch::kFloat);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    // The input's gradient is rounded where two ways meet.
    const auto wanted = expected[i].second.to(torch::kDouble);
    const auto difference = (found[i].second.to(torch::kDouble) - wanted).norm();
    const double tolerance = expected[i].first == "input" ? 1e-2 : 1e-4;
    EXPECT_LE(difference.item<double>(), tolerance * wanted.norm().item<double>())
        << expected[i].first;
  }
}

/// A block that does more than its base.
struct TwiceBlockImpl : bsconv::zoo::ConvBlockImpl {
  using ConvBlockImpl::ConvBlockImpl;
  torch::Tensor forward(const torch::Tensor& input) override {
    return 2 * ConvBlockImpl::forward(input);
  }
};
TORCH_MODULE(TwiceBlock);

TEST(ZooResNet, BlocksOfOnesOwnClassRunTheirOwnForward) {
  torch::manual_seed(5);
  const auto input = torch::randn({3, 16, 9, 10});
  const auto expect_own_forward = [&](auto unit, const std::string& child, bool with_bn) {
    SCOPED_TRACE(child);
    const auto options = bsconv::zoo::ConvBlockOptions(16, 16, 3).with_bn(with_bn).activation(
        child == "conv1" ? bsconv::zoo::Activation::relu : bsconv::zoo::Activation::none);
    unit->replace_child(child, AnyModule(TwiceBlock(options)));
    bsconv::replace_with_bsconv_u(*unit);
    unit->train();
    const auto output = [&](bool fused) {
      const bsconv::FusedTrainingGuard guard(fused);
      return unit->forward(input);
    };
    EXPECT_TRUE(torch::allclose(output(true), output(false), 1e-4, 1e-4));
  };
  expect_own_forward(PreactivationUnit(16, 16, 1), "conv1", true);
  expect_own_forward(PreactivationUnit(16, 16, 1), "conv2", false);
  expect_own_forward(ResidualUnit(16, 16, 1), "conv1", true);
  expect_own_forward(ResidualUnit(16, 16, 1), "conv2", true);
}

}  // namespace
}  // namespace zoo_resnet_test
