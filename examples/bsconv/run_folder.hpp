// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/train/trainer.hpp>

#include <filesystem>
#include <fstream>
#include <string>

#include "train_settings.hpp"

namespace bsconv_program {

/// Where a run writes: the given folder, that of the resumed checkpoint, or a new one in runs/. A
/// folder that already holds a run that is not resumed is a `UsageError`.
std::filesystem::path choose_run_folder(const TrainFlags& flags, const TrainSettings& settings);

/// The files of a run beside its checkpoints and metrics.csv: settings.toml, log.txt and the events
/// for TensorBoard.
class RunFolder {
 public:
  /// Makes the folder, writes settings.toml and opens the log, which is continued.
  explicit RunFolder(const TrainSettings& settings);

  /// Prints `text` on standard output and to the log.
  void print(const std::string& text);

  /// Adds the observers that print, log and write events; call it after `Trainer::resume`.
  void observe(bsconv::train::Trainer& trainer);

 private:
  std::filesystem::path folder_;
  std::ofstream log_;
};

}  // namespace bsconv_program
