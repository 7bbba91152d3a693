// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn.h>
#include <bsconv/data/digits.hpp>
#include <bsconv/data/loader.hpp>
#include <bsconv/train/fused_sgd.hpp>
#include <bsconv/train/step_recorder.hpp>
#include <bsconv/train/trainer.hpp>
#include <bsconv/zoo.hpp>
#ifdef BSCONV_HAS_CUDA
#include <bsconv/cuda.hpp>
#endif

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace train_step_recorder_test {
namespace {

using bsconv::train::fused_step;
using bsconv::train::StepRecorder;
using bsconv::train::StepResult;
using bsconv::train::Trainer;
using bsconv::train::TrainOptions;
using bsconv_test::error_of;
using testing::HasSubstr;

/// Parameters of several shapes, one of them with channels last.
std::vector<torch::Tensor> parameters() {
  torch::manual_seed(1);
  std::vector<torch::Tensor> result = {
      torch::rand({4, 3, 3, 3}), torch::rand({5}),
      torch::rand({4, 3, 3, 3}).contiguous(torch::MemoryFormat::ChannelsLast)};
  for (auto& parameter : result) {
    parameter.set_requires_grad(true);
  }
  return result;
}

TEST(TrainFusedSgd, StepsAsLibTorchDoes) {
  // Whose rate: the optimizer's, or a tensor's.
  for (const bool own_rate : {false, true}) {
    for (const auto& [momentum, nesterov] : {std::pair(0.0, false), {0.9, false}, {0.9, true}}) {
      const auto options =
          torch::optim::SGDOptions(0.1).momentum(momentum).nesterov(nesterov).weight_decay(0.01);
      const auto expected = parameters();
      const auto actual = parameters();
      torch::optim::SGD reference(expected, options);
      torch::optim::SGD fused(actual, options);
      for (int step = 0; step < 4; ++step) {
        const double rate = 0.1 / (step + 1);
        static_cast<torch::optim::SGDOptions&>(reference.param_groups()[0].options()).lr(rate);
        torch::manual_seed(static_cast<uint64_t>(step) + 10);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          // A gradient need not lie in memory as its parameter does, nor be there.
          const auto gradient = torch::rand(expected[i].sizes());
          expected[i].mutable_grad() = step == 1 && i == 1 ? torch::Tensor() : gradient;
          actual[i].mutable_grad() = step == 1 && i == 1 ? torch::Tensor() : gradient.clone();
        }
        reference.step();
        if (own_rate) {
          static_cast<torch::optim::SGDOptions&>(fused.param_groups()[0].options()).lr(rate);
          fused_step(fused);
        } else {
          fused_step(fused, torch::full({}, rate, torch::kFloat));
        }
        for (std::size_t i = 0; i < expected.size(); ++i) {
          EXPECT_TRUE(torch::allclose(actual[i], expected[i], 1e-6, 1e-7)) << step << ", " << i;
        }
      }
    }
  }
  torch::optim::SGD damped(parameters(),
                           torch::optim::SGDOptions(0.1).momentum(0.9).dampening(0.5));
  EXPECT_THAT(error_of([&] { fused_step(damped, torch::full({}, 0.1)); }),
              HasSubstr("dampening must be 0, got 0.5"));
}

/// Calls every step, on inputs of its own.
class Caller : public StepRecorder {
 public:
  StepResult run(const std::vector<torch::Tensor>& inputs, const Step& step) override {
    ++runs;
    std::vector<torch::Tensor> own;
    for (const auto& input : inputs) {
      own.push_back(input.defined() ? input.clone() : input);
    }
    return step(own);
  }
  void forget() override { ++forgotten; }

  int runs = 0;
  int forgotten = 0;
};

bsconv::Layer tiny_model() {
  torch::manual_seed(1);
  return bsconv::create_model("cifar_mobilenetv1_w1d4_bsconvu",
                              bsconv::ModelOptions().num_classes(10));
}

/// A model in which rounding stays rounding.
bsconv::Layer smooth_model() {
  torch::manual_seed(1);
  bsconv::Chain net;
  net->push_back("pool", torch::nn::AvgPool2d(4)).push_back("flatten", torch::nn::Flatten());
  net->push_back("fc", torch::nn::Linear(192, 10));
  return net;
}

/// Trains `model` on few images; returns its weights.
bsconv::weights::StateDict train(const bsconv::Layer& model, const TrainOptions& options,
                                 const std::shared_ptr<StepRecorder>& recorder) {
  const auto digits = bsconv::data::digits(bsconv::data::Split::test);
  const bsconv::data::DataLoader batches(
      digits, bsconv::data::LoaderOptions().batch_size(80).device(options.device()));
  Trainer trainer(model, options);
  if (recorder != nullptr) {
    trainer.recorder(recorder);
  }
  trainer.fit(batches, batches);
  return bsconv::weights::clone_state_dict(bsconv::weights::state_dict(*model));
}

void expect_same(const bsconv::weights::StateDict& actual,
                 const bsconv::weights::StateDict& expected, double tolerance) {
  for (const auto& item : expected) {
    const auto difference = (actual[item.key()].to(torch::kDouble) - item.value()).abs();
    EXPECT_LE(difference.max().item<double>(),
              tolerance * (1 + item.value().to(torch::kDouble).abs().max().item<double>()))
        << item.key();
  }
}

TEST(TrainStepRecorder, DoesTheStepsOfTheTrainer) {
  const auto options =
      TrainOptions().epochs(2).schedule({1}).learning_rate(0.05).nesterov(true).ema_decay(0.9);
  const auto caller = std::make_shared<Caller>();
  const auto actual = train(smooth_model(), options, caller);
  EXPECT_EQ(caller->runs, 10);
  expect_same(actual, train(smooth_model(), options, nullptr), 1e-5);
}

TEST(TrainStepRecorder, IsNotUsedWhereItCannotBe) {
  const auto digits = bsconv::data::digits(bsconv::data::Split::test);
  const auto batch =
      bsconv::data::DataLoader(digits, bsconv::data::LoaderOptions().batch_size(8)).get(0, 0);
  for (const auto& options : {TrainOptions().clip_grad_norm(1), TrainOptions().accumulate(2),
                              TrainOptions().optimizer(bsconv::train::OptimizerType::adamw)}) {
    const auto caller = std::make_shared<Caller>();
    Trainer trainer(tiny_model(), options);
    EXPECT_FALSE(trainer.recorder(caller).is_recording());
    trainer.train_step(batch);
    EXPECT_EQ(caller->runs, 0);
  }
  Trainer trainer(tiny_model());
  EXPECT_THAT(error_of([&] { trainer.recorder(nullptr); }), HasSubstr("the recorder is null"));
}

TEST(TrainStepRecorder, ForgetsAtAResume) {
  const auto caller = std::make_shared<Caller>();
  Trainer trainer(tiny_model());
  EXPECT_TRUE(trainer.recorder(caller).is_recording());
  trainer.resume(trainer.checkpoint());
  EXPECT_EQ(caller->forgotten, 1);
}

TEST(TrainStepRecorderCuda, AGraphTrainsAsOperatorsDo) {
#ifdef BSCONV_HAS_CUDA
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  EXPECT_THAT(error_of([] { bsconv::cuda::StepGraph(0); }), HasSubstr("warm_up must be at least"));
  for (const bool channels_last : {false, true}) {
    // Rounding grows from step to step.
    const auto options = TrainOptions()
                             .epochs(1)
                             .learning_rate(0.01)
                             .device(torch::kCUDA)
                             .channels_last(channels_last);
    const auto graph = std::make_shared<bsconv::cuda::StepGraph>();
    const auto actual = train(tiny_model(), options, graph);
    EXPECT_TRUE(graph->is_recorded());
    expect_same(actual, train(tiny_model(), options, nullptr), 0.05);
  }
  // Many replays at two rates, on batches of two sizes.
  const auto options =
      TrainOptions().epochs(3).schedule({2}).learning_rate(0.05).nesterov(true).device(
          torch::kCUDA);
  const auto graph = std::make_shared<bsconv::cuda::StepGraph>();
  const auto actual = train(smooth_model(), options, graph);
  EXPECT_TRUE(graph->is_recorded());
  expect_same(actual, train(smooth_model(), options, nullptr), 1e-4);
#else
  GTEST_SKIP() << "this build is without CUDA";
#endif
}

TEST(TrainStepRecorderCuda, AFailedRecordingLeavesTheAllocatorAsItWas) {
#ifdef BSCONV_HAS_CUDA
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  const auto x = torch::ones({1024}, torch::kCUDA);
  const bsconv::cuda::RecordingStream stream(x.device().index(), 0);
  const c10::cuda::CUDAStreamGuard beside(stream.get());
  torch::Tensor product;
  const auto older = bsconv::cuda::make_graph();
  bsconv::cuda::record(*older, [&] { product = x * 3; });
  for (int repeat = 0; repeat < 3; ++repeat) {
    {
      at::cuda::CUDAGraph graph;
      EXPECT_THROW(bsconv::cuda::record(graph, [&] { (x * 2).sum().item<float>(); }), c10::Error);
    }
    // Neither random numbers nor graphs of before are disturbed.
    EXPECT_LE(torch::rand({1}, torch::kCUDA).item<float>(), 1);
    bsconv::cuda::replay(*older);
    EXPECT_EQ(product.sum().item<float>(), 3 * 1024);
    c10::cuda::CUDACachingAllocator::emptyCache();
    at::cuda::CUDAGraph graph;
    torch::Tensor sum;
    bsconv::cuda::record(graph, [&] { sum = (x * 2).sum(); });
    graph.replay();
    EXPECT_EQ(sum.item<float>(), 2048);
  }
#else
  GTEST_SKIP() << "this build is without CUDA";
#endif
}

/// Repeats the first step without LibTorch's operators.
class Repeater : public StepRecorder {
 public:
  StepResult run(const std::vector<torch::Tensor>& inputs, const Step& step) override {
    if (!kept_.loss.defined()) {
      kept_ = step(inputs);
    }
    return kept_;
  }
  void forget() override {}

 private:
  StepResult kept_;
};

TEST(TrainStepRecorder, RepeatedStepsCountAsChangesOfTheWeights) {
  auto model = tiny_model();
  Trainer trainer(model);
  trainer.recorder(std::make_shared<Repeater>());
  const bsconv::data::Batch batch = {torch::rand({4, 3, 32, 32}), torch::zeros({4}, torch::kLong)};
  trainer.train_step(batch);
  const auto before = model->parameters()[0]._version();
  trainer.train_step(batch);
  EXPECT_GT(model->parameters()[0]._version(), before);
}

}  // namespace
}  // namespace train_step_recorder_test
