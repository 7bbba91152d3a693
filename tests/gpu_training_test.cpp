// SPDX-License-Identifier: BSD-3-Clause-Clear
// Training operators for GPUs, whose kernels are compiled for the CPU here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn.h>
#include <bsconv/autograd/chain_function.hpp>
#include <bsconv/gpu/training_function.hpp>
#include <bsconv/nn.hpp>
#ifdef BSCONV_HAS_CUDA
#include <bsconv/cuda.hpp>
#include <bsconv/train/autocast.hpp>
#include <bsconv/zoo.hpp>
#endif

#include <optional>
#include <string>
#include <vector>

#include "support/autograd_graph.hpp"
#include "support/golden.hpp"
#include "support/host_gpu.hpp"

namespace gpu_training_test {
namespace {

using bsconv::detail::DepthwiseGeometry;
using bsconv::detail::TrainingBatchNorm;
using bsconv::detail::TrainingBlock;
using bsconv::gpu::TrainingOperators;
using bsconv::kernels::Activation;
using bsconv_test::HostGpu;

struct Gpu {
  std::shared_ptr<HostGpu> runtime = std::make_shared<HostGpu>(BSCONV_TEST_COMPILER, 1);
  TrainingOperators operators{std::make_shared<bsconv::gpu::Compiler>(runtime)};
};

TrainingBatchNorm norm_of(int64_t channels, bool affine = true, bool running = true) {
  TrainingBatchNorm norm;
  if (affine) {
    norm.weight = torch::rand({channels}).add_(0.5).requires_grad_();
    norm.bias = torch::randn({channels}).requires_grad_();
  }
  if (running) {
    norm.running_mean = torch::randn({channels});
    norm.running_var = torch::rand({channels}).add_(0.5);
    norm.num_batches_tracked = torch::tensor(int64_t{3});
  }
  norm.momentum = 0.2;
  norm.eps = 1e-4;
  return norm;
}

void expect_close(const torch::Tensor& got, const torch::Tensor& expected, double tolerance,
                  const std::string& what) {
  ASSERT_EQ(got.sizes(), expected.sizes()) << what;
  const auto scale = expected.abs().max().item<double>() + 1e-2;
  EXPECT_LE((got.to(torch::kDouble) - expected.to(torch::kDouble)).abs().max().item<double>(),
            tolerance * scale)
      << what;
}

// Output, gradients and running statistics are those of LibTorch.
void expect_block(Gpu& gpu, TrainingBlock block, torch::Tensor input, torch::Tensor residual,
                  double tolerance = 2e-4) {
  input.requires_grad_();
  auto inputs = bsconv::detail::defined_tensors({block});
  inputs.push_back(input);
  if (residual.defined()) {
    residual.requires_grad_();
    inputs.push_back(residual);
  }
  const auto expected = bsconv::detail::reference_block(input, block, residual);
  const auto gradient = torch::randn_like(expected);
  const auto wanted = torch::autograd::grad({expected}, inputs, {gradient});
  std::vector<torch::Tensor> running;
  for (auto* norm : {&block.first_norm, &block.pointwise_norm, &block.norm}) {
    if (*norm && (*norm)->running_mean.defined()) {
      running.push_back((*norm)->running_mean);
      running.push_back((*norm)->running_var);
    }
  }
  const auto before = running.empty() ? torch::Tensor() : torch::cat(running).clone();
  const auto got = gpu.operators.block(input, block, residual);
  expect_close(got, expected, tolerance, "output");
  const auto found = torch::autograd::grad({got}, inputs, {gradient});
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    expect_close(found[i], wanted[i], 2 * tolerance, "gradient " + std::to_string(i));
  }
  // The running statistics that LibTorch keeps.
  if (block.norm && block.norm->running_mean.defined()) {
    EXPECT_EQ(block.norm->num_batches_tracked.item<int64_t>(), 4);
    auto plain = block;
    plain.norm.reset();
    plain.activation = Activation::identity;
    const auto read = bsconv::detail::reference_block(input, plain, {}).detach().to(torch::kFloat);
    auto mean = before.slice(0, before.size(0) - 2 * read.size(1), before.size(0) - read.size(1));
    auto var = before.slice(0, before.size(0) - read.size(1));
    torch::batch_norm(read, {}, {}, mean, var, true, *block.norm->momentum, 1e-4, false);
    expect_close(block.norm->running_mean, mean, tolerance, "running mean");
    expect_close(block.norm->running_var, var, tolerance, "running variance");
  }
}

TrainingBlock block_u(int64_t in, int64_t out, const DepthwiseGeometry& geometry) {
  TrainingBlock block;
  block.pointwise = torch::randn({out, in, 1, 1}).requires_grad_();
  block.depthwise = torch::randn({out, 1, geometry.kernel[0], geometry.kernel[1]}).requires_grad_();
  block.geometry = geometry;
  return block;
}

TEST(GpuTraining, BlocksEqualLibTorch) {
  Gpu gpu;
  torch::manual_seed(1);
  auto block = block_u(3, 16, {{3, 3}, {1, 1}, {1, 1}, {1, 1}});
  expect_block(gpu, block, torch::randn({2, 3, 9, 7}), {});
  block.norm = norm_of(16);
  block.activation = Activation::relu;
  expect_block(gpu, block, torch::randn({2, 3, 9, 7}), {});
  block.norm = norm_of(16);
  expect_block(gpu, block, torch::randn({2, 3, 9, 7}), torch::randn({2, 16, 9, 7}));
  block.norm = norm_of(16, false, false);
  block.activation = Activation::identity;
  expect_block(gpu, block, torch::randn({2, 3, 9, 7}), torch::randn({2, 16, 9, 7}));
  block.norm = norm_of(16, true, false);
  block.activation = Activation::relu6;
  block.bias = torch::randn({16}).requires_grad_();
  expect_block(gpu, block, torch::randn({2, 3, 9, 7}), {});
  block.norm.reset();
  block.activation = Activation::identity;
  expect_block(gpu, block, torch::randn({2, 3, 9, 7}), {});
  expect_block(gpu, block, torch::randn({2, 3, 9, 7}), torch::randn({2, 16, 9, 7}));
  block.input_norm = norm_of(3);
  block.input_activation = Activation::relu;
  expect_block(gpu, block, torch::randn({2, 3, 9, 7}), torch::randn({2, 16, 9, 7}));
}

TEST(GpuTraining, BlocksWithASecondPointwiseEqualLibTorch) {
  Gpu gpu;
  torch::manual_seed(2);
  auto block = block_u(4, 12, {{3, 3}, {2, 2}, {1, 1}, {1, 1}});
  block.first = torch::randn({4, 8, 1, 1}).requires_grad_();
  block.first_norm = norm_of(4);
  block.pointwise_norm = norm_of(12);
  block.norm = norm_of(12);
  block.activation = Activation::relu;
  expect_block(gpu, block, torch::randn({3, 8, 8, 9}), torch::randn({3, 12, 4, 5}), 1e-3);
}

TEST(GpuTraining, TakesAnyGeometry) {
  Gpu gpu;
  const std::vector<DepthwiseGeometry> geometries = {
      {{5, 5}, {1, 1}, {2, 2}, {1, 1}}, {{5, 3}, {2, 1}, {2, 1}, {1, 1}},
      {{3, 3}, {2, 2}, {1, 1}, {1, 1}}, {{3, 3}, {1, 1}, {2, 2}, {2, 2}},
      {{3, 3}, {2, 3}, {0, 2}, {2, 1}}, {{1, 1}, {1, 1}, {0, 0}, {1, 1}},
      {{2, 4}, {1, 2}, {1, 0}, {1, 1}}, {{7, 7}, {2, 2}, {3, 3}, {1, 1}},
      {{3, 3}, {3, 3}, {2, 2}, {1, 1}}};
  const std::vector<int64_t> channels = {6, 20, 76};
  for (std::size_t i = 0; i < geometries.size(); ++i) {
    const auto& geometry = geometries[i];
    SCOPED_TRACE(testing::Message() << geometry.kernel[0] << "x" << geometry.kernel[1]
                                    << ", stride " << geometry.stride[0]);
    torch::manual_seed(i);
    auto block = block_u(2, channels[i % channels.size()], geometry);
    block.norm = norm_of(block.depthwise.size(0));
    block.activation = Activation::relu;
    expect_block(gpu, block, torch::randn({2, 2, 19, 22}), {}, 1e-3);
  }
}

TEST(GpuTraining, TakesManyPixelsAndManyChannels) {
  Gpu gpu;
  torch::manual_seed(3);
  auto wide = block_u(2, 160, {{3, 3}, {1, 1}, {1, 1}, {1, 1}});
  wide.norm = norm_of(160);
  wide.activation = Activation::relu;
  expect_block(gpu, wide, torch::randn({2, 2, 5, 5}), torch::randn({2, 160, 5, 5}));
  auto tall = block_u(2, 4, {{3, 3}, {2, 2}, {1, 1}, {1, 1}});
  tall.norm = norm_of(4);
  tall.activation = Activation::relu;
  expect_block(gpu, tall, torch::randn({2, 2, 70, 67}), {}, 1e-3);
}

TEST(GpuTraining, NormalizationsEqualLibTorch) {
  Gpu gpu;
  torch::manual_seed(4);
  for (const int64_t channels : {1, 3, 64}) {
    const auto norm = norm_of(channels);
    const auto input = torch::randn({4, channels, 6, 5}).mul_(2).add_(1).requires_grad_();
    const auto residual = torch::randn({4, channels, 6, 5}).requires_grad_();
    for (const auto& added : {torch::Tensor(), residual}) {
      std::vector<torch::Tensor> inputs = {input, norm.weight, norm.bias};
      if (added.defined()) {
        inputs.push_back(added);
      }
      const auto expected = bsconv::detail::reference_activation(
          bsconv::detail::reference_norm(input, norm), added, Activation::relu);
      const auto got = gpu.operators.norm(input, norm, Activation::relu, added);
      expect_close(got, expected, 1e-5, "output");
      const auto gradient = torch::randn_like(got);
      const auto wanted = torch::autograd::grad({expected}, inputs, {gradient});
      const auto found = torch::autograd::grad({got}, inputs, {gradient});
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        expect_close(found[i], wanted[i], 2e-4, "gradient " + std::to_string(i));
      }
    }
  }
}

