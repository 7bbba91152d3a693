// SPDX-License-Identifier: BSD-3-Clause-Clear
// Plans for GPUs, whose kernels are compiled for the CPU here.
#include <gmock/gmock.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/gpu/planner.hpp>
#include <bsconv/infer.hpp>
#include <bsconv/util/autocast_scope.hpp>
#ifdef BSCONV_HAS_CUDA
#include <bsconv/cuda.hpp>
#endif

#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "support/golden.hpp"
#include "support/host_gpu.hpp"
#include "support/layers.hpp"

namespace gpu_plan_test {
namespace {

using bsconv_test::error_of;
using bsconv_test::HostGpu;
using testing::HasSubstr;

struct Planned {
  std::shared_ptr<HostGpu> gpu;
  std::unique_ptr<bsconv::gpu::Plan> plan;
  torch::Tensor expected;
};

template <class Forward>
Planned plan(Forward&& forward, const torch::Tensor& example, torch::ScalarType dtype,
             uint32_t seed = 1) {
  auto captured = bsconv::infer::capture(forward, example);
  Planned result;
  result.gpu = std::make_shared<HostGpu>(BSCONV_TEST_COMPILER, seed);
  result.expected = captured.output;
  result.plan = bsconv::gpu::make_plan(std::make_shared<bsconv::gpu::Compiler>(result.gpu),
                                       std::move(captured.graph), example, dtype);
  return result;
}

void expect_near(const torch::Tensor& got, const torch::Tensor& expected, double tolerance) {
  ASSERT_EQ(got.sizes(), expected.sizes());
  ASSERT_EQ(got.scalar_type(), torch::kFloat);
  EXPECT_LE((got - expected).abs().max().item<double>(),
            tolerance * expected.abs().mean().item<double>());
}

bsconv::Layer adapted(const std::string& name, const torch::Tensor& images) {
  torch::manual_seed(4);
  auto model = bsconv::create_model(name, bsconv::ModelOptions().num_classes(10));
  bsconv_test::adapt(model, images);
  return model;
}

void expect_model(const std::string& name, const std::vector<int64_t>& sizes,
                  torch::ScalarType dtype = torch::kFloat) {
  SCOPED_TRACE(name);
  const torch::NoGradGuard no_grad;
  torch::manual_seed(5);
  const auto images = torch::rand(sizes);
  auto model = adapted(name, images);
  const auto made = plan([&](const torch::Tensor& x) { return model->forward(x); }, images, dtype);
  const auto report = made.plan->report();
  EXPECT_EQ(report.fallbacks(), 0U) << report;
  expect_near(made.plan->run(images), made.expected, made.plan->tolerance());
  const auto others = torch::rand(sizes);
  expect_near(made.plan->run(others), model->forward(others), made.plan->tolerance());
  EXPECT_GT(made.gpu->launches, 10);
}

TEST(GpuPlan, OfResNetsEqualsLibTorch) {
  expect_model("cifar_resnet20_bsconvu", {2, 3, 32, 32});
  expect_model("cifar_resnet20_bsconvs_p1d4", {1, 3, 33, 31}, torch::kHalf);
  expect_model("cifar_preresnet20_bsconvu", {1, 3, 16, 16}, torch::kBFloat16);
}

TEST(GpuPlan, OfMobileNetsEqualsLibTorch) {
  expect_model("cifar_mobilenetv2_w1d4_bsconvs_p1d6", {1, 3, 32, 32});
  expect_model("cifar_mobilenetv3_small_w7d20", {1, 3, 32, 32});
}

TEST(GpuPlan, OfImageNetModelsEqualsLibTorch) { expect_model("resnet10", {1, 3, 65, 63}); }

TEST(GpuPlan, RunsWhatItDoesNotKnowThroughLibTorch) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  const auto images = torch::rand({2, 5, 6, 7});
  const auto weight = torch::rand({4, 30});
  const auto made = plan(
      [&](const torch::Tensor& x) {
        const auto y = torch::adaptive_avg_pool2d(torch::sigmoid(x), {3, 2});
        return torch::linear(y.flatten(1), weight);
      },
      images, torch::kFloat);
  const auto report = made.plan->report();
  EXPECT_GE(report.fallbacks(), 1U);
  EXPECT_THAT(report.to_string(), HasSubstr("aten::sigmoid"));
  expect_near(made.plan->run(images), made.expected, 1e-4);
}

TEST(GpuPlan, TakesConvolutionsOfAnyGeometry) {
  const torch::NoGradGuard no_grad;
  uint32_t seed = 1;
  for (const int64_t channels : {8, 17}) {
    for (const int64_t stride : {1, 2}) {
      for (const int64_t dilation : {1, 2}) {
        torch::manual_seed(seed);
        torch::nn::Sequential net(
            torch::nn::Conv2d(torch::nn::Conv2dOptions(5, channels, 1)), torch::nn::ReLU6(),
            torch::nn::Conv2d(torch::nn::Conv2dOptions(channels, channels, {3, 5})
                                  .groups(channels)
                                  .stride({stride, 1})
                                  .padding({1, 2})
                                  .dilation(dilation)),
            torch::nn::Conv2d(torch::nn::Conv2dOptions(channels, 6, 3).stride(2).padding(1)),
            torch::nn::MaxPool2d(2), torch::nn::AvgPool2d(2));
        net->eval();
        const auto images = torch::randn({3, 5, 17, 14});
        const auto made = plan([&](const torch::Tensor& x) { return net->forward(x); }, images,
                               torch::kFloat, seed++);
        expect_near(made.plan->run(images), made.expected, 1e-4);
      }
    }
  }
}

TEST(GpuPlan, NotANumberStaysOne) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(6);
  auto images = torch::randn({1, 4, 5, 5});
  images[0][1][2][3] = std::nanf("");
  torch::nn::Conv2d conv(torch::nn::Conv2dOptions(4, 8, 1));
  const std::vector<std::function<torch::Tensor(const torch::Tensor&)>> activations = {
      [](const torch::Tensor& x) { return torch::relu(x); },
      [](const torch::Tensor& x) { return torch::hardtanh(x, 0, 6); },
      [](const torch::Tensor& x) { return torch::hardswish(x); },
      [](const torch::Tensor& x) { return torch::hardsigmoid(x); }};
  for (const auto& activation : activations) {
    const auto forward = [&](const torch::Tensor& x) { return activation(conv->forward(x)); };
    const auto made = plan(forward, images, torch::kFloat);
    const auto got = made.plan->run(images);
    EXPECT_EQ(got.isnan().sum().item<int64_t>(), 8);
    expect_near(got.nan_to_num(), made.expected.nan_to_num(), 1e-4);
  }
}

