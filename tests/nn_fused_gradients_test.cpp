// SPDX-License-Identifier: BSD-3-Clause-Clear
// Gradients of gradients and tangents of layers on fused kernels.
#include <torch/autograd.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/fused_training.hpp>
#include <bsconv/util/autocast_scope.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support/training_step.hpp"

namespace nn_fused_gradients_test {
namespace {

using bsconv::FusedTrainingGuard;
using bsconv_test::chain_of;
using bsconv_test::copy_of;
using bsconv_test::is_fused;
using torch::nn::BatchNorm2d;
using torch::nn::Conv2d;
using torch::nn::Conv2dOptions;

TEST(FusedGradients, GradientsOfGradientsAreLibTorchs) {
  torch::manual_seed(2);
  const auto penalty = [](bsconv::LayerImpl& model, const torch::Tensor& input,
                          std::optional<torch::ScalarType> dtype = {}) {
    const auto x = input.detach().clone().set_requires_grad(true);
    torch::Tensor gradient;
    {
      const bsconv::detail::AutocastScope autocast(torch::kCPU, dtype);
      gradient = torch::autograd::grad({model.forward(x).square().sum()}, {x}, {}, std::nullopt,
                                       /*create_graph=*/true)[0];
    }
    gradient.square().sum().backward();
    return x.grad();
  };
  const bsconv::BSConvS block(bsconv::BSConvSOptions(8, 8, 3).padding(1).with_bn(true));
  const Conv2d pointwise(Conv2dOptions(8, 8, 1).stride(2).bias(false));
  for (auto layer : {chain_of(block, true, true, 8), chain_of(pointwise, true, true, 8)}) {
    auto exact = copy_of(layer);
    exact->to(torch::kDouble);
    const auto input = torch::randn({2, 8, 6, 6});
    ASSERT_TRUE(is_fused(*layer, input));
    const auto expected = penalty(*exact, input.to(torch::kDouble));
    const auto expect_close = [&](const torch::Tensor& found) {
      const auto difference = (found.to(torch::kDouble) - expected).norm();
      EXPECT_LE(difference.item<double>(), 1e-3 * expected.norm().item<double>());
    };
    expect_close(penalty(*copy_of(layer), input));
    if (exact->children().front()->as<bsconv::BSConvSImpl>() != nullptr) {
      expect_close(penalty(*copy_of(layer), input, torch::kBFloat16));
    }
  }
}

// A residual that is computed from the input, and weights that are used twice.
TEST(FusedGradients, GradientsToDifferentiateAgainEqualThoseThatAreNot) {
  torch::manual_seed(8);
  bsconv::Chain twice;
  const bsconv::BSConvU shared(bsconv::BSConvUOptions(8, 8, 3).padding(1).with_bn(true));
  const BatchNorm2d norm(8);
  for (const char* use : {"1", "2"}) {
    twice->push_back(std::string("layer") + use, shared);
    twice->push_back(std::string("norm") + use, norm);
    twice->push_back(std::string("relu") + use, torch::nn::ReLU());
  }
  const std::vector<std::pair<bsconv::Layer, int64_t>> cases = {
      {twice, 8},
      {bsconv::create_model("cifar_resnet20"), 3},
      {bsconv::create_model("cifar_resnet20_bsconvu"), 3},
      {bsconv::create_model("cifar_preresnet20_bsconvu"), 3}};
  for (const auto& [layer, channels] : cases) {
    auto model = layer;
    model->train();
    const auto x = torch::rand({4, channels, 16, 16}).set_requires_grad(true);
    auto inputs = model->parameters();
    inputs.push_back(x);
    const auto gradients = [&](bool create_graph) {
      return torch::autograd::grad({model->forward(x).square().sum()}, inputs, {}, std::nullopt,
                                   create_graph);
    };
    const auto expected = gradients(false);
    const auto found = gradients(true);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const auto difference = (found[i] - expected[i]).norm().item<double>();
      EXPECT_LE(difference, 1e-2 * expected[i].norm().item<double>() + 1e-2) << i;
    }
  }
}

TEST(FusedGradients, TangentsOfForwardModeAreLibTorchs) {
  torch::manual_seed(9);
  auto layer = chain_of(bsconv::BSConvU(bsconv::BSConvUOptions(8, 16, 3).padding(1).with_bn(true)),
                        true, true, 16);
  layer->train();
  const auto input = torch::randn({3, 8, 9, 9});
  const auto direction = torch::randn({3, 8, 9, 9});
  const auto tangent = [&](bool fused) {
    const FusedTrainingGuard guard(fused);
    const auto level = torch::autograd::ForwardADLevel::get_next_idx();
    const auto output = layer->forward(torch::_make_dual(input, direction, level));
    const auto result = std::get<1>(torch::_unpack_dual(output, level)).clone();
    torch::autograd::ForwardADLevel::release_idx(level);
    return result;
  };
  EXPECT_TRUE(torch::allclose(tangent(true), tangent(false), 1e-4, 1e-5));
}

}  // namespace
}  // namespace nn_fused_gradients_test
