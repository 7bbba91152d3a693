// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <CLI/CLI.hpp>
#include <bsconv/nn/layer.hpp>
#include <bsconv/train/checkpoint_state.hpp>
#include <bsconv/train/options.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace bsconv_program {

/// Which trained model a command uses: a checkpoint's, one that comes with the library, or that of
/// a weight file.
struct TrainedModelFlags {
  std::filesystem::path checkpoint;
  std::string pretrained;
  std::filesystem::path weights;
  /// The name of the model whose weights these are; empty: what the file tells.
  std::string architecture;
};

/// Adds `--checkpoint`, `--pretrained`, also called `--model`, `--weights` and `--architecture`.
void add_trained_model_flags(CLI::App& command, TrainedModelFlags& flags);

/// A trained model, and how it was trained.
struct TrainedModel {
  bsconv::Layer model{nullptr};
  bsconv::train::RunInfo info;
  bsconv::train::TrainOptions options;
  /// The side of the square images that it takes.
  int64_t image_size = 0;
  /// The epoch whose weights these are, if it is known.
  std::optional<int64_t> epoch;
  /// Whether they are a moving average.
  bool averaged = false;
  /// Where it came from, for messages.
  std::string origin;
};

/// The model of `flags` on `device` in evaluation mode; of a checkpoint that has one, the moving
/// average of the weights if `averaged`. A folder stands for its best checkpoint. Flags that
/// contradict each other are a `UsageError`.
TrainedModel load_trained_model(const TrainedModelFlags& flags, torch::Device device,
                                bool averaged = true);

/// The model of `checkpoint`, read from `path`. Throws if it doesn't tell what it is of.
TrainedModel trained_model_of(const bsconv::train::Checkpoint& checkpoint,
                              const std::filesystem::path& path, torch::Device device,
                              bool averaged = true);

/// The trained model called `name` that comes with the library.
TrainedModel load_pretrained_model(const std::string& name, torch::Device device);

}  // namespace bsconv_program
