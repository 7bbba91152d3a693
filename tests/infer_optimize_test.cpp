// SPDX-License-Identifier: BSD-3-Clause-Clear
// Optimized models against the models they were made of.
#include <gmock/gmock.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/infer.hpp>

#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "support/function.hpp"
#include "support/golden.hpp"
#include "support/layers.hpp"
#include "test_files.hpp"

namespace infer_optimize_test {
namespace {

using bsconv_test::adapt;
using bsconv_test::error_of;
using testing::HasSubstr;

// Weights and statistics like those of a trained model.
template <class Model>
void settle(Model& model, uint64_t seed = 2) {
  bsconv_test::fill(*model, seed);
  model->eval();
}

void expect_equal(const torch::Tensor& got, const torch::Tensor& expected,
                  const std::string& what) {
  ASSERT_EQ(got.sizes(), expected.sizes()) << what;
  const double scale = expected.abs().mean().item<double>();
  const double error = (got - expected).abs().max().item<double>();
  EXPECT_LE(error, 1e-4 * scale + 1e-7) << what;
}

class OptimizeZoo : public testing::TestWithParam<std::string> {};

// Every name of the golden file but for the deepest, which consist of the same parts.
TEST_P(OptimizeZoo, EqualsLibTorch) {
  const torch::NoGradGuard no_grad;
  for (const auto& row : bsconv_test::golden_lines("models.jsonl")) {
    const auto name = row.at("name").get<std::string>();
    if (name.rfind(GetParam(), 0) != 0 || name.find("02") != std::string::npos ||
        name.find("_10") != std::string::npos) {
      continue;
    }
    auto model = bsconv::create_model(name, bsconv::ModelOptions().num_classes(17));
    settle(model);
    const bool cifar = name.rfind("cifar_", 0) == 0;
    const auto x = torch::randn({cifar ? 2 : 1, 3, cifar ? 32 : 96, cifar ? 32 : 96});
    adapt(model, x.size(2) == 32 ? x : torch::randn({2, 3, 96, 96}));
    const auto fast = bsconv::optimize(model, x);
    EXPECT_EQ(fast.report().eager, "") << name;
    EXPECT_EQ(fast.report().fallbacks(), 0U) << name << fast.report();
    expect_equal(fast(x), model->forward(x), name);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, OptimizeZoo,
                         testing::Values("cifar_resnet", "cifar_preresnet", "cifar_wrn",
                                         "cifar_mobilenet", "resnet", "preresnet", "mobilenet"));

class OptimizeKernels : public testing::TestWithParam<const bsconv::kernels::KernelTable*> {};

TEST_P(OptimizeKernels, AnyBatchAndImageSize) {
  const torch::NoGradGuard no_grad;
  const auto options = bsconv::OptimizeOptions().kernels(GetParam()->name);
  for (const std::string name :
       {"cifar_resnet20_bsconvu", "cifar_preresnet20_bsconvs_p1d4", "cifar_mobilenetv3_small_w1",
        "cifar_mobilenetv2_w1_bsconvs_p1d6", "cifar_resnet20", "resnet10_bsconvs_p1d4"}) {
    auto model = bsconv::create_model(name, bsconv::ModelOptions().num_classes(5));
    settle(model);
    const auto fast = bsconv::optimize(model, torch::randn({1, 3, 32, 32}), options);
    for (const auto& shape : std::vector<std::vector<int64_t>>{
             {1, 3, 32, 32}, {2, 3, 33, 31}, {7, 3, 40, 24}, {64, 3, 32, 32}, {1, 3, 65, 63}}) {
      const auto x = torch::randn(shape);
      expect_equal(fast(x), model->forward(x), name + " " + c10::str(x.sizes()));
      EXPECT_EQ(fast.report(x).eager, "") << fast.report(x);
    }
    EXPECT_EQ(fast.report().kernels, GetParam()->name);
  }
}

INSTANTIATE_TEST_SUITE_P(Available, OptimizeKernels,
                         testing::ValuesIn(bsconv::kernels::available_kernels()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST(Optimize, LargeOddImage) {
  const torch::NoGradGuard no_grad;
  auto model = bsconv::create_model("mobilenetv2_w1d4");
  settle(model);
  const auto x = torch::randn({1, 3, 225, 223});
  const auto fast = bsconv::optimize(model, x);
  EXPECT_EQ(fast.report().eager, "");
  expect_equal(fast(x), model->forward(x), "225x223");
}

// Images that the second-level cache doesn't hold go through the panels of channels in bands.
TEST(Optimize, LargeImagesOfManyChannels) {
  const torch::NoGradGuard no_grad;
  struct Geometry {
    int64_t kernel, stride, dilation;
  };
  const int before = torch::get_num_threads();
  for (const auto& [kernel, stride, dilation] :
       {Geometry{3, 1, 1}, {3, 2, 1}, {5, 1, 1}, {3, 1, 2}, {2, 3, 1}, {1, 2, 1}}) {
    torch::nn::Sequential model(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 61, 1)),
                                torch::nn::Conv2d(torch::nn::Conv2dOptions(61, 83, 1)),
                                torch::nn::Conv2d(torch::nn::Conv2dOptions(83, 83, kernel)
                                                      .groups(83)
                                                      .stride(stride)
                                                      .padding(kernel / 2 * dilation)
                                                      .dilation(dilation)),
                                torch::nn::ReLU(),
                                torch::nn::Conv2d(torch::nn::Conv2dOptions(83, 70, 1)));
    settle(model);
    const auto x = torch::randn({1, 3, 101, 93});
    const auto expected = model->forward(x);
    for (const int threads : {1, 3}) {
      torch::set_num_threads(threads);
      const auto fast = bsconv::optimize(model, x);
      const auto what = c10::str("kernel ", kernel, ", stride ", stride, ", dilation ", dilation,
                                 ", threads ", threads);
      expect_equal(fast(x), expected, what);
      EXPECT_EQ(fast.report().eager, "") << what;
      EXPECT_EQ(fast.report().fallbacks(), 0U) << what;
    }
  }
  torch::set_num_threads(before);
}

// Stacks of layers drawn at random: geometry, channels, blocks, activations, branches.
torch::nn::AnyModule random_layer(int64_t& channels) {
  const auto draw = [](int64_t n) { return torch::randint(n, {}).item<int64_t>(); };
  const int64_t widths[] = {3, 5, 16, 17, 32, 100, 24};
  const int64_t kernel = 1 + draw(5);
  const int64_t dilation = 1 + draw(2);
  const int64_t stride = 1 + draw(2);
  const int64_t padding = draw(1 + kernel * dilation / 2);
  const int64_t in = channels;
  const auto geometry = [&](auto options) {
    options.stride(stride).padding(padding).dilation(dilation).bias(draw(2) == 0);
    return options;
  };
  switch (draw(9)) {
    case 0:
      channels = widths[draw(7)];
      return torch::nn::AnyModule(
          torch::nn::Conv2d(geometry(torch::nn::Conv2dOptions(in, channels, kernel))));
    case 1:
      return torch::nn::AnyModule(
          torch::nn::Conv2d(geometry(torch::nn::Conv2dOptions(in, in, kernel)).groups(in)));
    case 2:
      channels = widths[draw(7)];
      return torch::nn::AnyModule(bsconv::BSConvU(
          geometry(bsconv::BSConvUOptions(in, channels, kernel)).with_bn(draw(2) == 0)));
    case 3:
      channels = widths[draw(7)];
      return torch::nn::AnyModule(bsconv::BSConvS(
          geometry(bsconv::BSConvSOptions(in, channels, kernel)).with_bn(draw(2) == 0)));
    case 4:
      return torch::nn::AnyModule(torch::nn::BatchNorm2d(in));
    case 5:
      return draw(2) == 0 ? torch::nn::AnyModule(torch::nn::ReLU())
                          : torch::nn::AnyModule(torch::nn::ReLU6());
    case 6:
      return draw(2) == 0
                 ? torch::nn::AnyModule(
                       torch::nn::MaxPool2d(torch::nn::MaxPool2dOptions(3).stride(2).padding(1)))
                 : torch::nn::AnyModule(
                       torch::nn::AvgPool2d(torch::nn::AvgPool2dOptions(3).stride(1).padding(1)));
    case 7:
      channels = widths[draw(7)];
      return torch::nn::AnyModule(torch::nn::Conv2d(torch::nn::Conv2dOptions(in, channels, 1)));
    default:
      // Nothing that the plan knows.
      return draw(2) == 0 ? torch::nn::AnyModule(torch::nn::Sigmoid())
                          : torch::nn::AnyModule(torch::nn::ReLU());
  }
}

struct RandomNetImpl : torch::nn::Module {
  RandomNetImpl() {
    int64_t channels = 3;
    const int64_t count = 3 + torch::randint(6, {}).item<int64_t>();
    for (int64_t i = 0; i < count; ++i) {
      layers.push_back(random_layer(channels));
      branches.push_back(torch::randint(3, {}).item<int64_t>());
      register_module(std::to_string(i), layers.back().ptr());
    }
    head = register_module("head", torch::nn::Linear(channels, 4));
  }
  torch::Tensor forward(torch::Tensor x) {
    for (std::size_t i = 0; i < layers.size(); ++i) {
      auto y = layers[i].forward(x);
      if (branches[i] == 1 && y.sizes() == x.sizes()) {
        y = torch::relu(y + x);
      } else if (branches[i] == 2) {
        y = y * torch::hardsigmoid(torch::adaptive_avg_pool2d(y, {1, 1}));
      }
      x = y;
    }
    return head->forward(torch::adaptive_avg_pool2d(x, {1, 1}).flatten(1));
  }
  std::vector<torch::nn::AnyModule> layers;
  std::vector<int64_t> branches;
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(RandomNet);

TEST(Optimize, RandomStacksEqualLibTorch) {
  const torch::NoGradGuard no_grad;
  int planned = 0;
  for (int64_t seed = 0; seed < 150; ++seed) {
    torch::manual_seed(seed);
    RandomNet net;
    settle(net, static_cast<uint64_t>(seed));
    const auto x = torch::randn({1 + seed % 3, 3, 41 + seed % 5, 37 + seed % 7});
    torch::Tensor expected;
    try {
      expected = net->forward(x);
    } catch (const c10::Error&) {
      continue;  // A kernel larger than what the layers before it left.
    }
    if (!expected.isfinite().all().item<bool>()) {
      continue;
    }
    const auto fast = bsconv::optimize(net, x);
    EXPECT_EQ(fast.report().eager, "") << "seed " << seed;
    expect_equal(fast(x), expected,
                 "seed " + std::to_string(seed) + "\n" + fast.report().to_string());
    ++planned;
  }
  EXPECT_GT(planned, 100);
}

TEST(Optimize, ReplacedUserModel) {
  const torch::NoGradGuard no_grad;
  torch::nn::Sequential net(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).padding(1)),
                            torch::nn::ReLU(),
                            torch::nn::Conv2d(torch::nn::Conv2dOptions(8, 12, 5).stride(2)),
                            torch::nn::Flatten(), torch::nn::Linear(12 * 14 * 14, 7));
  bsconv::replace_with_bsconv_s(net, bsconv::BSConvSReplacementOptions().with_bn(true));
  settle(net);
  const auto x = torch::randn({3, 3, 32, 32});
  const auto fast = bsconv::optimize(net, x);
  EXPECT_EQ(fast.report().fallbacks(), 0U) << fast.report();
  EXPECT_EQ(fast.report().eager, "");
  expect_equal(fast(x), net->forward(x), "replaced");
  bsconv::fuse(*net);
  const auto fused = bsconv::optimize(net, x);
  EXPECT_EQ(fused.report().eager, "");
  expect_equal(fused(x), net->forward(x), "fused");
}

struct GraftedImpl : torch::nn::Module {
  torch::Tensor forward(const torch::Tensor& x) { return torch::relu(conv->forward(x)); }
  torch::nn::Conv2d conv =
      register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).padding(1)));
};
TORCH_MODULE(Grafted);

