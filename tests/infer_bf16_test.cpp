// SPDX-License-Identifier: BSD-3-Clause-Clear
// Optimized models whose convolutions are computed in bf16 on the CPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/infer.hpp>

#include <algorithm>
#include <cstdint>
#include <string>

#include "support/golden.hpp"
#include "support/layers.hpp"

namespace infer_bf16_test {
namespace {

using bsconv_test::adapt;
using testing::HasSubstr;
using torch::nn::Conv2d;
using torch::nn::Conv2dOptions;

bsconv::OptimizeOptions in_bf16() { return bsconv::OptimizeOptions().dtype(torch::kBFloat16); }

torch::Tensor rounded(const torch::Tensor& x) { return x.to(torch::kBFloat16).to(torch::kDouble); }

double distance(const torch::Tensor& a, const torch::Tensor& b) {
  return (a.to(torch::kDouble) - b.to(torch::kDouble)).abs().max().item<double>();
}

class OptimizeBf16 : public testing::Test {
 protected:
  void SetUp() override {
    if (bsconv::kernels::bf16_kernels() == nullptr) {
      GTEST_SKIP() << "this processor has no AVX512-BF16";
    }
    torch::manual_seed(3);
  }
};

// Sums of products of rounded numbers are exact but for the order of the sum.
TEST_F(OptimizeBf16, ConvolutionsEqualThoseOfRoundedNumbers) {
  const torch::NoGradGuard no_grad;
  const auto draw = [](int64_t low, int64_t high) {
    return torch::randint(low, high + 1, {1}).item<int64_t>();
  };
  for (int round = 0; round < 60; ++round) {
    const int64_t in = 2 * draw(3, 60);
    const int64_t out = draw(1, 130);
    const int64_t kernel = 2 * draw(0, 2) + 1;
    const int64_t stride = draw(1, 2);
    const int64_t padding = draw(0, kernel / 2);
    const int64_t dilation = draw(1, 2);
    // The last ones are larger than what is rounded at a time.
    const int64_t size = round < 50 ? draw(9, 24) : draw(60, 90);
    const auto x = torch::randn({2, in, size, size + draw(0, 3)});
    SCOPED_TRACE(c10::str(in, " to ", out, " kernel ", kernel, " stride ", stride, " padding ",
                          padding, " dilation ", dilation, " input ", x.sizes()));
    bsconv::Chain model;
    const Conv2d conv(
        Conv2dOptions(in, out, kernel).stride(stride).padding(padding).dilation(dilation));
    model->push_back("conv", conv);
    model->eval();
    const auto fast = bsconv::optimize(model, x, in_bf16());
    EXPECT_EQ(fast.report().eager, "");
    EXPECT_EQ(fast.report().kernels, "avx512_bf16");
    const auto exact = torch::conv2d(rounded(x), rounded(conv->weight),
                                     conv->bias.to(torch::kDouble), stride, padding, dilation);
    EXPECT_LE(distance(fast(x), exact), 1e-4 * exact.abs().mean().item<double>());
  }
}

// Odd numbers of channels, and planes, whose pairs are adjacent pixels.
TEST_F(OptimizeBf16, OddAndFewChannels) {
  const torch::NoGradGuard no_grad;
  for (const int64_t in : {1, 3, 4, 5, 17}) {
    for (const int64_t kernel : {1, 2, 3, 7}) {
      for (const int64_t dilation : {1, 2}) {
        SCOPED_TRACE(c10::str(in, " channels, kernel ", kernel, ", dilation ", dilation));
        bsconv::Chain model;
        const Conv2d conv(
            Conv2dOptions(in, 20, kernel).padding(kernel / 2).stride(2).dilation(dilation));
        model->push_back("conv", conv);
        model->eval();
        const auto x = torch::randn({1, in, 21, 24});
        // Planes have no pairs in windows of one pixel, or of pixels apart.
        const bool stays = in <= 4 && (kernel == 1 || dilation == 2);
        const auto exact = [&](const torch::Tensor& numbers) {
          return stays ? numbers.to(torch::kDouble) : rounded(numbers);
        };
        const auto expected = torch::conv2d(exact(x), exact(conv->weight),
                                            conv->bias.to(torch::kDouble), 2, kernel / 2, dilation);
        const auto fast = bsconv::optimize(model, x, in_bf16());
        EXPECT_EQ(fast.report().eager, "");
        EXPECT_LE(distance(fast(x), expected), 1e-4 * expected.abs().mean().item<double>());
      }
    }
  }
}

// Some in bands of rows that several panels of channels go over, some shared by threads.
TEST_F(OptimizeBf16, PointwiseAndDepthwiseTogether) {
  const torch::NoGradGuard no_grad;
  const auto draw = [](int64_t low, int64_t high) {
    return torch::randint(low, high + 1, {1}).item<int64_t>();
  };
  const int threads = torch::get_num_threads();
  for (int round = 0; round < 40; ++round) {
    const int64_t in = draw(5, 150);
    const int64_t out = draw(1, 200);
    const int64_t kernel = 2 * draw(1, 2) + 1;
    const int64_t stride = draw(1, 2);
    const int64_t padding = draw(0, kernel / 2);
    const int64_t size = draw(7, 70);
    SCOPED_TRACE(c10::str(in, " to ", out, " kernel ", kernel, " stride ", stride, " padding ",
                          padding, " size ", size));
    const Conv2d pointwise(Conv2dOptions(in, out, 1));
    const Conv2d depthwise(
        Conv2dOptions(out, out, kernel).stride(stride).padding(padding).groups(out));
    bsconv::Chain model;
    model->push_back("pointwise", pointwise);
    model->push_back("depthwise", depthwise);
    model->eval();
    const auto x = torch::randn({1, in, size, size + draw(0, 9)});
    const auto expected = torch::conv2d(
        torch::conv2d(rounded(x), rounded(pointwise->weight), pointwise->bias.to(torch::kDouble)),
        depthwise->weight.to(torch::kDouble), depthwise->bias.to(torch::kDouble), stride, padding,
        1, out);
    const auto fast = bsconv::optimize(model, x, in_bf16());
    EXPECT_EQ(fast.report().eager, "");
    torch::set_num_threads(round % 2 + 1);
    EXPECT_LE(distance(fast(x), expected), 1e-4 * expected.abs().mean().item<double>());
    torch::set_num_threads(threads);
  }
}

// A block whose shortcut reads in 32 bits what its convolutions read in bf16.
struct BlockImpl : torch::nn::Module {
  BlockImpl() {
    first = register_module("first", Conv2d(Conv2dOptions(20, 36, 1)));
    depthwise =
        register_module("depthwise", Conv2d(Conv2dOptions(36, 36, 3).padding(1).groups(36)));
    last = register_module("last", Conv2d(Conv2dOptions(36, 20, 1)));
    window = register_module("window", Conv2d(Conv2dOptions(20, 20, 3).padding(1)));
  }

