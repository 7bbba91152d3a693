// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/nn/bsconv_s.hpp>
#include <bsconv/util/autocast_scope.hpp>

#include "support/device.hpp"
#include "support/golden.hpp"
#include "support/layers.hpp"

namespace nn_bsconv_s_test {
namespace {

using bsconv::BSConvS;
using bsconv::BSConvSOptions;
using bsconv_test::Draw;
using bsconv_test::message_of;
using Names = std::vector<std::string>;

class BSConvSOnDevice : public bsconv_test::DeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, BSConvSOnDevice, bsconv_test::devices(), bsconv_test::device_name);

TEST_P(BSConvSOnDevice, IsTheDenseConvolutionOfItsBlueprints) {
  Draw draw(2);
  for (int round = 0; round < 60; ++round) {
    const auto options = bsconv_test::random_convolution(draw);
    BSConvS layer(BSConvSOptions(options)
                      .p(0.1 * static_cast<double>(draw(0, 10)))
                      .min_mid_channels(draw(1, 5)));
    layer->to(device());
    SCOPED_TRACE(testing::Message() << *layer);
    const auto input =
        torch::randn({draw(1, 3), options.in_channels(), draw(14, 17), draw(15, 18)}).to(device());
    const auto output = layer->forward(input);
    const auto pointwise = layer->pw2->weight.flatten(1).matmul(layer->pw1->weight.flatten(1));
    const auto expected =
        bsconv_test::dense_result(options, pointwise, layer->dw->weight, layer->dw->bias, input);
    ASSERT_EQ(output.sizes(), expected.sizes());
    EXPECT_TRUE(torch::allclose(output, expected, 1e-4, 1e-5));
    EXPECT_TRUE(torch::allclose(layer->forward(input[0]), expected[0], 1e-4, 1e-5));

    const auto direction = torch::randn(output.sizes()).to(device());
    const auto parameters = layer->parameters();
    const auto gradients = torch::autograd::grad({(output * direction).sum()}, parameters);
    const auto wanted = torch::autograd::grad({(expected * direction).sum()}, parameters);
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      EXPECT_TRUE(torch::allclose(gradients[i], wanted[i], 1e-3, 1e-3)) << i;
    }
  }
}

TEST_P(BSConvSOnDevice, NormalizesAfterEachPointwisePart) {
  BSConvS layer(
      BSConvSOptions(9, 6, 3).with_bn(true).bn_options(torch::nn::BatchNormOptions(1).eps(0.02)));
  bsconv_test::randomize(*layer);
  layer->to(device());
  layer->eval();
  const auto normalized = [](torch::nn::BatchNorm2d bn, const torch::Tensor& x) {
    const auto channels = [](const torch::Tensor& t) { return t.view({1, -1, 1, 1}); };
    return (x - channels(bn->running_mean)) / channels((bn->running_var + 0.02).sqrt()) *
               channels(bn->weight) +
           channels(bn->bias);
  };
  const auto input = torch::randn({2, 9, 6, 7}).to(device());
  const auto first = normalized(layer->bn1, torch::conv2d(input, layer->pw1->weight));
  const auto second = normalized(layer->bn2, torch::conv2d(first, layer->pw2->weight));
  const auto expected = torch::conv2d(second, layer->dw->weight, layer->dw->bias, 1,
                                      torch::IntArrayRef({0, 0}), 1, 6);
  EXPECT_TRUE(torch::allclose(layer->forward(input), expected, 1e-4, 1e-4));
}

TEST_P(BSConvSOnDevice, TrainsSavesAndLoads) {
  const auto make = [&] {
    BSConvS layer(BSConvSOptions(8, 7, {3, 5}).padding({1, 2}).stride(2).with_bn(true).p(0.6));
    layer->to(device());
    return layer;
  };
  auto layer = make();
  auto other = make();
  const auto input = torch::randn({3, 8, 9, 9}).to(device());
  bsconv_test::expect_step_changes_all(*layer, layer->forward(input).square().sum());
  layer->eval();
  other->eval();
  for (const auto& child : layer->children()) {
    EXPECT_FALSE(child->is_training());
  }
  bsconv_test::expect_round_trip(layer, other, [&](BSConvS m) { return m->forward(input); });
  bsconv_test::expect_deep_clone(layer, [&](BSConvS m) { return m->forward(input); });
  bsconv_test::expect_deep_clone(layer, [&](BSConvS m) { return m->regularization_loss(); });
}

TEST_P(BSConvSOnDevice, FollowsDtypeAndAutocast) {
  BSConvS layer(BSConvSOptions(8, 7, 3).padding(1).with_bn(true));
  layer->eval();
  layer->to(device());
  const auto input = torch::randn({2, 8, 9, 9}).to(device());
  const auto output = layer->forward(input);
  torch::Tensor rounded;
  {
    const bsconv::detail::AutocastScope autocast(device().type(), torch::kBFloat16);
    rounded = layer->forward(input);
  }
  EXPECT_EQ(rounded.scalar_type(), torch::kBFloat16);
  EXPECT_TRUE(torch::allclose(rounded.to(torch::kFloat), output, 5e-2, 5e-2));
  layer->to(torch::kDouble);
  const auto precise = layer->forward(input.to(torch::kDouble));
  EXPECT_TRUE(torch::allclose(precise.to(torch::kFloat), output, 1e-4, 1e-5));
  EXPECT_EQ(layer->regularization_loss().scalar_type(), torch::kDouble);
}