/// Expects a step to have blended the statistics of `read` into those that `norm` had before.
void expect_statistics(const TrainingBatchNorm& norm, const torch::Tensor& mean_before,
                       const torch::Tensor& variance_before, const torch::Tensor& read) {
  const auto [variance, mean] = torch::var_mean(read.detach().to(torch::kDouble),
                                                std::vector<int64_t>{0, 2, 3}, int64_t{1}, false);
  expect_close(norm.running_mean, 0.8 * mean_before + 0.2 * mean, 1e-6, "running mean");
  expect_close(norm.running_var, 0.8 * variance_before + 0.2 * variance, 1e-4, "running variance");
}

TEST(GpuTraining, StatisticsOfValuesFarFromZeroKeepTheirDigits) {
  Gpu gpu;
  torch::manual_seed(9);
  // With many channels, threads have a pixel or two.
  for (const int64_t channels : {6, 160}) {
    const auto norm = norm_of(channels);
    const auto mean = norm.running_mean.clone();
    const auto variance = norm.running_var.clone();
    const auto input = torch::randn({2, channels, 45, 40}) + 3000;
    gpu.operators.norm(input, norm, Activation::identity, {});
    expect_statistics(norm, mean, variance, input);
  }
  auto block = block_u(2, 8, {{3, 3}, {1, 1}, {1, 1}, {1, 1}});
  block.bias = torch::full({8}, 3000.0);
  auto plain = block;
  block.norm = norm_of(8);
  const auto mean = block.norm->running_mean.clone();
  const auto variance = block.norm->running_var.clone();
  const auto input = torch::randn({4, 2, 20, 20});
  gpu.operators.block(input, block, {});
  for (auto* tensor : {&plain.pointwise, &plain.depthwise, &plain.bias}) {
    *tensor = tensor->detach().to(torch::kDouble);
  }
  expect_statistics(*block.norm, mean, variance,
                    bsconv::detail::reference_block(input.to(torch::kDouble), plain, {}));
}

