// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <vector>

#include <torch/arg.h>
#include <torch/types.h>

#include <bsconv/train/choices.hpp>
#include <bsconv/train/schedule.hpp>

namespace bsconv::train {

/// Settings of a `Trainer`. The defaults are the reference's training program.
struct TrainOptions {
  /// How many epochs to train in all. Default: 200.
  TORCH_ARG(int64_t, epochs) = 200;
  /// What changes the weights. Default: SGD.
  TORCH_ARG(OptimizerType, optimizer) = OptimizerType::sgd;
  /// Learning rate that the schedule starts from; the highest one of one-cycle. Default: 0.1.
  TORCH_ARG(double, learning_rate) = 0.1;
  /// Momentum of SGD. Default: 0.9.
  TORCH_ARG(double, momentum) = 0.9;
  /// Whether SGD's momentum is Nesterov's. Default: no.
  TORCH_ARG(bool, nesterov) = false;
  /// AdamW's decay of the mean of gradients. Default: 0.9.
  TORCH_ARG(double, beta1) = 0.9;
  /// AdamW's decay of the mean of squared gradients. Default: 0.999.
  TORCH_ARG(double, beta2) = 0.999;
  /// What AdamW adds to the denominator. Default: 1e-8.
  TORCH_ARG(double, epsilon) = 1e-8;
  /// Weight decay: L2 with SGD, decoupled with AdamW. Default: 1e-4.
  TORCH_ARG(double, weight_decay) = 1e-4;
  /// Whether biases and the weights of norms (parameters of one dimension) have no weight decay.
  /// Default: no.
  TORCH_ARG(bool, exempt_norm_bias) = false;
  /// How the learning rate changes. Default: in steps.
  TORCH_ARG(ScheduleType, schedule_type) = ScheduleType::multistep;
  /// Multi-step: numbers of finished epochs after which the learning rate falls. Default: 100, 150,
  /// 180.
  TORCH_ARG(std::vector<int64_t>, schedule) = {100, 150, 180};
  /// Multi-step: factor by which it falls. Default: 0.1.
  TORCH_ARG(double, gamma) = 0.1;
  /// Cosine: the last learning rate. Default: 0.
  TORCH_ARG(double, min_learning_rate) = 0;
  /// One-cycle: share of the steps in which the rate rises. Default: 0.3.
  TORCH_ARG(double, pct_start) = 0.3;
  /// One-cycle: highest rate divided by the first one. Default: 25.
  TORCH_ARG(double, div_factor) = 25;
  /// One-cycle: first rate divided by the last one. Default: 1e4.
  TORCH_ARG(double, final_div_factor) = 1e4;
  /// Epochs, fractions allowed, in which the rate first rises linearly. Default: 0.
  TORCH_ARG(double, warmup_epochs) = 0;
  /// Share of the learning rate that the warm-up starts from. Default: 0.01.
  TORCH_ARG(double, warmup_factor) = 0.01;
  /// Share of a target's probability that is spread over all classes, in training. Default: 0.
  TORCH_ARG(double, label_smoothing) = 0;
  /// With a teacher: the distillation loss's part of the loss; the labels have the rest. Default:
  /// 0.9.
  TORCH_ARG(double, distillation_weight) = 0.9;
  /// With a teacher: what logits are divided by before softmax. Default: 4.
  TORCH_ARG(double, distillation_temperature) = 4;
  /// Largest norm of all gradients together; 0 leaves them as they are. Default: 0.
  TORCH_ARG(double, clip_grad_norm) = 0;
  /// Batches whose gradients are averaged for one step of the optimizer. Default: 1.
  TORCH_ARG(int64_t, accumulate) = 1;
  /// Decay of the exponential moving average (EMA) of the weights, which is then what is tested;
  /// 0 keeps none. Default: 0.
  TORCH_ARG(double, ema_decay) = 0;
  /// Numbers of the forward pass. Default: float32.
  TORCH_ARG(Precision, precision) = Precision::f32;
  /// Whether weights and images lie in memory with channels last. Default: no.
  TORCH_ARG(bool, channels_last) = false;
  /// Weight of the regularization loss. Default: 0.1.
  TORCH_ARG(double, alpha) = 0.1;
  /// Images in a batch. The batch source decides; kept here so that a checkpoint records it.
  /// Default: 128.
  TORCH_ARG(int64_t, batch_size) = 128;
  /// Seed of the batch source, recorded like `batch_size`. Default: 0.
  TORCH_ARG(uint64_t, seed) = 0;
  /// Epochs between tests; the last epoch is always followed by one. Default: 1.
  TORCH_ARG(int64_t, eval_every) = 1;
  /// Epochs without a better test accuracy after which the training ends; 0: never. Default: 0.
  TORCH_ARG(int64_t, patience) = 0;
  /// How many numbered checkpoints (`epoch-0007.safetensors`) to keep beside best and last.
  /// Default: 0.
  TORCH_ARG(int64_t, keep_checkpoints) = 0;
  /// Batches between checkpoints inside an epoch; 0: only after it. Default: 0.
  TORCH_ARG(int64_t, checkpoint_steps) = 0;
  /// Where the model is trained. Default: the CPU.
  TORCH_ARG(torch::Device, device) = torch::kCPU;
  /// Threads that make batches ahead of the training step; 0 makes them in between. Default: 0.
  TORCH_ARG(int64_t, workers) = 0;
  /// After how many batches metrics are fetched from a GPU and observers are told. On the CPU they
  /// are told after every batch. Default: 10.
  TORCH_ARG(int64_t, log_interval) = 10;
  /// Folder for checkpoints and `metrics.csv`, made if needed. Default: empty, nothing is written.
  TORCH_ARG(std::filesystem::path, output_dir) = {};
  /// Whether checkpoints and `metrics.csv` of another run are removed from that folder; a folder
  /// that holds one is refused otherwise. Default: no.
  TORCH_ARG(bool, overwrite) = false;

