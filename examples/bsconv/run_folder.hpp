// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/train/trainer.hpp>

#include <filesystem>
#include <fstream>
#include <string>

#include "train_settings.hpp"

namespace bsconv_program {

/// The folder that a run writes to, which belongs to it alone while this object lives: the given
/// one, that of the resumed checkpoint, or a new one in runs/.
class ClaimedFolder {
 public:
  /// Makes the folder. One that holds another run is a `UsageError`, one that another process
  /// trains in an error.
  ClaimedFolder(const TrainFlags& flags, const TrainSettings& settings);

  ClaimedFolder(const ClaimedFolder&) = delete;
  ClaimedFolder& operator=(const ClaimedFolder&) = delete;

  /// Removes a new folder again if nothing was written to it.
  ~ClaimedFolder();

  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
  bool is_new_ = false;
  int descriptor_ = -1;
};

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