TEST(GpuTraining, HalfPrecisionEqualsSingle) {
  Gpu gpu;
  torch::manual_seed(5);
  for (const auto dtype : {torch::kHalf, torch::kBFloat16}) {
    const auto norm = norm_of(8);
    const auto exact = torch::randn({2, 8, 6, 5}).to(dtype).to(torch::kFloat).requires_grad_();
    const auto rounded = exact.detach().to(dtype).requires_grad_();
    const double tolerance = dtype == torch::kHalf ? 3e-3 : 2e-2;
    const auto expected = gpu.operators.norm(exact, norm, Activation::relu6, {});
    const auto got = gpu.operators.norm(rounded, norm, Activation::relu6, {});
    EXPECT_EQ(got.scalar_type(), dtype);
    expect_close(got, expected, tolerance, "output");
    const auto gradient = torch::randn_like(expected).to(dtype);
    const auto wanted =
        torch::autograd::grad({expected}, {exact, norm.weight}, {gradient.to(torch::kFloat)});
    const auto found = torch::autograd::grad({got}, {rounded, norm.weight}, {gradient});
    EXPECT_EQ(found[0].scalar_type(), dtype);
    EXPECT_EQ(found[1].scalar_type(), torch::kFloat);
    expect_close(found[0], wanted[0], 2 * tolerance, "gradient");
    expect_close(found[1], wanted[1], 2 * tolerance, "gradient of the weight");
    // A residual of another precision.
    const auto sum = gpu.operators.norm(rounded, norm, Activation::relu, exact);
    EXPECT_EQ(sum.scalar_type(), torch::kFloat);
  }
}