TEST(GpuPlan, RunsAsPlannedWithinAutocast) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(7);
  const auto images = torch::randn({2, 5, 9, 9});
  torch::nn::Sequential net(torch::nn::Conv2d(torch::nn::Conv2dOptions(5, 8, 3)), torch::nn::ReLU(),
                            torch::nn::Conv2d(torch::nn::Conv2dOptions(8, 8, 1)));
  const auto made =
      plan([&](const torch::Tensor& x) { return net->forward(x); }, images, torch::kFloat);
  const bsconv::detail::AutocastScope autocast(torch::kCPU, torch::kBFloat16);
  expect_near(made.plan->run(images), made.expected, 1e-4);
}

TEST(GpuPlan, SaysWhatItCannotDo) {
  const torch::NoGradGuard no_grad;
  const auto images = torch::rand({1, 3, 4, 4});
  const auto relu = [](const torch::Tensor& x) { return torch::relu(x); };
  EXPECT_THAT(error_of([&] { plan(relu, images, torch::kDouble); }),
              HasSubstr("dtype must be float32, float16 or bfloat16, got Double"));
}

#ifdef BSCONV_HAS_CUDA
TEST(CudaCompiler, CompilesTheKernels) {
  // No GPU is needed to compile for one.
  bsconv::gpu::ConvolutionShape shape;
  shape.channels = shape.in_channels = 16;
  shape.in_height = shape.in_width = shape.middle_height = shape.middle_width = 8;
  shape.out_height = shape.out_width = 8;
  shape.pointwise = shape.depthwise = shape.residual = true;
  shape.kernel = {3, 3};
  shape.padding = {1, 1};
  std::string source = bsconv::gpu::kernel_source;
  int count = 0;
  for (const char* element : {"float", "half_t", "bf16_t"}) {
    for (const auto& tile : shape.tiles()) {
      source += shape.text(tile).define("k" + std::to_string(count++), element);
    }
  }
  for (const char* architecture : {"sm_80", "sm_90"}) {
    EXPECT_GT(bsconv::cuda::compile_to_cubin(source, architecture).size(), 1000U);
  }
  EXPECT_THAT(error_of([] { bsconv::cuda::compile_to_cubin("nonsense", "sm_90"); }),
              HasSubstr("the kernels don't compile for sm_90"));
}

TEST(CudaOptimize, EqualsLibTorch) {
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  const torch::NoGradGuard no_grad;
  torch::globalContext().setAllowTF32CuDNN(false);
  const auto images = torch::rand({2, 3, 32, 32});
  // All shapes of a network are compiled for each type of elements.
  for (const auto& [name, other] :
       {std::pair{"cifar_resnet20_bsconvu", torch::kHalf},
        std::pair{"cifar_mobilenetv2_w1d4_bsconvs_p1d6", torch::kBFloat16}}) {
    SCOPED_TRACE(name);
    auto model = adapted(name, images);
    const auto expected = model->forward(images);
    model->to(torch::kCUDA);
    const auto run = [&](torch::ScalarType dtype) {
      const auto fast =
          bsconv::optimize(model, images.to(torch::kCUDA), bsconv::OptimizeOptions().dtype(dtype));
      EXPECT_EQ(fast.report().eager, "");
      return fast(images.to(torch::kCUDA)).cpu();
    };
    expect_near(run(torch::kFloat), expected, 1e-3);
    const auto got = run(other);
    if (other == torch::kHalf) {
      expect_near(got, expected, 0.1);
    }
    model->to(other);
    const auto known = model->forward(images.to(torch::kCUDA, other)).cpu().to(torch::kFloat);
    // Of a network with random weights, 16 bits leave little.
    EXPECT_LE(
        (got - expected).norm().item<double>(),
        1.2 * (known - expected).norm().item<double>() + 1e-2 * expected.norm().item<double>());
  }
}
#endif

}  // namespace
}  // namespace gpu_plan_test
