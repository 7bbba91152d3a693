// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/nn.hpp>
#include <bsconv/replace.hpp>

#include <limits>

#include "support/device.hpp"
#include "support/golden.hpp"
#include "support/layers.hpp"

namespace nn_regularization_test {
namespace {

using bsconv::BSConvS;
using bsconv::BSConvSOptions;
using bsconv_test::message_of;

/// A user's module with a term of its own, which can be switched off.
struct SparseImpl : torch::nn::Module, bsconv::Regularized {
  torch::nn::Linear fc = register_module("fc", torch::nn::Linear(3, 2));
  bool on = true;
  torch::Tensor forward(const torch::Tensor& x) { return fc(x); }
  torch::Tensor regularization_loss() const override {
    return named_parameters()["fc.weight"].abs().sum();
  }
  bool is_regularized() const override { return on; }
};
TORCH_MODULE(Sparse);

struct UserNetImpl : torch::nn::Module {
  torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(8, 8, 3));
  Sparse sparse = register_module("sparse", Sparse());
};
TORCH_MODULE(UserNet);

class RegularizationOnDevice : public bsconv_test::DeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, RegularizationOnDevice, bsconv_test::devices(),
                         bsconv_test::device_name);

TEST_P(RegularizationOnDevice, FindsUsersModulesAndReplacedLayers) {
  UserNet net;
  net->to(device());
  const double sparse = net->sparse->regularization_loss().item<double>();
  EXPECT_NEAR(bsconv::regularization_loss(*net, 1.0).item<double>(), sparse, 1e-6);
  bsconv::replace_with_bsconv_s(net);
  const auto loss = bsconv::regularization_loss(*net, 0.25);
  const auto rows = net->named_parameters()["conv.pw1.weight"].detach().flatten(1);
  const double orthogonal =
      (rows.matmul(rows.t()) - torch::eye(rows.size(0), rows.options())).norm().item<double>();
  EXPECT_NEAR(loss.item<double>(), 0.25 * (sparse + orthogonal), 1e-4);
  EXPECT_EQ(loss.device().type(), device().type());
  loss.backward();
  EXPECT_TRUE(net->named_parameters()["conv.pw1.weight"].grad().defined());
  net->sparse->on = false;
  EXPECT_NEAR(bsconv::regularization_loss(*net, 1.0).item<double>(), orthogonal, 1e-5);
}

TEST_P(RegularizationOnDevice, WithoutTermsIsAZeroOnTheModelsDevice) {
  torch::nn::Linear plain(2, 2);
  plain->to(device());
  EXPECT_FALSE(bsconv::has_regularization(*plain));
  const auto loss = bsconv::regularization_loss(*plain);
  EXPECT_EQ(loss.dim(), 0);
  EXPECT_EQ(loss.item<double>(), 0.0);
  EXPECT_EQ(loss.device().type(), device().type());
  EXPECT_EQ(bsconv::regularization_loss(*torch::nn::ReLU()).item<double>(), 0.0);
}

TEST(Regularization, AlphaDefaultsToThePapers) {
  BSConvS layer(8, 4, 3);
  const double term = layer->regularization_loss().item<double>();
  EXPECT_NEAR(bsconv::regularization_loss(*layer).item<double>(), 0.1 * term, 1e-6);
  EXPECT_EQ(bsconv::regularization_loss(*layer, 0.0).item<double>(), 0.0);
  for (const double alpha : {-1e-9, std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_THROW(bsconv::regularization_loss(*layer, alpha), c10::ValueError);
  }
}

TEST(Regularization, CountsASharedLayerOnce) {
  BSConvS layer(8, 8, 1);
  torch::nn::Sequential net(layer, torch::nn::ReLU(), layer);
  EXPECT_NEAR(bsconv::regularization_loss(*net, 1.0).item<double>(),
              layer->regularization_loss().item<double>(), 1e-6);
}

TEST(Regularization, VanishesForOrthonormalRowsOnly) {
  torch::manual_seed(5);
  const auto rows = std::get<0>(torch::linalg_qr(torch::randn({6, 4}, torch::kDouble))).t();
  EXPECT_LT(bsconv::orthonormality_loss(rows).item<double>(), 1e-12);
  EXPECT_NEAR(bsconv::orthonormality_loss(2 * rows).item<double>(), 3 * std::sqrt(4.0), 1e-9);
  EXPECT_NEAR(bsconv::orthonormality_loss(torch::zeros({5, 3, 1, 1})).item<double>(),
              std::sqrt(5.0), 1e-6);
}

TEST(Regularization, OfManyWeightsIsTheSumOverThem) {
  torch::manual_seed(7);
  std::vector<torch::Tensor> weights;
  torch::Tensor sum = torch::zeros({}, torch::kDouble);
  for (const int64_t rows : {4, 2, 4, 4, 2}) {
    weights.push_back(torch::randn({rows, 6, 1, 1}, torch::kDouble).requires_grad_());
    sum = sum + bsconv::orthonormality_loss(weights.back());
  }
  EXPECT_THROW(bsconv::orthonormality_loss(std::vector<torch::Tensor>()), c10::ValueError);
  const auto together = bsconv::orthonormality_loss(weights);
  EXPECT_NEAR(together.item<double>(), sum.item<double>(), 1e-12);
  const auto expected = torch::autograd::grad({sum}, weights);
  const auto found = torch::autograd::grad({together}, weights);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    EXPECT_TRUE(torch::allclose(found[i], expected[i], 1e-9, 1e-12));
  }
}

TEST(Regularization, OfABatchPaddedToOneSizeIsTheSumOverItsMatrices) {
  torch::manual_seed(4);
  const std::vector<torch::Tensor> weights = {
      torch::randn({3, 5, 1, 1}, torch::kDouble).requires_grad_(),
      torch::randn({2, 7, 1, 1}, torch::kDouble).requires_grad_(),
      torch::randn({4, 2, 1, 1}, torch::kDouble).requires_grad_()};
  auto sum = torch::zeros({}, torch::kDouble);
  for (const auto& weight : weights) {
    sum = sum + bsconv::orthonormality_loss(weight);
  }
  for (int time = 0; time < 2; ++time) {
    const auto together = bsconv::detail::batched_orthonormality_loss(weights);
    EXPECT_NEAR(together.item<double>(), sum.item<double>(), 1e-12);
    const auto expected = torch::autograd::grad({sum}, weights, {}, /*retain_graph=*/true);
    const auto found = torch::autograd::grad({together}, weights);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      EXPECT_TRUE(torch::allclose(found[i], expected[i], 1e-10, 1e-12)) << i;
    }
  }
}

TEST(Regularization, HasTheGradientOfItsValue) {
  torch::manual_seed(6);
  auto weight = torch::randn({3, 5, 1, 1}, torch::kDouble).requires_grad_();
  bsconv::orthonormality_loss(weight).backward();
  const auto gradient = weight.grad().flatten();
  const torch::NoGradGuard no_grad;
  const auto flat = weight.detach().flatten();
  for (int64_t i = 0; i < flat.size(0); ++i) {
    const auto moved = [&](double by) {
      auto copy = flat.clone();
      copy[i] += by;
      return bsconv::orthonormality_loss(copy.view({3, 5, 1, 1})).item<double>();
    };
    EXPECT_NEAR((moved(1e-6) - moved(-1e-6)) / 2e-6, gradient[i].item<double>(), 1e-6);
  }
}

}  // namespace
}  // namespace nn_regularization_test