TEST(GpuTraining, GradientsOfGradientsAreLibTorchs) {
  Gpu gpu;
  torch::manual_seed(6);
  auto block = block_u(3, 8, {{3, 3}, {1, 1}, {1, 1}, {1, 1}});
  block.norm = norm_of(8);
  block.activation = Activation::relu;
  const auto input = torch::randn({2, 3, 5, 4}).requires_grad_();
  const auto residual = torch::randn({2, 8, 5, 4}).requires_grad_();
  const auto second = [&](const torch::Tensor& output) {
    const auto first =
        torch::autograd::grad({output.square().sum()}, {input, block.depthwise}, {}, true, true);
    return torch::autograd::grad({first[0].square().sum() + first[1].square().sum()},
                                 {input, residual, block.norm->weight});
  };
  const auto wanted = second(bsconv::detail::reference_block(input, block, residual));
  const auto found = second(gpu.operators.block(input, block, residual));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    expect_close(found[i], wanted[i], 1e-3, "gradient " + std::to_string(i));
  }
}

TEST(GpuTraining, RunningStatisticsCanBeMeansOfAllSteps) {
  Gpu gpu;
  torch::manual_seed(7);
  auto norm = norm_of(4);
  norm.momentum = std::nullopt;
  const auto input = torch::randn({2, 4, 3, 3});
  const auto mean = 0.75 * norm.running_mean + 0.25 * input.mean({0, 2, 3});
  const auto got = gpu.operators.norm(input, norm, Activation::relu, {});
  expect_close(got, torch::relu(bsconv::detail::reference_norm(input, norm)), 1e-5, "output");
  expect_close(norm.running_mean, mean, 1e-5, "running mean");
  EXPECT_EQ(norm.num_batches_tracked.item<int64_t>(), 4);
}

