// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gtest/gtest.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/pooling.h>
#include <torch/types.h>
#include <bsconv/fused_training.hpp>
#include <bsconv/nn.hpp>
#include <bsconv/replace.hpp>

#include <string>

// Tests are compiled several files at a time.
namespace nn_output_layout_test {
namespace {

constexpr auto channels_last = torch::MemoryFormat::ChannelsLast;

void use_channels_last(const torch::nn::Module& module) {
  const torch::NoGradGuard no_grad;
  for (auto& parameter : module.parameters()) {
    if (parameter.dim() == 4) {
      parameter.set_data(parameter.detach().contiguous(channels_last));
    }
  }
}

// The layout and numbers of `layer`'s result are those of LibTorch's operators.
template <class Layer>
void expect_layout_of_libtorch(Layer layer) {
  torch::manual_seed(1);
  layer->train();
  const auto images = torch::randn({2, 16, 8, 8});
  for (const bool last_weights : {false, true}) {
    if (last_weights) {
      use_channels_last(*layer);
    }
    for (const auto& input : {images, images.contiguous(channels_last)}) {
      torch::Tensor expected;
      {
        const bsconv::FusedTrainingGuard off(false);
        expected = layer->forward(input);
      }
      const auto output = layer->forward(input);
      EXPECT_EQ(output.strides(), expected.strides()) << last_weights << ' ' << input.strides();
      EXPECT_TRUE(torch::allclose(output, expected, 1e-4, 1e-5));
      EXPECT_TRUE(output.requires_grad());
    }
  }
}

TEST(NnOutputLayout, OfLayersIsThatOfLibTorch) {
  expect_layout_of_libtorch(bsconv::BSConvU(16, 24, 3));
  expect_layout_of_libtorch(bsconv::BSConvU(bsconv::BSConvUOptions(16, 24, 3).with_bn(true)));
  expect_layout_of_libtorch(bsconv::BSConvS(bsconv::BSConvSOptions(16, 24, 3).with_bn(true)));
}

TEST(NnOutputLayout, OfChainsIsThatOfLibTorch) {
  bsconv::Chain chain;
  chain->push_back("conv", bsconv::BSConvU(16, 24, 3))
      .push_back("bn", torch::nn::BatchNorm2d(24))
      .push_back("relu", torch::nn::ReLU());
  expect_layout_of_libtorch(chain);
}

TEST(NnOutputLayout, ViewsBehindReplacedConvolutionsWork) {
  struct Net : torch::nn::Module {
    torch::nn::Conv2d conv =
        register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(16, 24, 3).padding(1)));
    torch::Tensor forward(const torch::Tensor& x) {
      const auto pooled = torch::max_pool2d(torch::relu(conv(x)), 2);
      return pooled.view({x.size(0), -1});
    }
  };
  Net net;
  ASSERT_EQ(bsconv::replace_with_bsconv_u(net).replaced(), 1U);
  net.train();
  const auto images = torch::randn({2, 16, 8, 8});
  const auto output = net.forward(images);
  const bsconv::FusedTrainingGuard off(false);
  EXPECT_TRUE(torch::allclose(output, net.forward(images), 1e-4, 1e-5));
}

}  // namespace
}  // namespace nn_output_layout_test
