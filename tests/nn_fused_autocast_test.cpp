// SPDX-License-Identifier: BSD-3-Clause-Clear
// What runs on fused kernels under autocast on the CPU.
#include <ATen/record_function.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/fused_training.hpp>
#include <bsconv/util/autocast_scope.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "support/training_step.hpp"

namespace nn_fused_autocast_test {
namespace {

using bsconv::FusedTrainingGuard;
using bsconv_test::chain_of;
using bsconv_test::copy_of;
using bsconv_test::is_fused;
using bsconv_test::Step;
using bsconv_test::step;
using torch::nn::BatchNorm2d;

/// How many times `run` calls the operator of LibTorch's that is called `name`.
int count_calls(const std::string& name, const std::function<void()>& run) {
  static thread_local const std::string* wanted = nullptr;
  static thread_local int count = 0;
  wanted = &name;
  count = 0;
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(
      [](const at::RecordFunction& call) -> std::unique_ptr<at::ObserverContext> {
        count += call.name() == *wanted ? 1 : 0;
        return nullptr;
      }));
  run();
  at::removeCallback(handle);
  return count;
}

TEST(FusedAutocast, LayersComputeInSinglePrecision) {
  torch::manual_seed(5);
  auto layer = chain_of(bsconv::BSConvU(bsconv::BSConvUOptions(8, 16, 3).padding(1).with_bn(true)),
                        true, true, 16);
  layer->train();
  const auto input = torch::randn({3, 8, 9, 9});
  const auto rounded = input.to(torch::kBFloat16);
  const auto expect_step = [&](bsconv::LayerImpl& model, const torch::Tensor& images,
                               const Step& expected) {
    const bsconv::detail::AutocastScope autocast(torch::kCPU, torch::kBFloat16);
    ASSERT_TRUE(is_fused(*std::dynamic_pointer_cast<bsconv::LayerImpl>(model.clone()), images));
    const auto found = step(model, images, true);
    EXPECT_EQ(found[0].second.scalar_type(), torch::kFloat);
    EXPECT_EQ(found[1].second.scalar_type(), images.scalar_type());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(torch::equal(found[i].second, expected[i].second.to(found[i].second.dtype())))
          << expected[i].first;
    }
  };
  expect_step(*copy_of(layer), input, step(*copy_of(layer), input, true));
  // As a dense convolution in front makes them.
  expect_step(*copy_of(layer), rounded, step(*copy_of(layer), rounded.to(torch::kFloat), true));
  auto norm = chain_of(BatchNorm2d(8), false, true, 8);
  norm->train();
  expect_step(*copy_of(norm), input, step(*copy_of(norm), input, true));
  EXPECT_ANY_THROW(layer->forward(rounded));
}

// Dense layers in lower precision in front of BSConv ones, beside them (shortcuts) and behind them.
TEST(FusedAutocast, NetworksStepNearerToSinglePrecisionThanLibTorchs) {
  torch::manual_seed(6);
  auto model = bsconv::create_model("cifar_resnet20");
  bsconv::replace_with_bsconv_u(*model, bsconv::BSConvUReplacementOptions().exclude(
                                            {"*init_unit*", "*projection*", "classifier*"}));
  model->train();
  const auto images = torch::rand({4, 3, 16, 16});
  const auto expected = step(*copy_of(model), images, true);
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    const bsconv::detail::AutocastScope autocast(torch::kCPU, dtype);
    ASSERT_EQ(count_calls("aten::conv2d", [&] { copy_of(model)->forward(images); }), 2 * 4);
    // The mean over all tensors of the relative difference.
    const auto distance = [&](bool fused) {
      const auto found = step(*copy_of(model), images, fused);
      double sum = 0;
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const auto wanted = expected[i].second.to(torch::kDouble);
        const auto difference = (found[i].second.to(torch::kDouble) - wanted).norm();
        sum += difference.item<double>() / (wanted.norm().item<double>() + 1e-6);
      }
      return sum / static_cast<double>(expected.size());
    };
    EXPECT_LT(distance(true), distance(false));
    EXPECT_LT(distance(true), dtype == torch::kHalf ? 0.1 : 0.3);
  }
}

// What LibTorch's autocast makes faster is left to it.
TEST(FusedAutocast, OtherLayersAreLibTorchs) {
  const bsconv::detail::AutocastScope autocast(torch::kCPU, torch::kBFloat16);
  const auto images = torch::rand({2, 3, 16, 16});
  for (const std::string name :
       {"cifar_resnet20", "cifar_resnet20_bsconvu", "cifar_mobilenetv2_w1"}) {
    SCOPED_TRACE(name);
    auto model = bsconv::create_model(name);
    const auto count = [&](bool fused) {
      const FusedTrainingGuard guard(fused);
      return std::pair(count_calls("aten::conv2d", [&] { model->forward(images); }),
                       count_calls("aten::batch_norm", [&] { model->forward(images); }));
    };
    const auto [convolutions, norms] = count(true);
    const auto [all_convolutions, all_norms] = count(false);
    if (name == "cifar_resnet20_bsconvu") {
      // Two shortcuts, and the classifier; autocast calls a convolution twice.
      EXPECT_EQ(convolutions, 2 * 3);
      EXPECT_EQ(norms, 2);
    } else {
      EXPECT_EQ(convolutions, all_convolutions);
      // Images themselves are in single precision.
      EXPECT_EQ(norms, all_norms - 1);
    }
  }
}

}  // namespace
}  // namespace nn_fused_autocast_test