 public:
  /// Throws `c10::Error` that names the first setting out of its range, its value and the range.
  void check() const {
    const auto finite_from_zero = [](const char* name, double value) {
      TORCH_CHECK(std::isfinite(value) && value >= 0, name, " must be a number from 0 on, got ",
                  value);
    };
    const auto below_one = [](const char* name, double value) {
      TORCH_CHECK(value >= 0 && value < 1, name, " must lie in 0..1, 1 excluded, got ", value);
    };
    const auto not_negative = [](const char* name, int64_t value) {
      TORCH_CHECK(value >= 0, name, " must not be negative, got ", value);
    };
    const auto positive = [](const char* name, int64_t value) {
      TORCH_CHECK(value > 0, name, " must be positive, got ", value);
    };
    not_negative("epochs", epochs_);
    positive("batch_size", batch_size_);
    not_negative("workers", workers_);
    positive("log_interval", log_interval_);
    below_one("momentum", momentum_);
    TORCH_CHECK(!nesterov_ || momentum_ > 0, "nesterov needs a momentum above 0");
    below_one("beta1", beta1_);
    below_one("beta2", beta2_);
    TORCH_CHECK(epsilon_ > 0 && epsilon_ <= 1, "epsilon must lie in 0..1, 0 excluded, got ",
                epsilon_);
    finite_from_zero("weight_decay", weight_decay_);
    finite_from_zero("alpha", alpha_);
    below_one("label_smoothing", label_smoothing_);
    TORCH_CHECK(distillation_weight_ >= 0 && distillation_weight_ <= 1,
                "distillation_weight must lie in 0..1, got ", distillation_weight_);
    TORCH_CHECK(std::isfinite(distillation_temperature_) && distillation_temperature_ > 0,
                "distillation_temperature must be a number above 0, got ",
                distillation_temperature_);
    finite_from_zero("clip_grad_norm", clip_grad_norm_);
    positive("accumulate", accumulate_);
    below_one("ema_decay", ema_decay_);
    positive("eval_every", eval_every_);
    not_negative("patience", patience_);
    not_negative("keep_checkpoints", keep_checkpoints_);
    not_negative("checkpoint_steps", checkpoint_steps_);
    (void)learning_rates();
  }

  /// The learning rate of every step of the training.
  Schedule learning_rates() const {
    return Schedule(curve(), epochs_, warmup_epochs_, warmup_factor_);
  }

 private:
  Schedule::Curve curve() const {
    switch (schedule_type_) {
      case ScheduleType::cosine:
        return CosineSchedule(learning_rate_, min_learning_rate_);
      case ScheduleType::onecycle:
        return OneCycleSchedule(learning_rate_, pct_start_, div_factor_, final_div_factor_);
      case ScheduleType::multistep:
        break;
    }
    return MultiStepSchedule(learning_rate_, schedule_, gamma_);
  }
};

}  // namespace bsconv::train
