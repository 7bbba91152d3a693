// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <bsconv/data.hpp>
#include <bsconv/distributed.hpp>
#ifdef BSCONV_HAS_NCCL
#include <bsconv/distributed/nccl.hpp>
#endif
#include <bsconv/train/trainer.hpp>

#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "support/process_group.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace distributed_test {
namespace {

using bsconv::data::Shard;
using bsconv::distributed::ProcessGroup;
using bsconv_test::error_of;
using bsconv_test::together;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

TEST(Distributed, ShardsOfABatchAreTheBatch) {
  const auto set = bsconv::data::digits(bsconv::data::Split::test);
  auto options = bsconv::data::LoaderOptions().batch_size(50).shuffle(true).seed(3).augmentation(
      bsconv::data::crop_and_flip());
  const bsconv::data::DataLoader whole(set, options);
  for (const int64_t count : {2, 3, 7}) {
    std::vector<std::unique_ptr<bsconv::data::DataLoader>> parts;
    for (int64_t i = 0; i < count; ++i) {
      parts.push_back(
          std::make_unique<bsconv::data::DataLoader>(set, options.shard(Shard{i, count})));
      ASSERT_EQ(parts.back()->num_batches(), whole.num_batches());
      EXPECT_EQ(parts.back()->num_examples(), whole.num_examples());
    }
    for (const int64_t batch : {int64_t{0}, whole.num_batches() - 1}) {
      std::vector<torch::Tensor> images;
      std::vector<torch::Tensor> labels;
      double shares = 0;
      for (const auto& part : parts) {
        const auto got = part->get(5, batch);
        images.push_back(got.images);
        labels.push_back(got.labels);
        shares += got.share;
      }
      const auto expected = whole.get(5, batch);
      EXPECT_TRUE(torch::equal(torch::cat(images), expected.images));
      EXPECT_TRUE(torch::equal(torch::cat(labels), expected.labels));
      EXPECT_NEAR(shares, static_cast<double>(count), 1e-9);
    }
  }
  EXPECT_THAT(error_of([&] {
                bsconv::data::DataLoader(set, options.shard(Shard{2, 2}));
              }),
              HasSubstr("shard 2 of 2 does not exist"));
  EXPECT_THAT(error_of([&] {
                bsconv::data::DataLoader(set, options.batch_size(3).shard(Shard{0, 4}));
              }),
              HasSubstr("a batch of 3 has no image for each of 4 processes"));
}

void expect_sums_and_broadcasts(ProcessGroup& group, const torch::Device& device) {
  const auto rank = static_cast<double>(group.rank());
  const auto processes = static_cast<double>(group.world_size());
  const auto doubles = torch::TensorOptions(device).dtype(torch::kDouble);
  auto values = torch::tensor({rank, 1.0}, torch::kDouble).to(device);
  group.sum(values);
  EXPECT_TRUE(
      torch::equal(values, torch::tensor({processes * (processes - 1) / 2, processes}, doubles)));
  const auto strided = torch::full({3, 4}, rank, device).t();
  const auto channels_last =
      torch::full({2, 3, 2, 2}, rank, device).contiguous(torch::MemoryFormat::ChannelsLast);
  const auto count = torch::full({}, group.rank(), doubles.dtype(torch::kLong));
  group.broadcast({strided, channels_last, count});
  group.broadcast({});
  EXPECT_TRUE(torch::equal(strided, torch::zeros({4, 3}, device)));
  EXPECT_TRUE(torch::equal(channels_last, torch::zeros({2, 3, 2, 2}, device)));
  EXPECT_EQ(count.item<int64_t>(), 0);
}

TEST(Distributed, SumsAndBroadcasts) {
  together(3, false, [](ProcessGroup& group) {
    expect_sums_and_broadcasts(group, torch::kCPU);
    auto floats = torch::zeros({2});
    EXPECT_THAT(error_of([&] { group.sum(floats); }),
                HasSubstr("need a contiguous float64 tensor, got Float"));
    auto strided = torch::zeros({2, 2}, torch::kDouble).t();
    EXPECT_THAT(error_of([&] { group.sum(strided); }), HasSubstr("got a strided one of Double"));
  });
}

/// What lies on a GPU.
class DistributedCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) {
      GTEST_SKIP() << "no CUDA device";
    }
  }
};

TEST_F(DistributedCuda, GlooSumsAndBroadcasts) {
  together(2, false, [](ProcessGroup& group) { expect_sums_and_broadcasts(group, torch::kCUDA); });
}

