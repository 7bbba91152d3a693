// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <bsconv/plot/csv_table.hpp>

#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/environment.hpp"
#include "support/process.hpp"
#include "support/process_group.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace cli_distributed_test {
namespace {

using bsconv::plot::CsvTable;
using bsconv_test::Environment;
using bsconv_test::free_port;
using bsconv_test::Process;
using bsconv_test::program;
using testing::HasSubstr;
using testing::Not;

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
}  // namespace cli_distributed_test