TEST_P(BSConvSOnDevice, ItsLossIsTheDistanceFromOrthonormalRows) {
  BSConvS layer(BSConvSOptions(8, 6, 3).p(0.5));
  layer->to(device());
  ASSERT_EQ(layer->pw1->weight.size(0), 4);
  const auto rows = layer->pw1->weight.detach().flatten(1).cpu();
  double squares = 0.0;
  for (int64_t i = 0; i < 4; ++i) {
    for (int64_t j = 0; j < 4; ++j) {
      const double product = (rows[i] * rows[j]).sum().item<double>() - (i == j ? 1.0 : 0.0);
      squares += product * product;
    }
  }
  const auto loss = layer->regularization_loss();
  EXPECT_EQ(loss.dim(), 0);
  EXPECT_EQ(loss.device().type(), device().type());
  EXPECT_NEAR(loss.item<double>(), std::sqrt(squares), 1e-5);
  loss.backward();
  EXPECT_TRUE(layer->pw1->weight.grad().defined());
  EXPECT_FALSE(layer->pw2->weight.grad().defined());
  {
    const torch::NoGradGuard no_grad;
    layer->pw1->weight.sub_(0.01 * layer->pw1->weight.grad());
  }
  EXPECT_LT(layer->regularization_loss().item<double>(), std::sqrt(squares));
}

TEST(BSConvS, NamesItsStateAsThePythonPackage) {
  const auto names = [](const BSConvSOptions& options) {
    return bsconv::weights::state_dict(*BSConvS(options)).keys();
  };
  EXPECT_EQ(names(BSConvSOptions(8, 3, 3)),
            (Names{"pw1.weight", "pw2.weight", "dw.weight", "dw.bias"}));
  EXPECT_EQ(names(BSConvSOptions(8, 3, 3).bias(false).with_bn(true).bn_options(
                torch::nn::BatchNormOptions(1).affine(false))),
            (Names{"pw1.weight", "bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked",
                   "pw2.weight", "bn2.running_mean", "bn2.running_var", "bn2.num_batches_tracked",
                   "dw.weight"}));
}

TEST(BSConvS, PIsAFractionOfTheInputChannels) {
  for (int64_t in = 1; in <= 40; ++in) {
    for (const double p : {0.0, 0.1, 1.0 / 8, 1.0 / 6, 0.25, 1.0 / 3, 0.5, 0.999, 1.0}) {
      for (const int64_t least : {1, 4, 9}) {
        int64_t mid = 0;
        while (static_cast<double>(mid) < p * static_cast<double>(in)) {
          ++mid;
        }
        EXPECT_EQ(BSConvSOptions(in, 7, 3).p(p).min_mid_channels(least).mid_channels(),
                  std::min(in, std::max(mid, least)))
            << in << " " << p << " " << least;
      }
    }
  }
}

TEST(BSConvS, KeepsItsOptions) {
  BSConvS layer(BSConvSOptions(16, 8, {3, 5})
                    .stride({2, 1})
                    .padding({1, 2})
                    .dilation({1, 3})
                    .bias(false)
                    .padding_mode(torch::kReflect)
                    .p(0.5)
                    .min_mid_channels(2)
                    .with_bn(true)
                    .bn_options(torch::nn::BatchNormOptions(1).eps(0.5)));
  const auto& dw = layer->dw->options;
  EXPECT_EQ(*dw.kernel_size(), (std::array<int64_t, 2>{3, 5}));
  EXPECT_EQ(*dw.stride(), (std::array<int64_t, 2>{2, 1}));
  EXPECT_EQ(*dw.dilation(), (std::array<int64_t, 2>{1, 3}));
  EXPECT_EQ(dw.groups(), 8);
  EXPECT_FALSE(dw.bias());
  EXPECT_TRUE(std::holds_alternative<torch::enumtype::kReflect>(dw.padding_mode()));
  EXPECT_EQ(layer->pw1->options.out_channels(), 8);
  EXPECT_EQ(layer->bn1->options.eps(), 0.5);
  EXPECT_EQ(layer->bn1->options.num_features(), 8);
  EXPECT_EQ(layer->options.min_mid_channels(), 2);
  EXPECT_EQ(layer->options.p(), 0.5);
}

TEST(BSConvS, RefusesWrongInputsAndOptions) {
  BSConvS layer(8, 3, 3);
  EXPECT_NE(message_of([&] {
              layer->forward(torch::ones({2, 3, 9, 9}));
            }).find("BSConvS: expected 8 input channels, got 3 in a tensor of shape [2, 3, 9, 9]"),
            std::string::npos);
  EXPECT_NE(message_of([&] { layer->forward(torch::Tensor()); }).find("got an undefined tensor"),
            std::string::npos);
  EXPECT_THROW(BSConvS(BSConvSOptions(8, 3, 3).p(1.0001)), c10::ValueError);
  EXPECT_THROW(BSConvS(BSConvSOptions(8, 3, 3).p(std::numeric_limits<double>::infinity())),
               c10::ValueError);
  EXPECT_THROW(BSConvS(BSConvSOptions(8, 3, 3).min_mid_channels(-1)), c10::ValueError);
  EXPECT_THROW(BSConvS(BSConvSOptions(8, 3, {0, 3})), c10::ValueError);
  EXPECT_THROW(BSConvS(BSConvSOptions(8, 3, 3).padding({0, -1})), c10::ValueError);
  EXPECT_THROW(BSConvS(BSConvSOptions(8, 3, 3).stride({1, 0})), c10::ValueError);
  EXPECT_THROW(BSConvS(BSConvSOptions(-8, 3, 3)), c10::ValueError);
  EXPECT_NE(
      message_of([] {
        BSConvS(BSConvSOptions(8, 3, {2, 3}).padding(torch::kSame).padding_mode(torch::kReflect));
      }).find("needs odd kernel sizes, got [2, 3]"),
      std::string::npos);
}

}  // namespace
}  // namespace nn_bsconv_s_test