TEST(Optimize, SeesWhatWasGraftedOntoTypedMembers) {
  const torch::NoGradGuard no_grad;
  Grafted net;
  net->eval();
  bsconv::replace_with_bsconv_u(net);
  const auto x = torch::randn({2, 3, 9, 9});
  const auto fast = bsconv::optimize(net, x);
  EXPECT_THAT(fast.report().to_string(), HasSubstr("depthwise 3x3 + relu"));
  expect_equal(fast(x), net->forward(x), "grafted");
}

// Operators that the plan doesn't know, before, between and after those that it knows.
struct MixedImpl : torch::nn::Module {
  torch::Tensor forward(const torch::Tensor& input) {
    auto x = torch::tanh(input);
    x = a->forward(x);
    x = torch::cat({torch::sigmoid(x), x}, 1);
    x = b->forward(x);
    x = x.sub(1.5).mul_(2.0).tanh_();
    auto parts = x.chunk(2, 1);
    x = parts[0] + parts[1];
    return torch::softmax(x.flatten(1), 1).reshape({-1, 4, x.size(2), x.size(3)});
  }
  torch::nn::Conv2d a =
      register_module("a", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 6, 3).padding(1)));
  torch::nn::Conv2d b = register_module(
      "b", torch::nn::Conv2d(torch::nn::Conv2dOptions(12, 8, 3).padding(1).groups(4)));
};
TORCH_MODULE(Mixed);

