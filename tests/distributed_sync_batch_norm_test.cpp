// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <bsconv/distributed.hpp>
#include <bsconv/nn.hpp>

#include <cstddef>
#include <vector>

#include "support/process_group.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace distributed_sync_batch_norm_test {
namespace {

using bsconv::distributed::ProcessGroup;
using bsconv_test::error_of;
using bsconv_test::together;
using testing::HasSubstr;

// A network of every kind of batch normalization's neighbors, two convolutions deep.
torch::nn::Sequential small_network() {
  torch::manual_seed(4);
  return torch::nn::Sequential(
      torch::nn::Conv2d(3, 8, 3), torch::nn::BatchNorm2d(8), torch::nn::ReLU(),
      bsconv::BSConvS(bsconv::BSConvSOptions(8, 8, 3).padding(1).with_bn(true)),
      torch::nn::BatchNorm2d(torch::nn::BatchNorm2dOptions(8).affine(false)),
      torch::nn::AdaptiveAvgPool2d(1), torch::nn::Flatten(), torch::nn::Linear(8, 5),
      torch::nn::BatchNorm1d(5));
}

void expect_gradients_of_one_process(const torch::Device& device) {
  torch::manual_seed(5);
  const auto images = (torch::randn({13, 3, 9, 9}) + 3).to(device);
  const auto labels = torch::randint(5, {13}).to(device);
  auto alone = small_network();
  alone->to(device);
  torch::cross_entropy_loss(alone->forward(images), labels).backward();
  // All before the threads start, which share LibTorch's random numbers.
  std::vector<torch::nn::Sequential> models;
  for (int rank = 0; rank < 3; ++rank) {
    models.push_back(small_network());
    models.back()->to(device);
    for (auto& parameter : models.back()->parameters()) {
      parameter.data().add_(rank);
    }
  }
  together(3, true, [&](ProcessGroup& group) {
    auto& model = models[static_cast<std::size_t>(group.rank())];
    bsconv::weights::StateDict parameters;
    for (const auto& item : model->named_parameters()) {
      parameters.insert(item.key(), item.value());
    }
    group.average_gradients(parameters);
    group.broadcast(model->parameters());
    const auto shard = group.shard();
    const auto part = [&](const torch::Tensor& all) {
      return all.slice(0, shard.begin(13), shard.end(13));
    };
    const auto own = part(labels);
    for (int step = 0; step < 2; ++step) {
      model->zero_grad();
      const auto logits = group.run(
          [&](const torch::Tensor& input) { return model->forward(input); }, part(images));
      const auto share = static_cast<double>(own.size(0) * 3) / 13.0;
      group.backward(torch::cross_entropy_loss(logits, own) * share, true);
      for (const auto& item : alone->named_parameters()) {
        const auto& gradient = model->named_parameters()[item.key()].grad();
        // Of the gradient of a bias in front of a batch normalization, zero, rounding leaves 1e-5.
        EXPECT_TRUE(torch::allclose(gradient, item.value().grad(), 1e-3, 1e-4))
            << item.key() << ' ' << (gradient - item.value().grad()).abs().max();
      }
      if (step == 0) {
        for (const auto& item : alone->named_buffers()) {
          EXPECT_TRUE(torch::allclose(model->named_buffers()[item.key()].to(torch::kFloat),
                                      item.value().to(torch::kFloat), 1e-4, 1e-5))
              << item.key();
        }
      }
    }
  });
}

// On a GPU these processes, which are threads here, would wait for each other: autograd has one
// thread for each.
TEST(DistributedSyncBatchNorm, GivesTheGradientsOfOneProcess) {
  expect_gradients_of_one_process(torch::kCPU);
}

TEST(DistributedSyncBatchNorm, LeavesInstanceNormsAlone) {
  together(2, false, [](ProcessGroup& group) {
    torch::manual_seed(group.rank());
    const auto images = torch::randn({3 + group.rank(), 4, 5, 5});
    const auto norm = [&] {
      return torch::instance_norm(images, {}, {}, {}, {}, /*use_input_stats=*/true, 0.1, 1e-5,
                                  /*cudnn_enabled=*/false);
    };
    const auto expected = norm();
    bsconv::distributed::SyncBatchNorm synchronized(group);
    const bsconv::OperatorCapture capture(synchronized);
    EXPECT_TRUE(torch::equal(norm(), expected));
  });
}

TEST(DistributedSyncBatchNorm, HasNoGradientsOfGradients) {
  together(2, /*sync_batch_norm=*/true, [](ProcessGroup& group) {
    torch::nn::BatchNorm2d norm(3);
    const auto images = torch::randn({2, 3, 4, 4}).requires_grad_();
    const auto output = group.run([&](const torch::Tensor& x) { return norm(x); }, images);
    EXPECT_THAT(error_of([&] {
                  torch::autograd::grad({output.square().sum()}, {images}, {},
                                        /*retain_graph=*/true, /*create_graph=*/true);
                }),
                HasSubstr("has no gradients of gradients"));
  });
}

}  // namespace
}  // namespace distributed_sync_batch_norm_test
