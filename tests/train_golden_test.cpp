// SPDX-License-Identifier: BSD-3-Clause-Clear
// The losses of six training steps equal the Python reference's.
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/utils.h>
#include <torch/version.h>
#include <bsconv/fused_training.hpp>
#include <bsconv/train/trainer.hpp>
#include <bsconv/zoo.hpp>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

// Tests are compiled several files at a time.
namespace train_golden_test {
namespace {

struct GoldenRun {
  std::string name;
  int64_t num_classes = 0;
  std::vector<double> losses;
};

std::vector<GoldenRun> golden_runs() {
  std::ifstream file(BSCONV_TEST_DATA_DIR "/train_steps.jsonl");
  std::vector<GoldenRun> runs;
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line);
    runs.push_back({json.at("name"), json.at("num_classes"), json.at("losses")});
  }
  return runs;
}

// Rounding is amplified at a learning rate of 0.1: other processors and thread counts than the
// reference's (one thread, Intel with AVX-512) were measured to drift this far by each step.
const std::vector<double> drift = {1e-6, 5e-3, 3e-2, 8e-2, 0.2, 0.3};

// LibTorch's matrix library takes other code on processors of other makers.
bool is_intel() {
#if defined(__x86_64__)
  return __builtin_cpu_is("intel") != 0;
#else
  return false;
#endif
}

bool reference_platform() {
  return TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR == 11 &&
         at::get_cpu_capability() == "AVX512" && is_intel();
}

/// On LibTorch's operators or the `fused` ones, which round otherwise.
void expect_reference_losses(const GoldenRun& golden, torch::Device device, bool fused) {
  const bsconv::FusedTrainingGuard guard(fused);
  torch::manual_seed(1);
  const auto model =
      bsconv::create_model(golden.name, bsconv::ModelOptions().num_classes(golden.num_classes));
  torch::manual_seed(7);
  const auto images = torch::randn({16, 3, 32, 32});
  const auto labels = torch::randint(0, golden.num_classes, {16}, torch::kLong);
  // The regularization's products round otherwise even among these processors.
  const bool exact =
      !fused && device.is_cpu() && reference_platform() && !bsconv::has_regularization(*model);
  bsconv::train::Trainer trainer(model, bsconv::train::TrainOptions().device(device));
  ASSERT_EQ(golden.losses.size(), drift.size());
  for (std::size_t step = 0; step < drift.size(); ++step) {
    const auto loss = trainer.train_step({images, labels}).loss.item<double>();
    const double tolerance = exact ? 1e-6 : drift[step];
    EXPECT_LE(std::abs(loss - golden.losses[step]), tolerance * golden.losses[step])
        << golden.name << (fused ? ", fused" : "") << ", step " << step << ": " << loss
        << " instead of " << golden.losses[step];
  }
}

TEST(TrainGolden, FiveArchitecturesAreListed) { EXPECT_EQ(golden_runs().size(), 5U); }

TEST(TrainGolden, LossesEqualTheReferenceOnTheCpu) {
  const int threads = torch::get_num_threads();
  torch::set_num_threads(1);
  for (const auto& golden : golden_runs()) {
    expect_reference_losses(golden, torch::kCPU, false);
    expect_reference_losses(golden, torch::kCPU, true);
  }
  torch::set_num_threads(threads);
}

TEST(TrainGolden, LossesFollowTheReferenceOnCuda) {
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "no CUDA device";
  }
  for (const auto& golden : golden_runs()) {
    expect_reference_losses(golden, torch::kCUDA, false);
    expect_reference_losses(golden, torch::kCUDA, true);
  }
}

}  // namespace
}  // namespace train_golden_test
