// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <CLI/CLI.hpp>
#include <bsconv/data/mix.hpp>
#include <bsconv/data/transform.hpp>
#include <bsconv/train/checkpoint_state.hpp>
#include <bsconv/train/options.hpp>
#include <bsconv/train/settings_file.hpp>

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace bsconv_program {

/// The settings of a run, in its folder.
inline constexpr const char* settings_file_name = "settings.toml";

/// All settings of `bsconv train`, from flags, a settings file and a checkpoint.
struct TrainSettings {
  std::string architecture = "cifar_resnet20_bsconvu";
  std::string dataset = "digits";
  std::string data_root;
  int64_t workers = 1;
  std::string device = "cpu";
  std::string broken_images = "stop";
  std::string augment = "none";
  double random_erasing = 0;
  double mixup = 0;
  double cutmix = 0;
  /// 0: that of the architecture.
  int64_t image_size = 0;
  bool sync_batch_norm = false;
  std::string teacher = "none";
  std::string weights = "none";
  /// The settings that a checkpoint keeps, and the device, workers and run folder.
  bsconv::train::TrainOptions options;
};

/// How several processes that train together talk; nothing of it changes what comes out.
struct ProcessSettings {
  /// How long to wait for the others, in seconds.
  int64_t timeout = 600;
  /// "gloo", "nccl", or "auto": NCCL between GPUs where the program has it.
  std::string backend = "auto";
};

/// What was typed. Flags that were not given are absent: a resumed run then keeps its own settings.
struct TrainFlags {
  std::vector<bsconv::train::GivenSetting> settings;
  std::filesystem::path config;
  std::filesystem::path out;
  std::filesystem::path resume;
  bool dry_run = false;
  ProcessSettings processes;
};

/// Adds a flag for every setting, and the others, to `command`.
void add_train_flags(CLI::App& command, TrainFlags& flags);

/// The settings of a new run, or of the resumed one, with those of the settings file and then the
/// given flags on top. A wrong one is a `UsageError` that says where it was given.
TrainSettings make_settings(const TrainFlags& flags,
                            const std::optional<bsconv::train::Checkpoint>& checkpoint);

/// What a checkpoint keeps of the program's own settings.
std::map<std::string, std::string> kept_settings(const TrainSettings& settings);

/// What the settings do to training images after the data set's recipe.
bsconv::data::Augmentation augmentation_of(const TrainSettings& settings);

/// How they mix training images.
bsconv::data::Mixing mixing_of(const TrainSettings& settings);

/// Writes the settings as a file that `--config` reads.
void write_settings(std::ostream& out, const TrainSettings& settings);

}  // namespace bsconv_program
