// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>
#include <torch/types.h>

#include <bsconv/train/checkpoint.hpp>
#include <bsconv/weights/atomic_file.hpp>

namespace bsconv::train {

/// The file name of a numbered checkpoint: "epoch-0007.safetensors".
inline std::string numbered_checkpoint_name(int64_t epoch) {
  char name[64];
  std::snprintf(name, sizeof name, "epoch-%04lld.safetensors", static_cast<long long>(epoch));
  return name;
}

/// The epoch of a numbered checkpoint's file name; nothing if it is another name.
inline std::optional<int64_t> numbered_checkpoint_epoch(const std::string& name) {
  long long epoch = -1;
  if (std::sscanf(name.c_str(), "epoch-%lld.", &epoch) != 1 || epoch < 0 ||
      name != numbered_checkpoint_name(epoch)) {
    return std::nullopt;
  }
  return epoch;
}

/// Where the checkpoints of a run go. Without a folder nothing is written, but the weights are
/// checked all the same.
class CheckpointFolder {
 public:
  /// Keeps the last `numbered` of the numbered checkpoints.
  CheckpointFolder(std::filesystem::path folder, int64_t numbered)
      : folder_(std::move(folder)), numbered_(numbered) {}

  /// Makes the folder and finds out whether it can be written. Throws `c10::Error` if not, or if
  /// what checkpoints would say of `info` is not UTF-8.
  void prepare(const RunInfo& info = {}) const {
    if (folder_.empty()) {
      return;
    }
    detail::check_texts(info);
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    TORCH_CHECK(!error, "cannot make the output folder '", folder_.native(),
                "': ", error.message());
    const weights::AtomicFile probe(folder_ / "last.safetensors");
  }

  /// Whether the folder holds the last checkpoint of a run that this one neither is nor goes on
  /// from.
  bool holds_another_run() const {
    std::error_code error;
    return !folder_.empty() && !resumed_ && last_good_.empty() &&
           std::filesystem::exists(folder_ / "last.safetensors", error);
  }

  /// Throws `c10::Error` if `holds_another_run`.
  void check_is_free() const {
    TORCH_CHECK(!holds_another_run(), "'", folder_.native(),
                "' holds a run; resume_from its last.safetensors, choose another output_dir, or "
                "set overwrite");
  }

  /// Removes the checkpoints and the metrics of the other run if `holds_another_run`. Throws
  /// `c10::Error` if one can't be removed.
  void remove_another_run() const {
    if (!holds_another_run()) {
      return;
    }
    std::vector<std::filesystem::path> old;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder_, error)) {
      if (is_of_a_run(entry.path().filename().native())) {
        old.push_back(entry.path());
      }
    }
    // The one that tells that there is a run goes last.
    old.push_back(folder_ / "last.safetensors");
    for (const auto& path : old) {
      std::filesystem::remove(path, error);
      TORCH_CHECK(!error, "cannot remove '", path.native(), "': ", error.message());
    }
  }

  /// Writes `state` as `name`; returns its path, empty without a folder. Throws `c10::Error`, and
  /// writes nothing, if one of its numbers is not finite.
  std::filesystem::path write(const std::string& name, const Checkpoint& state) {
    check_finite(state);
    if (folder_.empty()) {
      return {};
    }
    auto path = folder_ / name;
    save_checkpoint(path, state);
    last_good_ = path;
    return path;
  }

  /// Before a run that goes on from another checkpoint than "last.safetensors": renames
  /// "best.safetensors" to "best-of-epoch-0018.safetensors" if it is of that epoch, and not of
  /// `epoch`, the best of the history, since it is not this run's. Throws `c10::Error` if it can't
  /// be read or renamed.
  void set_aside_best_unless(int64_t epoch) const {
    const auto best = folder_ / "best.safetensors";
    std::error_code error;
    if (folder_.empty() || !resumed_ || !std::filesystem::exists(best, error) ||
        (!last_good_.empty() &&
         std::filesystem::equivalent(last_good_, folder_ / "last.safetensors", error))) {
      return;
    }
    const auto found = load_checkpoint(best).epoch;
    if (found == epoch) {
      return;
    }
    const auto aside = folder_ / (std::string(aside_prefix) + numbered_checkpoint_name(found));
    std::filesystem::rename(best, aside, error);
    TORCH_CHECK(!error, "cannot rename '", best.native(), "' to '", aside.native(),
                "': ", error.message());
  }

  /// Whether numbered checkpoints are kept.
  bool keeps_numbered() const noexcept { return numbered_ > 0; }

  /// Removes the numbered checkpoints that are too old once that of `epoch` is written. One that
  /// can't be removed stays.
  void remove_old(int64_t epoch) const {
    if (folder_.empty() || numbered_ == 0) {
      return;
    }
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder_, error)) {
      const auto number = numbered_checkpoint_epoch(entry.path().filename().native());
      if (number && *number <= epoch - numbered_) {
        std::filesystem::remove(entry.path(), error);
      }
    }
  }

  /// Says that the run goes on from the checkpoint at `path`, or from one that has none.
  void resumed_from(std::filesystem::path path) {
    last_good_ = std::move(path);
    resumed_ = true;
  }

  /// A sentence part that names the last good checkpoint.
  std::string last_good() const {
    return last_good_.empty() ? std::string("no checkpoint was written before")
                              : "the last good checkpoint is '" + last_good_.native() + "'";
  }

 private:
  /// What the name of a best checkpoint that was set aside begins with.
  static constexpr std::string_view aside_prefix = "best-of-";

  /// Whether a file of that name, other than the last checkpoint, is one that a run leaves.
  static bool is_of_a_run(const std::string& name) {
    return name == "best.safetensors" || name == "metrics.csv" || numbered_checkpoint_epoch(name) ||
           (name.starts_with(aside_prefix) &&
            numbered_checkpoint_epoch(name.substr(aside_prefix.size())));
  }

  void check_finite(const Checkpoint& state) const {
    for (const auto* part : {&state.model, &state.momentum, &state.adamw, &state.ema}) {
      for (const auto& item : *part) {
        TORCH_CHECK(
            !item.value().is_floating_point() || torch::isfinite(item.value()).all().item<bool>(),
            "'", item.key(), "' is not finite after ",
            state.step > 0 ? c10::str("step ", state.step, " of ") : "", "epoch ",
            state.epoch + (state.step > 0 ? 1 : 0), ", which was not saved; ", last_good());
      }
    }
  }

  std::filesystem::path folder_;
  int64_t numbered_;
  std::filesystem::path last_good_;
  bool resumed_ = false;
};

}  // namespace bsconv::train
