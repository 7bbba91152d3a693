// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <CLI/CLI.hpp>
#include <bsconv/nn/layer.hpp>
#include <bsconv/train/checkpoint_state.hpp>
#include <bsconv/train/options.hpp>

#include <cstdint>
#include <filesystem>
#include <string>

namespace bsconv_program {

/// Which trained model a command uses: a checkpoint's, or one that comes with the library.
struct TrainedModelFlags {
  std::filesystem::path checkpoint;
  std::string pretrained;
};

/// Adds `--checkpoint` and `--pretrained`, also called `--model`.
void add_trained_model_flags(CLI::App& command, TrainedModelFlags& flags);

/// A trained model, and how it was trained.
struct TrainedModel {
  bsconv::Layer model{nullptr};
  bsconv::train::RunInfo info;
  bsconv::train::TrainOptions options;
  /// The epoch whose weights these are.
  int64_t epoch = 0;
  /// Whether they are a moving average.
  bool averaged = false;
  /// Where it came from, for messages.
  std::string origin;
};

/// The model of `flags` on `device` in evaluation mode; of a checkpoint that has one, the moving
/// average of the weights if `averaged`. A folder stands for its best checkpoint. Both flags or
/// none is a `UsageError`.
TrainedModel load_trained_model(const TrainedModelFlags& flags, torch::Device device,
                                bool averaged = true);

}  // namespace bsconv_program