  template <class Round>
  torch::Tensor run(torch::Tensor x, torch::ScalarType type, const Round& round) {
    const auto convolve = [&](const torch::Tensor& from, const Conv2d& conv, bool rounds) {
      const auto& options = conv->options;
      const auto padding = std::get<torch::ExpandingArray<2>>(options.padding());
      return torch::conv2d(
          rounds ? round(from) : from, rounds ? round(conv->weight) : conv->weight.to(type),
          conv->bias.to(type), options.stride(), padding, options.dilation(), options.groups());
    };
    for (int i = 0; i < 2; ++i) {
      const auto middle = torch::relu(convolve(convolve(x, first, true), depthwise, false));
      x = torch::relu(convolve(middle, last, true) + x);
      x = torch::relu(convolve(x, window, true)) + x;
    }
    return x;
  }

  torch::Tensor forward(const torch::Tensor& x) {
    return run(x, torch::kFloat, [](const torch::Tensor& same) { return same; });
  }

  Conv2d first{nullptr};
  Conv2d depthwise{nullptr};
  Conv2d last{nullptr};
  Conv2d window{nullptr};
};
TORCH_MODULE(Block);

TEST_F(OptimizeBf16, ImagesBetweenLayersAreRoundedWhereConvolutionsReadThem) {
  const torch::NoGradGuard no_grad;
  Block block;
  block->eval();
  const auto x = torch::randn({2, 20, 19, 23});
  const auto expected = block->run(x.to(torch::kDouble), torch::kDouble, rounded);
  const auto fast = bsconv::optimize(block, x, in_bf16());
  EXPECT_EQ(fast.report().eager, "");
  EXPECT_EQ(fast.report().fallbacks(), 0U);
  const auto got = fast(x).to(torch::kDouble);
  const double mean = expected.abs().mean().item<double>();
  // Some numbers lie so near to the middle of two in bf16 that the order of a sum decides.
  EXPECT_LE((got - expected).abs().mean().item<double>(), 1e-4 * mean);
  EXPECT_GE((block->forward(x) - expected).abs().mean().item<double>(), 5e-4 * mean);
}

// As near to 32 bits as LibTorch's operators in bf16, or nearer than 2 % of the mean.
TEST_F(OptimizeBf16, ModelsOfTheZoo) {
  const torch::NoGradGuard no_grad;
  for (const std::string name :
       {"cifar_resnet20", "cifar_resnet20_bsconvu", "cifar_resnet20_bsconvs_p1d4",
        "cifar_preresnet20_bsconvu", "cifar_wrn16_4_bsconvs_p1d4", "cifar_mobilenetv1_w1_bsconvu",
        "cifar_mobilenetv2_w1", "cifar_mobilenetv3_small_w1_bsconvs_p1d6", "resnet10_bsconvu"}) {
    SCOPED_TRACE(name);
    auto model = bsconv::create_model(name, bsconv::ModelOptions().num_classes(17));
    bsconv_test::fill(*model, 2);
    model->eval();
    const int64_t size = name.rfind("cifar_", 0) == 0 ? 32 : 64;
    adapt(model, torch::randn({4, 3, size, size}));
    const auto x = torch::randn({2, 3, size, size});
    const auto expected = model->forward(x);
    const auto fast = bsconv::optimize(model, x, in_bf16());
    EXPECT_EQ(fast.report().eager, "");
    EXPECT_EQ(fast.report().fallbacks(), 0U);
    double allowed = 2e-2 * expected.abs().mean().item<double>();
    {
      const bsconv::detail::AutocastScope autocast(torch::kCPU, torch::kBFloat16);
      allowed = std::max(allowed, 2 * distance(model->forward(x), expected));
    }
    const auto got = fast(x);
    EXPECT_EQ(got.scalar_type(), torch::kFloat);
    EXPECT_LE(distance(got, expected), allowed);
    // It is not in 32 bits either.
    EXPECT_GT(distance(got, expected), 1e-5 * expected.abs().mean().item<double>());
  }
}

TEST_F(OptimizeBf16, ThreadsOfACallGiveTheSame) {
  const torch::NoGradGuard no_grad;
  auto model = bsconv::create_model("cifar_resnet20_bsconvs_p1d4");
  bsconv_test::fill(*model, 2);
  model->eval();
  const auto x = torch::randn({3, 3, 32, 32});
  const auto fast = bsconv::optimize(model, x, in_bf16());
  const int threads = torch::get_num_threads();
  torch::set_num_threads(1);
  const auto one = fast(x);
  torch::set_num_threads(2);
  const auto several = fast(x);
  const auto single = fast(x.narrow(0, 1, 1));
  torch::set_num_threads(threads);
  EXPECT_TRUE(torch::equal(one, several));
  EXPECT_TRUE(torch::equal(single, one.narrow(0, 1, 1)));
}

TEST(OptimizeBf16Errors, SayWhatIsValid) {
  const auto x = torch::rand({1, 3, 4, 4});
  const auto error_of = [&](const bsconv::OptimizeOptions& options) -> std::string {
    bsconv::Chain model;
    model->eval();
    try {
      static_cast<void>(bsconv::optimize(model, x, options));
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "no error";
  };
  EXPECT_THAT(error_of(bsconv::OptimizeOptions().dtype(torch::kHalf)),
              HasSubstr("on the CPU the dtype must be float32 or bfloat16, got Half"));
  if (bsconv::kernels::bf16_kernels() == nullptr) {
    EXPECT_THAT(error_of(in_bf16()), HasSubstr("no instructions for bfloat16"));
  } else {
    EXPECT_THAT(error_of(in_bf16().kernels("avx2")),
                HasSubstr("in bfloat16 the kernels must be avx512_bf16, got avx2"));
  }
}

}  // namespace
}  // namespace infer_bf16_test
