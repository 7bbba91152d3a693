// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/bsconv.hpp>
#include <bsconv/fused_training.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/layers.hpp"
#include "support/training_step.hpp"
#include "test_files.hpp"

namespace nn_fused_layers_test {
namespace {

using bsconv::FusedTrainingGuard;
using bsconv_test::chain_of;
using bsconv_test::copy_of;
using bsconv_test::error_of;
using bsconv_test::expect_same_step;
using bsconv_test::is_fused;
using bsconv_test::operators_of;
using bsconv_test::step;
using testing::HasSubstr;
using testing::Not;
using torch::nn::BatchNorm2d;
using torch::nn::Conv2d;
using torch::nn::Conv2dOptions;

class FusedGeometry : public testing::TestWithParam<int> {};

TEST_P(FusedGeometry, StepsEqualLibTorchs) {
  torch::manual_seed(GetParam());
  const auto draw = [](int64_t low, int64_t high) {
    return torch::randint(low, high + 1, {1}).item<int64_t>();
  };
  // With many channels, what lies between the convolutions is kept for the backward pass.
  const int64_t in = draw(0, 3) == 0 ? draw(48, 150) : draw(1, 20);
  const int64_t out = 8 * draw(1, 5);
  const int64_t kernel[2] = {draw(1, 5), draw(1, 3)};
  const int64_t dilation = draw(0, 3) == 0 ? 2 : 1;
  const bool padded = draw(0, 1) == 1;
  const std::vector<int64_t> pads = {padded ? kernel[0] / 2 : 0, padded ? kernel[1] / 2 : 0};
  const bool with_norm = draw(0, 3) != 0;
  const bool norm_inside = draw(0, 1) == 1;
  const auto input = torch::randn({draw(2, 5), in, draw(9, 40), draw(9, 17)}) + 0.5;
  SCOPED_TRACE(c10::str("in ", in, " out ", out, " kernel ", kernel[0], "x", kernel[1],
                        " dilation ", dilation, " padding ", pads, " norm ", with_norm, " inside ",
                        norm_inside, " input ", input.sizes()));
  const auto describe = [&](auto options) {
    return options.stride({draw(1, 2), draw(1, 3)})
        .padding(torch::IntArrayRef(pads))
        .dilation(dilation)
        .bias(draw(0, 1) == 1)
        .with_bn(norm_inside);
  };
  if (draw(0, 1) == 0) {
    const bsconv::BSConvU layer(describe(bsconv::BSConvUOptions(in, out, {kernel[0], kernel[1]})));
    expect_same_step(chain_of(layer, with_norm, with_norm, out), input);
  } else {
    const bsconv::BSConvS layer(
        describe(bsconv::BSConvSOptions(in, out, {kernel[0], kernel[1]}).p(0.4)));
    expect_same_step(chain_of(layer, with_norm, with_norm, out), input);
  }
}

INSTANTIATE_TEST_SUITE_P(Random, FusedGeometry, testing::Range(0, 60));

// Layers of the zoo's networks, whose rows and images are dealt out in bands. Of so many values
// some lie so near to a bend of the activation that rounding moves them across.
TEST(FusedLayers, StepsEqualLibTorchsOnImagesOfManyBands) {
  torch::manual_seed(9);
  for (const int64_t stride : {1, 2}) {
    const bsconv::BSConvU u(
        bsconv::BSConvUOptions(64, 64, 3).stride(stride).padding(1).bias(false));
    expect_same_step(chain_of(u, true, true, 64), torch::randn({3, 64, 70, 61}), 1e-3);
  }
  const bsconv::BSConvS s(
      bsconv::BSConvSOptions(64, 128, 5).padding(torch::kSame).bias(false).with_bn(true));
  expect_same_step(chain_of(s, true, false, 128), torch::randn({3, 64, 40, 37}));
}

// Images of few pixels wait for others before their gradients are added up.
TEST(FusedLayers, StepsEqualLibTorchsOnManySmallImages) {
  torch::manual_seed(11);
  for (const int64_t size : {1, 3, 5, 7}) {
    const bsconv::BSConvU u(bsconv::BSConvUOptions(24, 32, 3).padding(1).bias(false));
    expect_same_step(chain_of(u, true, true, 32), torch::randn({75, 24, size, size}), 1e-3);
    const bsconv::BSConvS s(bsconv::BSConvSOptions(40, 48, 3).padding(1).bias(false).with_bn(true));
    expect_same_step(chain_of(s, true, false, 48), torch::randn({75, 40, size, size}), 1e-3);
  }
}

// Values far from zero lose no more precision than LibTorch's.
TEST(FusedLayers, BatchNormOfValuesFarFromZero) {
  torch::manual_seed(5);
  expect_same_step(chain_of(BatchNorm2d(16), false, true, 16), torch::randn({4, 16, 9, 7}) + 1000,
                   1e-3);
}

// Unlike a batch normalization of its own, one in a layer never sees its input as a whole.
TEST(FusedLayers, InnerBatchNormsOfValuesFarFromZero) {
  for (const double mean : {100.0, 1000.0}) {
    torch::manual_seed(6);
    const auto x = torch::randn({4, 16, 9, 7}) + mean;
    expect_same_step(
        chain_of(bsconv::BSConvU(bsconv::BSConvUOptions(16, 32, 3).padding(1).with_bn(true)), true,
                 false, 32),
        x, 3e-6 * mean);
    // The gradient of its first weights cancels with LibTorch's operators, too.
    expect_same_step(
        chain_of(bsconv::BSConvS(bsconv::BSConvSOptions(16, 32, 3).padding(1).with_bn(true)), true,
                 false, 32),
        x, 1e-5 * mean);
    expect_same_step(
        chain_of(bsconv::BSConvU(bsconv::BSConvUOptions(3, 32, 3).padding(1).with_bn(true)), true,
                 false, 32),
        torch::randn({4, 3, 9, 7}) + mean, 3e-6 * mean);
  }
}

TEST(FusedLayers, BatchNormAloneAndWithActivation) {
  for (const bool with_relu : {false, true}) {
    expect_same_step(chain_of(BatchNorm2d(24), false, with_relu, 24),
                     torch::randn({4, 24, 9, 7}) * 3 + 2);
  }
  expect_same_step(chain_of(BatchNorm2d(torch::nn::BatchNormOptions(16).momentum(std::nullopt)),
                            false, true, 16),
                   torch::randn({4, 16, 9, 7}));
  expect_same_step(
      chain_of(BatchNorm2d(torch::nn::BatchNormOptions(16).affine(false)), false, true, 16),
      torch::randn({4, 16, 9, 7}));
  expect_same_step(chain_of(BatchNorm2d(torch::nn::BatchNormOptions(16).track_running_stats(false)),
                            false, true, 16),
                   torch::randn({4, 16, 9, 7}));
}

// Whoever keeps running statistics, as a plan for inference does, sees that a step changes them.
TEST(FusedLayers, RunningStatisticsSayThatTheyHaveChanged) {
  BatchNorm2d norm(16);
  auto layer = chain_of(norm, false, true, 16);
  layer->train();
  for (const auto& buffer : {norm->running_mean, norm->running_var, norm->num_batches_tracked}) {
    const auto before = buffer._version();
    layer->forward(torch::randn({4, 16, 9, 7}));
    EXPECT_GT(buffer._version(), before);
  }
}

// Shortcuts of residual networks, expansions of MobileNets.
TEST(FusedLayers, PointwiseConvolutions) {
  torch::manual_seed(8);
  for (const auto& [in, out] :
       {std::pair<int64_t, int64_t>{16, 32}, {24, 8}, {64, 128}, {8, 200}}) {
    for (const std::vector<int64_t>& stride : {std::vector<int64_t>{1, 1}, {2, 2}, {1, 3}}) {
      SCOPED_TRACE(c10::str(in, " to ", out, " stride ", stride));
      const Conv2d conv(Conv2dOptions(in, out, 1).stride(stride).bias(false));
      auto layer = chain_of(conv, true, true, out);
      EXPECT_THAT(operators_of(*layer, torch::randn({3, in, 9, 10})),
                  HasSubstr("PointwiseFunction"));
      expect_same_step(layer, torch::randn({3, in, 9, 10}) + 0.5);
    }
  }
}

TEST(FusedLayers, PointwiseConvolutionsThatAreLibTorchs) {
  const auto operators = [](const Conv2dOptions& options, int64_t in = 16) {
    auto layer = chain_of(Conv2d(options), true, true, 32);
    layer->train();
    return operators_of(*layer, torch::randn({3, in, 9, 10}));
  };
  const auto options = [] { return Conv2dOptions(16, 32, 1).bias(false); };
  EXPECT_THAT(operators(options()), HasSubstr("PointwiseFunction"));
  for (const auto& other :
       {options().bias(true), options().padding(1), options().groups(4),
        options().padding(torch::kSame), Conv2dOptions(16, 32, 3).bias(false)}) {
    EXPECT_THAT(operators(other), Not(HasSubstr("PointwiseFunction")));
  }
  // Channels that no vector divides.
  EXPECT_THAT(operators(Conv2dOptions(3, 32, 1).bias(false), 3),
              Not(HasSubstr("PointwiseFunction")));
}

// Classes that derive from LibTorch's and have a forward of their own.
struct StandardizedConvImpl : torch::nn::Conv2dImpl {
  using torch::nn::Conv2dImpl::Conv2dImpl;
  torch::Tensor forward(const torch::Tensor& x) {
    return torch::conv2d(x, weight - weight.mean({1, 2, 3}, true));
  }
};
TORCH_MODULE(StandardizedConv);

struct ShiftedReluImpl : torch::nn::ReLUImpl {
  torch::Tensor forward(const torch::Tensor& x) { return torch::relu(x + 1); }
};
TORCH_MODULE(ShiftedRelu);

struct HalvedNormImpl : torch::nn::BatchNorm2dImpl {
  using torch::nn::BatchNorm2dImpl::BatchNorm2dImpl;
  torch::Tensor forward(const torch::Tensor& x) { return BatchNorm2dImpl::forward(x) / 2; }
};
TORCH_MODULE(HalvedNorm);

TEST(FusedLayers, ClassesOfOnesOwnRunTheirOwnForward) {
  torch::manual_seed(7);
  const auto input = torch::randn({3, 16, 9, 10});
  const auto expect_own_forward = [&input](bsconv::Chain chain) {
    chain->train();
    const auto output = [&](bool fused) {
      const FusedTrainingGuard guard(fused);
      return chain->forward(input);
    };
    EXPECT_TRUE(torch::allclose(output(true), output(false), 1e-4, 1e-5));
  };
  bsconv::Chain conv;
  conv->push_back("conv", StandardizedConv(Conv2dOptions(16, 32, 1).bias(false)));
  conv->push_back("norm", BatchNorm2d(32));
  expect_own_forward(conv);
  bsconv::Chain relu;
  relu->push_back("conv", bsconv::BSConvU(16, 32, 3));
  relu->push_back("norm", BatchNorm2d(32));
  relu->push_back("relu", ShiftedRelu());
  expect_own_forward(relu);
  bsconv::Chain norm;
  norm->push_back("conv", bsconv::BSConvU(16, 32, 3));
  norm->push_back("norm", HalvedNorm(32));
  expect_own_forward(norm);
}

// Images in, `data_bn` in front of networks: some pixels together fill the vectors.
TEST(FusedLayers, BatchNormOfChannelsThatFillNoVector) {
  torch::manual_seed(6);
  for (const int64_t channels : {1, 3, 5, 12, 17}) {
    for (const bool with_relu : {false, true}) {
      SCOPED_TRACE(channels);
      expect_same_step(chain_of(BatchNorm2d(channels), false, with_relu, channels),
                       torch::randn({4, channels, 6, 16}) * 3 + 2);
    }
  }
  auto odd = chain_of(BatchNorm2d(3), false, true, 3);
  odd->train();
  EXPECT_FALSE(is_fused(*odd, torch::randn({4, 3, 5, 5})));
}

TEST(FusedLayers, UnitsOfNetworks) {
  for (const std::string name :
       {"cifar_resnet20_bsconvu", "cifar_resnet20_bsconvs_p1d4", "cifar_resnet20",
        "cifar_preresnet20_bsconvu", "cifar_preresnet20_bsconvs_p1d4", "cifar_preresnet20"}) {
    SCOPED_TRACE(name);
    torch::manual_seed(3);
    auto model = bsconv::create_model(name);
    expect_same_step(model, torch::rand({4, 3, 16, 16}), 1e-3);
  }
}

TEST(FusedLayers, OneThreadAndManyGiveTheSame) {
  const int threads = torch::get_num_threads();
  torch::manual_seed(4);
  auto layer = chain_of(bsconv::BSConvS(bsconv::BSConvSOptions(16, 16, 3).padding(1).with_bn(true)),
                        true, true, 16);
  layer->train();
  const auto input = torch::randn({7, 16, 12, 12});
  torch::set_num_threads(1);
  const auto one = step(*copy_of(layer), input, true);
  torch::set_num_threads(3);
  const auto many = step(*copy_of(layer), input, true);
  torch::set_num_threads(threads);
  for (std::size_t i = 0; i < one.size(); ++i) {
    EXPECT_TRUE(torch::equal(one[i].second, many[i].second)) << one[i].first;
  }
}

TEST(FusedLayers, LibTorchDoesWhatTheKernelsDoNot) {
  const auto layer = [](const bsconv::BSConvUOptions& options) {
    auto chain = chain_of(bsconv::BSConvU(options), false, false, options.out_channels());
    chain->train();
    return chain;
  };
  const auto input = torch::randn({2, 8, 9, 9});
  const auto plain = bsconv::BSConvUOptions(8, 16, 3).padding(1);
  EXPECT_TRUE(is_fused(*layer(plain), input));
  EXPECT_FALSE(is_fused(*layer(bsconv::BSConvUOptions(8, 15, 3)), input));
  EXPECT_FALSE(
      is_fused(*layer(bsconv::BSConvUOptions(plain).padding_mode(torch::kReflect)), input));
  EXPECT_FALSE(is_fused(*layer(bsconv::BSConvUOptions(plain).padding(5)), input));
  auto evaluated = layer(plain);
  evaluated->eval();
  EXPECT_FALSE(is_fused(*evaluated, input));
  {
    const FusedTrainingGuard off(false);
    EXPECT_FALSE(bsconv::fused_training_enabled());
    EXPECT_FALSE(is_fused(*layer(plain), input));
  }
  auto twice = layer(plain);
  twice->to(torch::kDouble);
  EXPECT_FALSE(is_fused(*twice, input.to(torch::kDouble)));
}

// A batch normalization of one value a channel has no statistics: LibTorch says so.
TEST(FusedLayers, ErrorsAreLibTorchs) {
  auto layer =
      chain_of(bsconv::BSConvU(bsconv::BSConvUOptions(8, 8, 3).with_bn(true)), true, true, 8);
  const auto expect_librarys_error = [](bsconv::Layer model, const torch::Tensor& input) {
    model->train();
    const auto error = [&](bool fused) {
      const FusedTrainingGuard guard(fused);
      return error_of([&] { model->forward(input); });
    };
    EXPECT_NE(error(false), "no error");
    EXPECT_EQ(error(true), error(false));
  };
  expect_librarys_error(layer, torch::randn({1, 8, 3, 3}));
  expect_librarys_error(layer, torch::randn({1, 8, 2, 2}));
  // A kernel that is larger than the image.
  auto strided =
      chain_of(bsconv::BSConvU(bsconv::BSConvUOptions(8, 8, 3).stride(2)), true, true, 8);
  expect_librarys_error(strided, torch::randn({4, 8, 2, 2}));
}

}  // namespace
}  // namespace nn_fused_layers_test
