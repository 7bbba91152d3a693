// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/nn/bsconv_u.hpp>
#include <bsconv/util/autocast_scope.hpp>

#include "support/device.hpp"
#include "support/golden.hpp"
#include "support/layers.hpp"

namespace nn_bsconv_u_test {
namespace {

using bsconv::BSConvU;
using bsconv::BSConvUOptions;
using bsconv_test::dense_result;
using bsconv_test::Draw;
using bsconv_test::message_of;
using Names = std::vector<std::string>;

torch::Tensor dense(BSConvU& layer, const torch::nn::Conv2dOptions& options,
                    const torch::Tensor& input) {
  return dense_result(options, layer->pw->weight.flatten(1), layer->dw->weight, layer->dw->bias,
                      input);
}

class BSConvUOnDevice : public bsconv_test::DeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, BSConvUOnDevice, bsconv_test::devices(), bsconv_test::device_name);

TEST_P(BSConvUOnDevice, IsTheDenseConvolutionOfItsBlueprints) {
  Draw draw(1);
  for (int round = 0; round < 60; ++round) {
    const auto options = bsconv_test::random_convolution(draw);
    BSConvU layer{BSConvUOptions(options)};
    layer->to(device());
    SCOPED_TRACE(testing::Message() << *layer);
    const auto input =
        torch::randn({draw(1, 3), options.in_channels(), draw(14, 17), draw(15, 18)}).to(device());
    const auto output = layer->forward(input);
    const auto expected = dense(layer, options, input);
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

TEST_P(BSConvUOnDevice, NormalizesBetweenItsConvolutions) {
  BSConvU layer(BSConvUOptions(3, 6, 3).padding(1).with_bn(true).bn_options(
      torch::nn::BatchNormOptions(1).eps(0.01).momentum(0.3)));
  bsconv_test::randomize(*layer);
  layer->to(device());
  const auto input = torch::randn({4, 3, 6, 7}).to(device());
  const auto channels = [](const torch::Tensor& t) { return t.view({1, -1, 1, 1}); };
  const auto normalized = [&](const torch::Tensor& x, const torch::Tensor& mean,
                              const torch::Tensor& var) {
    return (x - channels(mean)) / channels((var + 0.01).sqrt()) * channels(layer->bn->weight) +
           channels(layer->bn->bias);
  };
  const auto pointwise = torch::conv2d(input, layer->pw->weight);
  const auto depthwise = [&](const torch::Tensor& x) {
    return torch::conv2d(x, layer->dw->weight, layer->dw->bias, 1, 1, 1, 6);
  };

  const auto mean = pointwise.mean({0, 2, 3});
  const auto var = pointwise.var(torch::IntArrayRef{0, 2, 3}, /*unbiased=*/false);
  const auto old_mean = layer->bn->running_mean.clone();
  EXPECT_TRUE(torch::allclose(layer->forward(input), depthwise(normalized(pointwise, mean, var)),
                              1e-4, 1e-4));
  EXPECT_TRUE(torch::allclose(layer->bn->running_mean, 0.7 * old_mean + 0.3 * mean, 1e-4, 1e-5));
  EXPECT_EQ(layer->bn->num_batches_tracked.item<int64_t>(), 1);

  layer->eval();
  EXPECT_TRUE(torch::allclose(
      layer->forward(input),
      depthwise(normalized(pointwise, layer->bn->running_mean, layer->bn->running_var)), 1e-4,
      1e-4));
}

TEST_P(BSConvUOnDevice, TrainsSavesAndLoads) {
  const auto make = [&] {
    BSConvU layer(BSConvUOptions(5, 7, {3, 5}).padding({1, 2}).stride(2).with_bn(true));
    layer->to(device());
    return layer;
  };
  auto layer = make();
  auto other = make();
  const auto input = torch::randn({3, 5, 9, 9}).to(device());
  bsconv_test::expect_step_changes_all(*layer, layer->forward(input).square().sum());
  for (const auto& parameter : layer->parameters()) {
    EXPECT_EQ(parameter.device().type(), device().type());
  }
  layer->eval();
  other->eval();
  EXPECT_FALSE(layer->pw->is_training() || layer->bn->is_training() || layer->dw->is_training());
  bsconv_test::expect_round_trip(layer, other, [&](BSConvU m) { return m->forward(input); });
  bsconv_test::expect_deep_clone(layer, [&](BSConvU m) { return m->forward(input); });
}

TEST_P(BSConvUOnDevice, FollowsDtypeAndAutocast) {
  BSConvU layer(BSConvUOptions(5, 7, 3).padding(1).with_bn(true));
  layer->eval();
  layer->to(device());
  const auto input = torch::randn({2, 5, 9, 9}).to(device());
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
  EXPECT_EQ(precise.scalar_type(), torch::kDouble);
  EXPECT_TRUE(torch::allclose(precise.to(torch::kFloat), output, 1e-4, 1e-5));
}

TEST_P(BSConvUOnDevice, ClonesToADevice) {
  BSConvU layer(BSConvUOptions(2, 3, 3).with_bn(true));
  const auto copy = layer->clone(device());
  for (const auto& tensor : copy->parameters()) {
    EXPECT_EQ(tensor.device().type(), device().type());
  }
  for (const auto& tensor : copy->buffers()) {
    EXPECT_EQ(tensor.device().type(), device().type());
  }
  EXPECT_EQ(layer->pw->weight.device().type(), torch::kCPU);
}

TEST(BSConvU, NamesItsStateAsThePythonPackage) {
  const auto names = [](const BSConvUOptions& options) {
    return bsconv::weights::state_dict(*BSConvU(options)).keys();
  };
  EXPECT_EQ(names(BSConvUOptions(2, 3, 3)), (Names{"pw.weight", "dw.weight", "dw.bias"}));
  EXPECT_EQ(names(BSConvUOptions(2, 3, 3).bias(false).with_bn(true)),
            (Names{"pw.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var",
                   "bn.num_batches_tracked", "dw.weight"}));
  EXPECT_EQ(names(BSConvUOptions(2, 3, 3).bias(false).with_bn(true).bn_options(
                torch::nn::BatchNormOptions(99).affine(false))),
            (Names{"pw.weight", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked",
                   "dw.weight"}));
  EXPECT_EQ(names(BSConvUOptions(2, 3, 3).bias(false).with_bn(true).bn_options(
                torch::nn::BatchNormOptions(99).track_running_stats(false))),
            (Names{"pw.weight", "bn.weight", "bn.bias", "dw.weight"}));
}

TEST(BSConvU, DrawsTheDefaultInitializationInOrder) {
  torch::manual_seed(3);
  BSConvU layer(BSConvUOptions(4, 6, 3));
  torch::manual_seed(3);
  torch::nn::Conv2d pw(torch::nn::Conv2dOptions(4, 6, 1).bias(false));
  torch::nn::Conv2d dw(torch::nn::Conv2dOptions(6, 6, 3).groups(6));
  EXPECT_TRUE(torch::equal(layer->pw->weight, pw->weight));
  EXPECT_TRUE(torch::equal(layer->dw->weight, dw->weight));
  EXPECT_TRUE(torch::equal(layer->dw->bias, dw->bias));
}

TEST(BSConvU, PrintsItsChildren) {
  std::ostringstream stream;
  stream << BSConvU(BSConvUOptions(3, 8, 3).with_bn(true));
  const std::string text = stream.str();
  EXPECT_EQ(text.rfind("bsconv::BSConvU(3, 8, kernel_size=[3, 3]", 0), 0U) << text;
  for (const char* child :
       {"(pw): torch::nn::Conv2d(3, 8, kernel_size=[1, 1]", "(bn): torch::nn::BatchNorm2d(8",
        "(dw): torch::nn::Conv2d(8, 8, kernel_size=[3, 3], stride=[1, 1], "
        "groups=8)"}) {
    EXPECT_NE(text.find(child), std::string::npos) << text;
  }
}

TEST(BSConvU, RefusesWrongInputs) {
  BSConvU layer(3, 8, 3);
  const auto expect = [&](const torch::Tensor& input, const char* part) {
    const auto message = message_of([&] { layer->forward(input); });
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect(torch::Tensor(), "BSConvU: expected an input of shape [N, 3, H, W], got an undefined");
  expect(torch::ones({3, 9}), "got [3, 9]");
  expect(torch::ones({1, 1, 3, 9, 9}), "got [1, 1, 3, 9, 9]");
  expect(torch::ones({1, 9, 9}), "expected 3 input channels, got 1 in a tensor of shape [1, 9, 9]");
  expect(torch::ones({1, 3, 2, 9}), "Kernel size can't be greater than actual input size");
}

}  // namespace
}  // namespace nn_bsconv_u_test