TEST(Optimize, OtherOperatorsRunThroughLibTorchAndAreReported) {
  const torch::NoGradGuard no_grad;
  Mixed net;
  net->eval();
  for (const int64_t batch : {1, 3}) {
    const auto x = torch::randn({batch, 3, 10, 8});
    const auto fast = bsconv::optimize(net, x);
    EXPECT_EQ(fast.report().eager, "");
    EXPECT_GT(fast.report().fallbacks(), 4U);
    EXPECT_THAT(fast.report().to_string(), HasSubstr("a convolution with 4 groups"));
    EXPECT_THAT(fast.report().to_string(), HasSubstr("aten::tanh"));
    const auto y = torch::randn({batch, 3, 10, 8});
    expect_equal(fast(y), net->forward(y), "mixed");
    expect_equal(fast(x), net->forward(x), "mixed again");
  }
}

struct BranchingImpl : torch::nn::Module {
  torch::Tensor forward(const torch::Tensor& x) {
    return x.sum().item<float>() > 0 ? torch::relu(x) : torch::tanh(x);
  }
};
TORCH_MODULE(Branching);

struct DrawingImpl : torch::nn::Module {
  torch::Tensor forward(const torch::Tensor& x) { return x + torch::rand_like(x); }
};
TORCH_MODULE(Drawing);