#ifdef BSCONV_HAS_NCCL
TEST_F(DistributedCuda, NcclSumsBroadcastsAndAverages) {
  together(static_cast<int64_t>(torch::cuda::device_count()), false, [](ProcessGroup& group) {
    const torch::Device device(torch::kCUDA, static_cast<c10::DeviceIndex>(group.rank()));
    bsconv::distributed::use_nccl(group);
    expect_sums_and_broadcasts(group, device);
    const auto weight = torch::ones({2}, device).requires_grad_(true);
    bsconv::weights::StateDict parameters;
    parameters.insert("weight", weight);
    group.average_gradients(parameters);
    group.backward((weight * static_cast<double>(group.rank() + 1)).sum(), true);
    const double mean = static_cast<double>(group.world_size() + 1) / 2.0;
    EXPECT_TRUE(torch::allclose(weight.grad(), torch::full({2}, mean, device)));
    EXPECT_THAT(error_of([&] { bsconv::distributed::use_nccl(group); }),
                HasSubstr("must come before average_gradients"));
  });
}
#endif

TEST(Distributed, ProcessesAtDifferentPlacesAreRefused) {
  together(2, false, [](ProcessGroup& group) {
    const torch::nn::Sequential net(torch::nn::Flatten(), torch::nn::Linear(3 * 32 * 32, 10));
    bsconv::train::Trainer trainer(net, bsconv::train::TrainOptions().epochs(2));
    const std::shared_ptr<bsconv::train::Communicator> all(std::shared_ptr<void>(), &group);
    trainer.communicator(all);
    auto state = trainer.checkpoint();
    state.epoch = group.rank();
    trainer.resume(state);
    const auto digits = bsconv::data::digits(bsconv::data::Split::test);
    const bsconv::data::DataLoader training(digits,
                                            bsconv::data::LoaderOptions().shard(group.shard()));
    const bsconv::data::DataLoader test(digits);
    EXPECT_THAT(error_of([&] { trainer.fit(training, test); }),
                HasSubstr("the processes stand at different places; this one after epoch " +
                          std::to_string(group.rank())));
  });
}

TEST(Distributed, ModelsThatDifferAreRefused) {
  together(2, false, [](ProcessGroup& group) {
    torch::nn::Linear model(2 + group.rank(), 2);
    bsconv::weights::StateDict parameters;
    parameters.insert("weight", model->weight);
    EXPECT_THAT(error_of([&] { group.average_gradients(parameters); }),
                HasSubstr("the processes' models differ"));
  });
}

TEST(Distributed, AParameterThatTheLossDoesNotUseIsNamed) {
  together(2, /*sync_batch_norm=*/false, [](ProcessGroup& group) {
    const auto options = torch::TensorOptions().requires_grad(true);
    bsconv::weights::StateDict parameters;
    parameters.insert("used", torch::ones({2}, options));
    parameters.insert("extra", torch::ones({3}, options));
    group.average_gradients(parameters);
    EXPECT_THAT(error_of([&] { group.backward(parameters["used"].sum(), true); }),
                HasSubstr("the loss does not depend on the parameter 'extra'"));
  });
}

/// One parameter, "weight", whose gradients are averaged.
torch::Tensor averaged_weight(ProcessGroup& group) {
  const auto weight = torch::ones({2}, torch::TensorOptions().requires_grad(true));
  bsconv::weights::StateDict parameters;
  parameters.insert("weight", weight);
  group.average_gradients(parameters);
  return weight;
}

/// A function whose backward pass fails.
struct Broken : torch::autograd::Function<Broken> {
  static torch::Tensor forward(torch::autograd::AutogradContext* /*context*/,
                               const torch::Tensor& input) {
    return input.clone();
  }
  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* /*context*/,
      const torch::autograd::variable_list& /*gradients*/) {
    C10_THROW_ERROR(Error, "this function is broken");
  }
};

TEST(Distributed, AnErrorOfTheModelIsNotBlamedOnOtherProcesses) {
  together(2, /*sync_batch_norm=*/false, [](ProcessGroup& group) {
    const auto weight = averaged_weight(group);
    EXPECT_THAT(error_of([&] { group.backward(Broken::apply(weight).sum(), true); }),
                AllOf(StartsWith("this function is broken"), Not(HasSubstr("another process"))));
  });
}

TEST(Distributed, AProcessLostInTheBackwardPassIsBlamed) {
  std::promise<void> ready;
  together(2, /*sync_batch_norm=*/false, [&ready](ProcessGroup& group) {
    const auto weight = averaged_weight(group);
    if (group.rank() == 1) {
      ready.get_future().wait();
      return;
    }
    ready.set_value();
    EXPECT_THAT(error_of([&] { group.backward(weight.sum(), true); }),
                AllOf(HasSubstr("process 0 of 2: the backward pass failed"),
                      HasSubstr("another process has ended or does not answer")));
  });
}

}  // namespace
}  // namespace distributed_test
