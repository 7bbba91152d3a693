// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <torch/torch.h>
#include <unistd.h>
#include <bsconv/data.hpp>
#include <bsconv/distributed.hpp>
#ifdef BSCONV_HAS_NCCL
#include <bsconv/distributed/nccl.hpp>
#endif
#include <bsconv/nn.hpp>
#include <bsconv/plot/csv_table.hpp>
#include <bsconv/train/trainer.hpp>

#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "support/environment.hpp"
#include "support/process.hpp"
#include "test_files.hpp"

namespace distributed_test {
namespace {

using bsconv::data::Shard;
using bsconv::distributed::ProcessGroup;
using bsconv::distributed::Rendezvous;
using bsconv::plot::CsvTable;
using bsconv_test::Environment;
using bsconv_test::EnvironmentGuard;
using bsconv_test::error_of;
using bsconv_test::Process;
using bsconv_test::program;
using bsconv_test::Result;
using testing::HasSubstr;
using testing::Not;

/// A TCP port that is free at the moment.
int free_port() {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  TORCH_CHECK(::bind(descriptor, reinterpret_cast<sockaddr*>(&address), size) == 0);
  ::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size);
  ::close(descriptor);
  return ntohs(address.sin_port);
}

/// Runs `work` for every process of a group, each in a thread of its own.
template <class Work>
void together(int64_t world_size, bool sync_batch_norm, const Work& work) {
  // LibTorch's flight recorder, one a process, adds groups to a map without a lock.
  ::setenv("TORCH_FR_BUFFER_SIZE", "0", 1);
  const int port = free_port();
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([=, &work] {
      try {
        ProcessGroup group(Rendezvous()
                               .rank(rank)
                               .world_size(world_size)
                               .master_port(port)
                               .interface("lo")
                               .timeout(std::chrono::seconds(60)),
                           sync_batch_norm);
        work(group);
      } catch (const std::exception& error) {
        ADD_FAILURE() << "process " << rank << ": " << error.what();
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
}

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
TEST(Distributed, SyncBatchNormGivesTheGradientsOfOneProcess) {
  expect_gradients_of_one_process(torch::kCPU);
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

TEST(Distributed, SyncBatchNormLeavesInstanceNormsAlone) {
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

TEST(Distributed, SyncBatchNormHasNoGradientsOfGradients) {
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

TEST(Distributed, TheEnvironmentTellsWhoAProcessIs) {
  const auto found_in = [](Environment environment) {
    for (const auto* name : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}) {
      environment.try_emplace(name, std::nullopt);
    }
    const EnvironmentGuard guard(environment);
    return bsconv::distributed::rendezvous_of_environment();
  };
  const auto error = [&](const Environment& environment) {
    return error_of([&] { found_in(environment); });
  };
  EXPECT_FALSE(found_in({}).has_value());
  const auto found = found_in({{"RANK", "1"},
                               {"WORLD_SIZE", "4"},
                               {"LOCAL_RANK", "1"},
                               {"MASTER_ADDR", "host"},
                               {"MASTER_PORT", "1234"}});
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->rank(), 1);
  EXPECT_EQ(found->world_size(), 4);
  EXPECT_EQ(found->local_rank(), 1);
  EXPECT_EQ(found->master_address(), "host");
  EXPECT_EQ(found->master_port(), 1234);
  EXPECT_THAT(error({{"RANK", "1"}}), HasSubstr("has RANK but no WORLD_SIZE"));
  EXPECT_THAT(error({{"WORLD_SIZE", "1"}}), HasSubstr("has WORLD_SIZE but no RANK"));
  EXPECT_THAT(error({{"RANK", "x"}, {"WORLD_SIZE", "1"}}), HasSubstr("RANK is 'x', not a number"));
  EXPECT_THAT(error({{"RANK", "0"}, {"WORLD_SIZE", "2"}}), HasSubstr("has no MASTER_ADDR"));
  EXPECT_THAT(error({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}}),
              HasSubstr("has no MASTER_PORT"));
  EXPECT_THAT(
      error({{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "1"}}),
      HasSubstr("rank must be 0 to 1, got 2"));
  EXPECT_THAT(
      error({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "70000"}}),
      HasSubstr("master_port must be 1 to 65535, got 70000"));
  EXPECT_THAT(error_of([] {
                ProcessGroup(Rendezvous()
                                 .rank(1)
                                 .world_size(2)
                                 .master_port(free_port())
                                 .timeout(std::chrono::seconds(1)));
              }),
              HasSubstr("process 1 of 2 cannot meet the others at 127.0.0.1:"));
}

/// Runs `bsconv train` as several processes.
class DistributedTraining : public bsconv_test::ProgramTest {
 protected:
  static std::vector<std::unique_ptr<Process>> start(int64_t world_size,
                                                     const std::vector<std::string>& flags) {
    const auto port = std::to_string(free_port());
    std::vector<std::unique_ptr<Process>> processes;
    for (int64_t rank = 0; rank < world_size; ++rank) {
      processes.push_back(
          std::make_unique<Process>(flags, Environment{{"RANK", std::to_string(rank)},
                                                       {"WORLD_SIZE", std::to_string(world_size)},
                                                       {"LOCAL_RANK", std::to_string(rank)},
                                                       {"MASTER_ADDR", "127.0.0.1"},
                                                       {"MASTER_PORT", port},
                                                       {"GLOO_SOCKET_IFNAME", "lo"}}));
    }
    return processes;
  }

  std::vector<std::string> flags(const std::string& out, int epochs = 1) const {
    return {"train",
            "--dataset",
            "digits",
            "--architecture",
            "cifar_resnet20_bsconvs_p1d4",
            "--batch-size",
            "360",
            "--learning-rate",
            "0.02",
            "--sync-batch-norm",
            "--epochs",
            std::to_string(epochs),
            "--out",
            (directory / out).native()};
  }

  CsvTable metrics(const std::string& out) const {
    return CsvTable::read(directory / out / "metrics.csv");
  }
};

TEST_F(DistributedTraining, SeveralProcessesGiveTheLossesOfOne) {
  const auto one = bsconv_test::run(flags("one"));
  ASSERT_EQ(one.code, 0) << one.output;
  const auto expected = metrics("one");
  for (const int64_t world_size : {2, 4}) {
    SCOPED_TRACE(world_size);
    const auto out = "of" + std::to_string(world_size);
    const auto processes = start(world_size, flags(out));
    for (int64_t rank = 0; rank < world_size; ++rank) {
      const auto result = processes[static_cast<std::size_t>(rank)]->wait();
      EXPECT_EQ(result.code, 0) << result.output;
      EXPECT_THAT(result.output, rank == 0
                                     ? HasSubstr("processes train together")
                                     : testing::Matcher<std::string>(Not(HasSubstr("epoch"))));
    }
    const auto found = metrics(out);
    ASSERT_EQ(found.size(), 1U);
    // Losses of training and test. Sums in another order make a difference that grows with every
    // step: after these four, processors with AVX-512 were seen to differ by 1.2e-3.
    for (const auto* name : {"train_loss", "train_cross_entropy", "train_regularization",
                             "test_loss", "test_cross_entropy", "test_regularization"}) {
      const double value = expected.numbers(name)[0];
      EXPECT_NEAR(found.numbers(name)[0], value, 3e-3 * value) << name;
    }
    EXPECT_NEAR(found.numbers("train_top1")[0], expected.numbers("train_top1")[0], 0.02);
  }
}

TEST_F(DistributedTraining, NcclIsForCuda) {
  auto arguments = flags("nccl");
  arguments.insert(arguments.end(), {"--process-backend", "nccl"});
  for (const auto& process : start(2, arguments)) {
    const auto result = process->wait();
    EXPECT_EQ(result.code, 2);
    EXPECT_THAT(result.output, HasSubstr("--process-backend"));
    EXPECT_THAT(result.output, HasSubstr("gloo"));
  }
}

TEST_F(DistributedTraining, ResumesWithAnotherNumberOfProcesses) {
  auto arguments = flags("run", 1);
  arguments.insert(arguments.end(), {"--ema-decay", "0.9"});
  for (const auto& process : start(2, arguments)) {
    const auto result = process->wait();
    ASSERT_EQ(result.code, 0) << result.output;
  }
  const auto result =
      bsconv_test::run({"train", "--resume", (directory / "run").native(), "--epochs", "2"});
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("resumed after epoch 1"));
  const auto losses = metrics("run").numbers("train_loss");
  ASSERT_EQ(losses.size(), 2U);
  EXPECT_LT(losses[1], losses[0]);
}

TEST_F(DistributedTraining, ALostProcessEndsTheOthers) {
  auto arguments = flags("lost", 50);
  arguments.insert(arguments.end(), {"--process-timeout", "20"});
  const auto processes = start(2, arguments);
  processes[0]->wait_for("epoch 1/50");
  processes[1]->send(SIGKILL);
  EXPECT_EQ(processes[1]->wait().code, -SIGKILL);
  const auto killed = std::chrono::steady_clock::now();
  const auto left = processes[0]->wait();
  EXPECT_EQ(left.code, 1) << left.output;
  EXPECT_LT(std::chrono::steady_clock::now() - killed, std::chrono::seconds(40));
  EXPECT_THAT(left.output, HasSubstr("process 0 of 2: "));
  EXPECT_THAT(left.output, HasSubstr("another process has ended or does not answer"));
}

TEST_F(DistributedTraining, AnInterruptionOfOneProcessEndsAllWithACheckpoint) {
  const auto processes = start(2, flags("stopped", 50));
  processes[0]->wait_for("epoch 1/50");
  processes[1]->send(SIGTERM);
  EXPECT_EQ(processes[1]->wait().code, 130);
  const auto first = processes[0]->wait();
  EXPECT_EQ(first.code, 130);
  EXPECT_THAT(first.output, HasSubstr("interrupted; go on with: bsconv train --resume"));
  EXPECT_TRUE(std::filesystem::exists(directory / "stopped" / "last.safetensors"));
}

TEST_F(DistributedTraining, ABrokenTestImageIsNoInterruption) {
  const auto folder = directory / "images";
  for (const char* split : {"train", "val"}) {
    for (const char* name : {"a/1", "a/2", "a/3", "b/1", "b/2", "b/3"}) {
      const auto image = folder / split / (std::string(name) + ".png");
      // Their content tells that they are PPM.
      std::string pixels = "P6\n4 4\n255\n";
      pixels.resize(pixels.size() + 48, name[2]);
      bsconv_test::write_file(image, pixels);
    }
  }
  bsconv_test::write_file(folder / "val/b/2.png", "P6\n4 4\n255\n");
  const auto processes =
      start(2, {"train", "--dataset", "image_folder", "--data-root", folder.native(),
                "--architecture", "cifar_resnet20_bsconvu", "--batch-size", "2", "--broken-images",
                "skip", "--epochs", "2", "--out", (directory / "run").native()});
  for (const auto& process : processes) {
    const auto result = process->wait();
    EXPECT_EQ(result.code, 0) << result.output;
  }
  EXPECT_EQ(metrics("run").size(), 2U);
}

TEST_F(DistributedTraining, WorksAcrossNetworkNamespaces) {
  const auto shell = [](const std::string& command) {
    return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
  };
  // Names of this process's own; those of interfaces hold 15 characters.
  const auto name = [](const char* kind, const char* side) {
    return "bsc" + std::string(kind) + std::to_string(::getpid()) + side;
  };
  const std::string space[2] = {name("n", "a"), name("n", "b")};
  const std::string link[2] = {name("v", "a"), name("v", "b")};
  const auto clean = [&] {
    shell("ip netns del " + space[0]);
    shell("ip netns del " + space[1]);
    shell("ip link del " + link[0]);
  };
  std::string commands = "ip netns add " + space[0] + " && ip netns add " + space[1] +
                         " && ip link add " + link[0] + " type veth peer name " + link[1];
  for (int side = 0; side < 2; ++side) {
    const std::string inside = " && ip -n " + space[side];
    commands += " && ip link set " + link[side] + " netns " + space[side] + inside +
                " addr add 10.97.0." + std::to_string(side + 1) + "/24 dev " + link[side] + inside +
                " link set lo up" + inside + " link set " + link[side] + " up";
  }
  const bool made = shell(commands);
  if (!made) {
    clean();
    GTEST_SKIP() << "this process may not make network namespaces (root and iproute2 needed)";
  }
  const auto run = [&](int rank) {
    std::string command = "ip netns exec " + space[rank] +
                          " env OMP_NUM_THREADS=1 WORLD_SIZE=2 MASTER_ADDR=10.97.0.1 "
                          "MASTER_PORT=29555 RANK=" +
                          std::to_string(rank) + " GLOO_SOCKET_IFNAME=" + link[rank] + " " +
                          program();
    for (const auto& flag : flags("net")) {
      command += " '" + flag + "'";
    }
    return command;
  };
  bool second = false;
  std::thread other([&] { second = shell(run(1)); });
  const bool first = shell(run(0));
  other.join();
  clean();
  EXPECT_TRUE(first && second);
  EXPECT_GT(metrics("net").numbers("train_top1").at(0), 0.1);
}

}  // namespace
}  // namespace distributed_test
