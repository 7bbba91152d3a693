// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <bsconv/export.hpp>
#include <bsconv/infer.hpp>
#include <bsconv/nn/any_layer.hpp>
#include <bsconv/nn/bsconv_u.hpp>
#include <bsconv/nn/composite.hpp>

#include <filesystem>
#include <memory>
#include <type_traits>

#include "test_files.hpp"

namespace nn_any_layer_test {
namespace {

using bsconv::AnyLayer;

TEST(AnyLayer, RunsWhatAHolderHolds) {
  const auto input = torch::randn({2, 3, 8, 8});
  torch::nn::Conv2d conv(3, 5, 3);
  AnyLayer layer = conv;
  EXPECT_TRUE(torch::equal(layer.forward(input), conv->forward(input)));
  EXPECT_EQ(layer.ptr(), conv.ptr());

  bsconv::BSConvU blueprint(3, 5, 3);
  EXPECT_TRUE(torch::equal(AnyLayer(blueprint).forward(input), blueprint->forward(input)));
}

TEST(AnyLayer, RunsModulesWithDefaultArguments) {
  const auto input = torch::randn({2, 3, 8, 8});
  torch::nn::ConvTranspose2d conv(torch::nn::ConvTranspose2dOptions(3, 5, 2).stride(2));
  EXPECT_TRUE(torch::equal(AnyLayer(conv).forward(input), conv->forward(input)));
}

TEST(AnyLayer, RunsLayersThroughTheirVirtualForward) {
  const auto input = torch::randn({2, 3});
  bsconv::Chain chain;
  chain->push_back("fc", torch::nn::Linear(3, 4)).push_back("relu", torch::nn::ReLU());
  AnyLayer layer = bsconv::Layer(chain);
  EXPECT_TRUE(torch::equal(layer.forward(input), chain->forward(input)));
}

TEST(AnyLayer, TakesAnyModules) {
  const auto input = torch::randn({2, 3});
  torch::nn::Linear linear(3, 4);
  AnyLayer layer = torch::nn::AnyModule(linear);
  EXPECT_TRUE(torch::equal(layer.forward(input), linear->forward(input)));
  EXPECT_EQ(layer.ptr(), linear.ptr());
}

/// A model as LibTorch's tutorials write it: without a holder.
struct Net : torch::nn::Cloneable<Net> {
  Net() { reset(); }
  void reset() override { conv = register_module("conv", torch::nn::Conv2d(3, 5, 3)); }
  torch::Tensor forward(torch::Tensor x) { return torch::relu(conv(x)); }
  torch::nn::Conv2d conv{nullptr};
};

TEST(AnyLayer, TakesPointers) {
  const auto input = torch::randn({2, 3, 8, 8});
  const auto net = std::make_shared<Net>();
  AnyLayer layer = net;
  EXPECT_TRUE(torch::equal(layer.forward(input), net->forward(input)));
  EXPECT_EQ(layer.ptr(), net);
  AnyLayer copy = layer.clone();
  EXPECT_NE(copy.ptr(), layer.ptr());
  EXPECT_TRUE(torch::equal(copy.forward(input), net->forward(input)));
  EXPECT_THROW(AnyLayer{std::shared_ptr<Net>()}, c10::ValueError);
  static_assert(!std::is_convertible_v<std::shared_ptr<torch::nn::Module>, AnyLayer>);
}

TEST(AnyLayer, LetsPointersBeOptimizedAndExported) {
  const auto net = std::make_shared<Net>();
  net->eval();
  const torch::NoGradGuard no_grad;
  const auto input = torch::randn({2, 3, 8, 8});
  const auto fast = bsconv::optimize(net, input);
  EXPECT_TRUE(torch::allclose(fast(input), net->forward(input), 1e-4, 1e-4));
  const bsconv_test::TemporaryDirectory directory;
  bsconv::export_onnx(net, input, directory / "net.onnx");
  EXPECT_TRUE(std::filesystem::exists(directory / "net.onnx"));
}

TEST(AnyLayer, ClonesDeeply) {
  const auto input = torch::randn({2, 3});
  for (AnyLayer layer : {AnyLayer(torch::nn::Linear(3, 4)),
                         AnyLayer(torch::nn::AnyModule(torch::nn::Linear(3, 4)))}) {
    const auto before = layer.forward(input);
    AnyLayer copy = layer.clone();
    EXPECT_NE(copy.ptr(), layer.ptr());
    const torch::NoGradGuard no_grad;
    copy.ptr()->parameters()[0].zero_();
    EXPECT_TRUE(torch::equal(layer.forward(input), before));
    EXPECT_FALSE(torch::equal(copy.forward(input), before));
  }
}

TEST(AnyLayer, RefusesAnEmptyHolder) {
  const torch::nn::Linear empty{nullptr};
  EXPECT_THROW(AnyLayer{empty}, c10::Error);
}

}  // namespace
}  // namespace nn_any_layer_test