struct ConstantImpl : torch::nn::Module {
  torch::Tensor forward(const torch::Tensor&) { return torch::ones({1, 2}); }
};
TORCH_MODULE(Constant);

struct IdentityImpl : torch::nn::Module {
  torch::Tensor forward(const torch::Tensor& x) { return x; }
};
TORCH_MODULE(Identity);

template <class Model>
void expect_eager(Model model, const std::string& reason) {
  model->eval();
  const auto x = torch::ones({1, 3, 4, 4});
  const auto fast = bsconv::optimize(model, x);
  EXPECT_THAT(fast.report().eager, HasSubstr(reason));
  EXPECT_THAT(fast.report().to_string(), HasSubstr("Runs through LibTorch: "));
  torch::manual_seed(1);
  const auto expected = model->forward(-x);
  torch::manual_seed(1);
  EXPECT_TRUE(torch::equal(fast(-x), expected));
}

TEST(Optimize, WhatCannotBeWrittenDownRunsThroughLibTorch) {
  expect_eager(Branching(), "reads a number out of a tensor");
  expect_eager(Constant(), "the result does not depend on the input");
  expect_eager(Identity(), "the model returns its input");
  expect_eager(Drawing(), "differed from LibTorch");
}

TEST(Optimize, ManyThreadsShareOneObject) {
  const torch::NoGradGuard no_grad;
  auto model = bsconv::create_model("cifar_resnet20_bsconvs_p1d4");
  settle(model);
  adapt(model, torch::randn({4, 3, 32, 32}));
  const auto fast = bsconv::optimize(model, torch::randn({1, 3, 32, 32}));
  std::vector<torch::Tensor> inputs;
  std::vector<torch::Tensor> expected;
  for (int64_t i = 0; i < 4; ++i) {
    inputs.push_back(torch::randn({1 + i % 2, 3, 32, 32 + 2 * i}));
    expected.push_back(model->forward(inputs.back()));
    EXPECT_EQ(fast.report(inputs.back()).eager, "");
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < 50; ++i) {
        const std::size_t at = (t + i) % inputs.size();
        wrong += torch::allclose(fast(inputs[at]), expected[at], 1e-4, 1e-4) ? 0 : 1;
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(wrong, 0);
}

TEST(Optimize, SeveralThreadsWithinOneCall) {
  const torch::NoGradGuard no_grad;
  const int before = torch::get_num_threads();
  for (const std::string name : {"mobilenetv3_small_w1", "resnet10_bsconvu", "cifar_resnet20"}) {
    auto model = bsconv::create_model(name, bsconv::ModelOptions().num_classes(10));
    settle(model);
    for (const int64_t batch : {1, 2, 5}) {
      const auto x = torch::randn({batch, 3, 64, 64});
      torch::set_num_threads(1);
      const auto one = bsconv::optimize(model, x);
      EXPECT_EQ(one.report().eager, "");
      const auto expected = one(x);
      torch::set_num_threads(3);
      EXPECT_TRUE(torch::equal(bsconv::optimize(model, x)(x), expected)) << name << batch;
    }
  }
  torch::set_num_threads(before);
}

TEST(Optimize, TakesAnyStridesAndLeavesTheInputAlone) {
  const torch::NoGradGuard no_grad;
  torch::nn::Sequential net(torch::nn::ReLU(torch::nn::ReLUOptions(true)),
                            torch::nn::Conv2d(3, 4, 3));
  net->eval();
  const auto x = torch::randn({2, 3, 6, 5});
  const auto copy = x.clone();
  const auto fast = bsconv::optimize(net, x);
  const auto y = fast(x.to(torch::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(torch::equal(x, copy));
  expect_equal(y, net->forward(x.clone()), "channels last");
  EXPECT_EQ(fast(torch::empty({0, 3, 6, 5})).sizes(), (std::vector<int64_t>{0, 4, 4, 3}));
}

TEST(Optimize, KeepsOnlySomePlans) {
  const torch::NoGradGuard no_grad;
  const auto weight = torch::randn({4, 3, 3, 3});
  int calls = 0;
  bsconv_test::Function net([&](const torch::Tensor& x) {
    ++calls;
    return torch::conv2d(x, weight);
  });
  net->eval();
  const auto fast =
      bsconv::optimize(net, torch::zeros({1, 3, 8, 8}), bsconv::OptimizeOptions().max_plans(2));
  const auto calls_for = [&](int64_t size) {
    const auto x = torch::randn({1, 3, size, size});
    const int before = calls;
    expect_equal(fast(x), torch::conv2d(x, weight), std::to_string(size));
    return calls - before;
  };
  // A plan takes a run to see what the model does, and one to compare.
  EXPECT_EQ(calls_for(8), 0);
  EXPECT_EQ(calls_for(9), 2);
  EXPECT_EQ(calls_for(8), 0);
  EXPECT_EQ(calls_for(10), 2);
  EXPECT_EQ(calls_for(8), 0);
  EXPECT_EQ(calls_for(9), 2);
}

TEST(Optimize, DoesNotGrow) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the address sanitizer keeps freed memory";
#endif
  const torch::NoGradGuard no_grad;
  auto model = bsconv::create_model("cifar_resnet20_bsconvu");
  settle(model);
  const auto x = torch::randn({1, 3, 32, 32});
  const auto fast = bsconv::optimize(model, x);
  const auto bytes = [] { return static_cast<int64_t>(::mallinfo2().uordblks); };
  for (int i = 0; i < 100; ++i) {
    fast(x);
  }
  const int64_t before = bytes();
  for (int i = 0; i < 10'000; ++i) {
    fast(x);
  }
  EXPECT_LT(bytes() - before, 1 << 20);
}

TEST(OptimizeErrors, SayWhatIsWrong) {
  torch::nn::Sequential net(torch::nn::Conv2d(3, 4, 3), torch::nn::BatchNorm2d(4));
  const auto x = torch::randn({1, 3, 8, 8});
  EXPECT_THAT(error_of([&] { bsconv::optimize(net, x); }),
              HasSubstr("the model is in training mode; call eval() first"));
  net->eval();
  EXPECT_THAT(error_of([&] {
                bsconv::optimize(net, torch::zeros({3, 8, 8}));
              }),
              HasSubstr("must be [N, C, H, W] or [N, C], got [3, 8, 8]"));
  EXPECT_THAT(error_of([&] { bsconv::optimize(net, x.to(torch::kDouble)); }),
              HasSubstr("must be a float tensor on the CPU, got Double on cpu"));
  EXPECT_THAT(error_of([&] { bsconv::optimize(net, torch::Tensor()); }),
              HasSubstr("an undefined tensor"));
  EXPECT_THAT(
      error_of([&] { bsconv::optimize(net, x, bsconv::OptimizeOptions().kernels("sse9")); }),
      HasSubstr("no kernels 'sse9'"));
  EXPECT_THAT(error_of([&] { bsconv::optimize(net, x, bsconv::OptimizeOptions().max_plans(0)); }),
              HasSubstr("max_plans must be at least 1, got 0"));

  const auto fast = bsconv::optimize(net, x);
  EXPECT_THAT(error_of([&] {
                fast(torch::randn({1, 4, 8, 8}));
              }),
              HasSubstr("the input must be [N, 3, H, W], got [1, 4, 8, 8]"));
  EXPECT_THAT(error_of([&] {
                fast(torch::randn({3, 8, 8}));
              }),
              HasSubstr("the input must be [N, 3, H, W], got [3, 8, 8]"));
  EXPECT_THAT(error_of([&] { fast(x.to(torch::kHalf)); }), HasSubstr("got Half on cpu"));
  EXPECT_THAT(error_of([&] { fast(torch::Tensor()); }), HasSubstr("the input is undefined"));
  net[1]->train();
  EXPECT_THAT(error_of([&] { fast(x); }), HasSubstr("'1' is in training mode; call eval() first"));
  net->eval();
  EXPECT_EQ(error_of([&] { fast(x); }), "no error");
  {
    const torch::NoGradGuard no_grad;
    net->named_parameters()["0.weight"].mul_(2);
  }
  EXPECT_THAT(error_of([&] { fast(x); }),
              HasSubstr("'0.weight' has changed since optimize(); call optimize() again"));
}

// The layers that were there live on.
TEST(Optimize, SurvivesThatALayerIsExchanged) {
  torch::nn::Sequential net(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 3)));
  net->eval();
  const auto x = torch::randn({1, 3, 8, 8});
  const auto fast = bsconv::optimize(net, x);
  const auto expected = fast(x);
  bsconv::replace_with_bsconv_u(net);
  EXPECT_TRUE(torch::equal(fast(x), expected));
}

TEST(OptimizeErrors, NoticesAConvertedModel) {
  torch::nn::Sequential net(torch::nn::Conv2d(3, 4, 3));
  net->eval();
  const auto x = torch::randn({1, 3, 8, 8});
  const auto fast = bsconv::optimize(net, x);
  net->to(torch::kDouble);
  EXPECT_THAT(error_of([&] { fast(x); }), HasSubstr("has changed since optimize()"));
}

}  // namespace
}  // namespace infer_optimize_test
