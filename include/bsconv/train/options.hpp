// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <vector>

#include <torch/arg.h>
#include <torch/types.h>

#include <bsconv/train/schedule.hpp>

namespace bsconv::train {

/// Settings of a `Trainer`. The defaults are the reference's training program.
struct TrainOptions {
  /// How many epochs to train in all. Default: 200.
  TORCH_ARG(int64_t, epochs) = 200;
  /// Learning rate of the first epochs. Default: 0.1.
  TORCH_ARG(double, learning_rate) = 0.1;
  /// Momentum of SGD. Default: 0.9.
  TORCH_ARG(double, momentum) = 0.9;
  /// Weight decay (L2) of all parameters. Default: 1e-4.
  TORCH_ARG(double, weight_decay) = 1e-4;
  /// Numbers of finished epochs after which the learning rate falls. Default: 100, 150, 180.
  TORCH_ARG(std::vector<int64_t>, schedule) = {100, 150, 180};
  /// Factor by which it falls. Default: 0.1.
  TORCH_ARG(double, gamma) = 0.1;
  /// Weight of the regularization loss. Default: 0.1.
  TORCH_ARG(double, alpha) = 0.1;
  /// Images in a batch. The batch source decides; kept here so that a checkpoint records it.
  /// Default: 128.
  TORCH_ARG(int64_t, batch_size) = 128;
  /// Seed of the batch source, recorded like `batch_size`. Default: 0.
  TORCH_ARG(uint64_t, seed) = 0;
  /// Where the model is trained. Default: the CPU.
  TORCH_ARG(torch::Device, device) = torch::kCPU;
  /// Threads that make batches ahead of the training step; 0 makes them in between. Default: 0.
  TORCH_ARG(int64_t, workers) = 0;
  /// After how many batches metrics are fetched from a GPU and observers are told. On the CPU they
  /// are told after every batch. Default: 10.
  TORCH_ARG(int64_t, log_interval) = 10;
  /// Folder for checkpoints and `metrics.csv`, made if needed. Default: empty, nothing is written.
  TORCH_ARG(std::filesystem::path, output_dir) = {};

 public:
  /// Throws `c10::Error` that names the first setting out of its range, its value and the range.
  void check() const {
    const auto finite_from_zero = [](const char* name, double value) {
      TORCH_CHECK(std::isfinite(value) && value >= 0, name, " must be a number from 0 on, got ",
                  value);
    };
    TORCH_CHECK(epochs_ >= 0, "epochs must not be negative, got ", epochs_);
    TORCH_CHECK(batch_size_ > 0, "batch_size must be positive, got ", batch_size_);
    TORCH_CHECK(workers_ >= 0, "workers must not be negative, got ", workers_);
    TORCH_CHECK(log_interval_ > 0, "log_interval must be positive, got ", log_interval_);
    TORCH_CHECK(momentum_ >= 0 && momentum_ < 1, "momentum must lie in 0..1, 1 excluded, got ",
                momentum_);
    finite_from_zero("weight_decay", weight_decay_);
    finite_from_zero("alpha", alpha_);
    (void)MultiStepSchedule(learning_rate_, schedule_, gamma_);
  }
};

}  // namespace bsconv::train
