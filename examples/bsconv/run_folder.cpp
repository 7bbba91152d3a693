// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "run_folder.hpp"

#include <bsconv/train/checkpoint_folder.hpp>
#include <bsconv/train/progress.hpp>
#include <bsconv/train/tensorboard.hpp>
#include <bsconv/weights/atomic_file.hpp>

#include <iostream>
#include <memory>
#include <sstream>
#include <system_error>

#include "common.hpp"

namespace bsconv_program {
namespace {

/// A folder under runs/ that does not exist yet.
std::filesystem::path new_run_folder(const TrainSettings& settings) {
  for (int number = 1;; ++number) {
    std::string name = settings.architecture;
    name += "_" + settings.dataset + "_" + std::to_string(number);
    auto folder = std::filesystem::path("runs") / name;
    std::error_code error;
    if (!std::filesystem::exists(folder, error)) {
      return folder;
    }
  }
}

}  // namespace

std::filesystem::path choose_run_folder(const TrainFlags& flags, const TrainSettings& settings) {
  if (flags.out.empty()) {
    return flags.resume.empty() ? new_run_folder(settings)
                                : in_directory(flags.resume, "last.safetensors").parent_path();
  }
  std::error_code error;
  if (flags.resume.empty() && std::filesystem::exists(flags.out / "last.safetensors", error)) {
    throw UsageError("--out '" + flags.out.native() +
                     "' already holds a run; go on with it by --resume '" + flags.out.native() +
                     "', or choose another folder");
  }
  return flags.out;
}

RunFolder::RunFolder(const TrainSettings& settings) : folder_(settings.options.output_dir()) {
  bsconv::train::CheckpointFolder(folder_, 0).prepare();
  std::ostringstream text;
  write_settings(text, settings);
  bsconv::weights::write_text_file(folder_ / settings_file_name, text.str());
  log_.open(folder_ / "log.txt", std::ios::app);
  TORCH_CHECK(log_, "cannot write '", (folder_ / "log.txt").native(), "'");
}

void RunFolder::print(const std::string& text) {
  std::cout << text << std::flush;
  log_ << text << std::flush;
}

void RunFolder::observe(bsconv::train::Trainer& trainer) {
  using bsconv::train::Progress;
  using bsconv::train::ProgressStyle;
  trainer.observe(std::make_shared<Progress>(std::cout))
      .observe(std::make_shared<Progress>(log_, ProgressStyle::lines))
      .observe(std::make_shared<bsconv::train::TensorBoard>(folder_, trainer.epoch()));
}

}  // namespace bsconv_program
