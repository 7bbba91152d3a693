// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "run_folder.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <bsconv/train/checkpoint_folder.hpp>
#include <bsconv/train/progress.hpp>
#include <bsconv/train/tensorboard.hpp>
#include <bsconv/weights/atomic_file.hpp>

#include <cerrno>
#include <iostream>
#include <memory>
#include <sstream>
#include <system_error>
#include <tuple>
#include <utility>

#include "common.hpp"

namespace bsconv_program {
namespace {

/// Whether it made `folder`, which is there already otherwise.
bool make_directories(const std::filesystem::path& folder) {
  std::error_code error;
  const bool made = std::filesystem::create_directories(folder, error);
  TORCH_CHECK(!error, "cannot make the output folder '", folder.native(), "': ", error.message());
  return made;
}

/// Makes a folder under runs/ that did not exist.
std::filesystem::path make_run_folder(const TrainSettings& settings) {
  const std::filesystem::path runs = "runs";
  make_directories(runs);
  for (int number = 1;; ++number) {
    std::string name = settings.architecture;
    name += "_" + settings.dataset + "_" + std::to_string(number);
    auto folder = runs / name;
    std::error_code error;
    if (std::filesystem::create_directory(folder, error)) {
      return folder;
    }
    TORCH_CHECK(!error || error == std::errc::file_exists, "cannot make the output folder '",
                folder.native(), "': ", error.message());
  }
}

/// Whether both are the same existing folder.
bool is_same(const std::filesystem::path& a, const std::filesystem::path& b) {
  std::error_code error;
  return std::filesystem::equivalent(a, b, error);
}

/// The folder that the resumed checkpoint lies in.
std::filesystem::path resumed_folder(const TrainFlags& flags) {
  const auto folder = in_directory(flags.resume, "last.safetensors").parent_path();
  return folder.empty() ? "." : folder;
}

/// The folder, and whether it is new.
std::pair<std::filesystem::path, bool> choose_folder(const TrainFlags& flags,
                                                     const TrainSettings& settings) {
  if (flags.out.empty()) {
    return flags.resume.empty() ? std::pair(make_run_folder(settings), true)
                                : std::pair(resumed_folder(flags), false);
  }
  std::error_code error;
  const bool resumed = !flags.resume.empty() && is_same(flags.out, resumed_folder(flags));
  if (!resumed && std::filesystem::exists(flags.out / "last.safetensors", error)) {
    throw UsageError("--out '" + flags.out.native() +
                     "' already holds a run; go on with it by --resume '" + flags.out.native() +
                     "', or choose another folder");
  }
  return {flags.out, make_directories(flags.out)};
}

}  // namespace

ClaimedFolder::ClaimedFolder(const TrainFlags& flags, const TrainSettings& settings) {
  std::tie(path_, is_new_) = choose_folder(flags, settings);
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  // Some file systems lock no folders.
  if (descriptor_ >= 0 && ::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(descriptor_);
    TORCH_CHECK(false, "another process trains in '", path_.native(),
                "'; wait for it, or choose another folder by --out");
  }
}

ClaimedFolder::~ClaimedFolder() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
  if (is_new_) {
    // Does nothing to a folder that holds something.
    std::error_code error;
    std::filesystem::remove(path_, error);
  }
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