TEST(GpuTraining, CountsBatchesInAnyType) {
  Gpu gpu;
  torch::manual_seed(7);
  const auto input = torch::randn({2, 8, 6, 5});
  for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kInt}) {
    auto norm = norm_of(8);
    // Followed by what nothing may write to.
    const auto memory = torch::full({2}, 3, dtype);
    norm.num_batches_tracked = memory[0];
    gpu.operators.norm(input, norm, Activation::relu, {});
    EXPECT_EQ(memory[0].item<double>(), 4);
    EXPECT_EQ(memory[1].item<double>(), 3);
  }
}

TEST(GpuTraining, ShowsThatRunningStatisticsHaveChanged) {
  Gpu gpu;
  const auto norm = norm_of(4);
  const auto before = norm.running_var._version();
  gpu.operators.norm(torch::randn({2, 4, 3, 3}), norm, Activation::relu, {});
  EXPECT_GT(norm.running_var._version(), before);
}

TEST(GpuTraining, CopiesImagesAtAddressesThatKernelsCannotReadFrom) {
  const auto memory = torch::rand({12});
  const auto shifted = memory.narrow(0, 1, 8).view({1, 8, 1, 1});
  const auto copy = bsconv::gpu::kernel_images(shifted);
  EXPECT_FALSE(copy.is_alias_of(memory));
  EXPECT_TRUE(torch::equal(copy, shifted));
  const auto whole = memory.narrow(0, 4, 8).view({1, 8, 1, 1});
  EXPECT_TRUE(bsconv::gpu::kernel_images(whole).is_alias_of(memory));
  EXPECT_FALSE(bsconv::gpu::kernel_images({}).defined());
}

TEST(GpuTraining, NotANumberStaysOne) {
  Gpu gpu;
  auto input = torch::randn({1, 4, 2, 2});
  input[0][1][0][0] = std::nanf("");
  const auto got = gpu.operators.norm(input, norm_of(4), Activation::relu, {});
  EXPECT_TRUE(got.select(1, 1).isnan().all().item<bool>());
  EXPECT_FALSE(got.select(1, 0).isnan().any().item<bool>());
}

#ifdef BSCONV_HAS_CUDA
TEST(CudaTraining, CompilesItsKernels) {
  bsconv::gpu::TailShape shape;
  shape.images = 128;
  shape.channels = 64;
  shape.in = shape.out = {32, 32};
  shape.norm = bsconv::gpu::NormShape{true, true, true, true, true};
  shape.activation = Activation::relu;
  auto source = bsconv::gpu::whole_source();
  int count = 0;
  for (const auto& [in, out] : {std::pair{3, 16}, {16, 4}, {64, 128}}) {
    for (const auto& [text, grid] : bsconv::gpu::PointwiseShape{128 * 32 * 32, in, out}.kernels()) {
      source += text.define("k" + std::to_string(count++), "float");
    }
  }
  for (const bool residual : {false, true}) {
    shape.residual = residual;
    for (const bool depthwise : {false, true}) {
      shape.depthwise = std::nullopt;
      if (depthwise) {
        shape.depthwise = DepthwiseGeometry{{3, 3}, {1, 1}, {1, 1}, {1, 1}};
      }
      for (const char* element : {"float", "half_t", "bf16_t"}) {
        for (const auto& [text, grid] : shape.kernels()) {
          if (!text.function.empty()) {
            source += text.define("k" + std::to_string(count++), element);
          }
        }
      }
    }
  }
  EXPECT_GT(bsconv::cuda::compile_to_cubin(source, "sm_90").size(), 1000U);
}

