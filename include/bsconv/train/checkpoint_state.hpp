// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <torch/types.h>

#include <bsconv/train/metrics.hpp>
#include <bsconv/train/options.hpp>
#include <bsconv/weights/state_dict.hpp>

namespace bsconv::train {

/// What is trained on what; kept in checkpoints so that they explain themselves.
struct RunInfo {
  /// The model's name, such as "cifar_resnet20_bsconvu". Empty: unknown.
  std::string architecture;
  /// The data set's name. Empty: unknown.
  std::string dataset;
  /// The classes' names in the order of the logits.
  std::vector<std::string> class_names;
  /// Channels of the input images.
  int64_t in_channels = 3;
  /// Settings of the program around the trainer by name, such as those of its augmentation.
  std::map<std::string, std::string> settings = {};

  /// How many classes there are.
  int64_t num_classes() const noexcept { return static_cast<int64_t>(class_names.size()); }
};

/// Everything a training needs to go on as if it had never stopped.
struct Checkpoint {
  /// What is trained on what.
  RunInfo info;
  /// The settings; `device`, `workers`, `log_interval`, `output_dir` and `overwrite` are not kept.
  TrainOptions options;
  /// Epochs that are finished, their test included.
  int64_t epoch = 0;
  /// Batches done of the epoch after those.
  int64_t step = 0;
  /// Batches in an epoch; 0 if unknown.
  int64_t steps = 0;
  /// Sums over these batches.
  MetricSums partial;
  /// Seconds that these batches took; 0 if unknown.
  double seconds = 0;
  /// The finished epochs.
  std::vector<EpochSummary> history;
  /// Parameters and buffers.
  weights::StateDict model;
  /// SGD's momentum by parameter name; empty before the first step.
  weights::StateDict momentum;
  /// AdamW's steps and moments, see `adamw_state`; empty with SGD.
  weights::StateDict adamw;
  /// The moving average of `model`; empty if none is kept.
  weights::StateDict ema;
  /// Updates of the moving average.
  int64_t ema_updates = 0;
  /// State of the gradient scaler; empty if none is used.
  weights::StateDict scaler;
  /// States of LibTorch's default generators by device, uint8.
  weights::StateDict generators;

  /// The weights that are tested and used: the moving average if there is one.
  const weights::StateDict& inference_model() const { return ema.is_empty() ? model : ema; }
};

}  // namespace bsconv::train