// Whether a tail of this library is among the operators that `output` came from.
bool is_fused(const torch::Tensor& output) {
  return bsconv_test::count_operators(output, "TailFunction") > 0;
}

// Logits, gradients and running statistics of one step of a new model, in double.
std::vector<torch::Tensor> step_of(const std::string& name, bool fused, torch::ScalarType dtype) {
  torch::manual_seed(8);
  auto model = bsconv::create_model(name, bsconv::ModelOptions().num_classes(10));
  const auto images = torch::randn({32, 3, 32, 32});
  const auto gradient = torch::randn({32, 10});
  // Activations far from where they bend: what rounding moves across changes gradients by percents.
  const torch::NoGradGuard no_grad;
  for (const auto& parameter : model->named_parameters()) {
    const auto& key = parameter.key();
    if (key.size() > 7 && key.compare(key.size() - 7, 7, "bn.bias") == 0) {
      const auto above = torch::rand_like(parameter.value()) > 0.5;
      parameter.value().copy_(torch::where(above, 3.0, -4.0));
    }
  }
  torch::GradMode::set_enabled(true);
  model->to(dtype);
  model->to(torch::kCUDA);
  const bsconv::FusedTrainingGuard guard(fused);
  const auto logits = model->forward(images.to(torch::kCUDA, dtype));
  EXPECT_EQ(is_fused(logits), fused);
  (logits * gradient.to(torch::kCUDA, dtype)).sum().backward();
  std::vector<torch::Tensor> result = {logits.detach().to(torch::kDouble)};
  for (const auto& parameter : model->parameters()) {
    result.push_back(parameter.grad().to(torch::kDouble));
  }
  for (const auto& buffer : model->buffers()) {
    result.push_back(buffer.to(torch::kDouble));
  }
  return result;
}

TEST(CudaTraining, IsAsExactAsLibTorch) {
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  torch::globalContext().setAllowTF32CuDNN(false);
  for (const char* name : {"cifar_resnet20_bsconvu", "cifar_resnet20_bsconvs_p1d4",
                           "cifar_preresnet20_bsconvu", "cifar_mobilenetv2_w1d2_bsconvs_p1d6"}) {
    SCOPED_TRACE(name);
    const auto exact = step_of(name, false, torch::kDouble);
    const auto known = step_of(name, false, torch::kFloat);
    const auto got = step_of(name, true, torch::kFloat);
    const auto again = step_of(name, true, torch::kFloat);
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const auto scale = exact[i].norm().item<double>();
      EXPECT_LE((got[i] - exact[i]).norm().item<double>(),
                3 * (known[i] - exact[i]).norm().item<double>() + 1e-3 * scale + 1e-4)
          << i;
      EXPECT_LE((got[i] - again[i]).norm().item<double>(), 1e-5 * scale + 1e-6) << i;
    }
  }
}

TEST(CudaTraining, RunsUnderAutocast) {
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  torch::manual_seed(8);
  auto model =
      bsconv::create_model("cifar_resnet20_bsconvu", bsconv::ModelOptions().num_classes(10));
  model->to(torch::kCUDA);
  const auto images = torch::randn({32, 3, 32, 32}, torch::kCUDA);
  const auto run = [&](bool fused) {
    const bsconv::FusedTrainingGuard guard(fused);
    const bsconv::train::AutocastGuard autocast(torch::kCUDA, bsconv::train::Precision::bf16);
    const auto logits = model->forward(images);
    EXPECT_EQ(is_fused(logits), fused);
    return logits.to(torch::kFloat);
  };
  const auto expected = run(false);
  EXPECT_LE((run(true) - expected).norm().item<double>(), 0.1 * expected.norm().item<double>());
}
#endif

}  // namespace
}  // namespace gpu_training_test
