// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/types.h>
#include <nlohmann/json.hpp>

#include <bsconv/train/metrics.hpp>
#include <bsconv/train/options.hpp>
#include <bsconv/weights/safetensors.hpp>
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

  /// How many classes there are.
  int64_t num_classes() const noexcept { return static_cast<int64_t>(class_names.size()); }
};

/// Everything a training needs to go on as if it had never stopped.
struct Checkpoint {
  /// What is trained on what.
  RunInfo info;
  /// The settings; `device`, `workers`, `log_interval` and `output_dir` are not kept.
  TrainOptions options;
  /// Epochs that are finished, their test included.
  int64_t epoch = 0;
  /// Batches done of the epoch after those.
  int64_t step = 0;
  /// Sums over these batches.
  MetricSums partial;
  /// The finished epochs.
  std::vector<EpochSummary> history;
  /// Parameters and buffers.
  weights::StateDict model;
  /// SGD's momentum by parameter name; empty before the first step.
  weights::StateDict momentum;
  /// States of LibTorch's default generators by device, uint8.
  weights::StateDict generators;
};

namespace detail {

inline constexpr int64_t checkpoint_version = 1;
inline constexpr std::string_view checkpoint_format = "bsconv-checkpoint";

// JSON has no NaN; it is written as null.
inline double number(const nlohmann::json& json) {
  return json.is_null() ? std::numeric_limits<double>::quiet_NaN() : json.get<double>();
}

inline nlohmann::json to_json(const Metrics& metrics) {
  return {metrics.loss, metrics.cross_entropy, metrics.regularization, metrics.accuracy};
}

inline Metrics metrics_from_json(const nlohmann::json& json) {
  return {number(json.at(0)), number(json.at(1)), number(json.at(2)), number(json.at(3))};
}

inline nlohmann::json to_json(const EpochSummary& row) {
  return {{"epoch", row.epoch},
          {"epochs", row.epochs},
          {"learning_rate", row.learning_rate},
          {"train", to_json(row.train)},
          {"test", to_json(row.test)},
          {"best_accuracy", row.best_accuracy},
          {"best_epoch", row.best_epoch},
          {"seconds", row.seconds},
          {"images_per_second", row.images_per_second}};
}

inline EpochSummary summary_from_json(const nlohmann::json& json) {
  EpochSummary row;
  row.epoch = json.at("epoch").get<int64_t>();
  row.epochs = json.at("epochs").get<int64_t>();
  row.learning_rate = number(json.at("learning_rate"));
  row.train = metrics_from_json(json.at("train"));
  row.test = metrics_from_json(json.at("test"));
  row.best_accuracy = number(json.at("best_accuracy"));
  row.best_epoch = json.at("best_epoch").get<int64_t>();
  row.seconds = number(json.at("seconds"));
  row.images_per_second = number(json.at("images_per_second"));
  return row;
}

inline nlohmann::json to_json(const TrainOptions& options) {
  return {{"epochs", options.epochs()},     {"learning_rate", options.learning_rate()},
          {"momentum", options.momentum()}, {"weight_decay", options.weight_decay()},
          {"schedule", options.schedule()}, {"gamma", options.gamma()},
          {"alpha", options.alpha()},       {"batch_size", options.batch_size()},
          {"seed", options.seed()}};
}

inline TrainOptions options_from_json(const nlohmann::json& json) {
  TrainOptions options;
  options.epochs(json.at("epochs").get<int64_t>());
  options.learning_rate(json.at("learning_rate").get<double>());
  options.momentum(json.at("momentum").get<double>());
  options.weight_decay(json.at("weight_decay").get<double>());
  options.schedule(json.at("schedule").get<std::vector<int64_t>>());
  options.gamma(json.at("gamma").get<double>());
  options.alpha(json.at("alpha").get<double>());
  options.batch_size(json.at("batch_size").get<int64_t>());
  options.seed(json.at("seed").get<uint64_t>());
  return options;
}

inline nlohmann::json to_json(const Checkpoint& checkpoint) {
  nlohmann::json history = nlohmann::json::array();
  for (const auto& row : checkpoint.history) {
    history.push_back(to_json(row));
  }
  const auto& partial = checkpoint.partial;
  return {
      {"architecture", checkpoint.info.architecture},
      {"dataset", checkpoint.info.dataset},
      {"class_names", checkpoint.info.class_names},
      {"num_classes", checkpoint.info.num_classes()},
      {"in_channels", checkpoint.info.in_channels},
      {"settings", to_json(checkpoint.options)},
      {"epoch", checkpoint.epoch},
      {"step", checkpoint.step},
      {"partial",
       {{"loss", partial.loss},
        {"cross_entropy", partial.cross_entropy},
        {"regularization", partial.regularization},
        {"correct", partial.correct},
        {"examples", partial.examples}}},
      {"best_accuracy", checkpoint.history.empty() ? 0.0 : checkpoint.history.back().best_accuracy},
      {"history", std::move(history)}};
}

inline void from_json(const nlohmann::json& json, Checkpoint& checkpoint) {
  checkpoint.info.architecture = json.at("architecture").get<std::string>();
  checkpoint.info.dataset = json.at("dataset").get<std::string>();
  checkpoint.info.class_names = json.at("class_names").get<std::vector<std::string>>();
  checkpoint.info.in_channels = json.at("in_channels").get<int64_t>();
  checkpoint.options = options_from_json(json.at("settings"));
  checkpoint.epoch = json.at("epoch").get<int64_t>();
  checkpoint.step = json.at("step").get<int64_t>();
  const auto& partial = json.at("partial");
  checkpoint.partial.loss = number(partial.at("loss"));
  checkpoint.partial.cross_entropy = number(partial.at("cross_entropy"));
  checkpoint.partial.regularization = number(partial.at("regularization"));
  checkpoint.partial.correct = partial.at("correct").get<int64_t>();
  checkpoint.partial.examples = partial.at("examples").get<int64_t>();
  for (const auto& row : json.at("history")) {
    checkpoint.history.push_back(summary_from_json(row));
  }
}

inline void append(const std::string& prefix, const weights::StateDict& part,
                   weights::StateDict& all) {
  for (const auto& item : part) {
    all.insert(prefix + item.key(), item.value());
  }
}

}  // namespace detail

/// Writes a checkpoint, complete or not at all, as a safetensors file: tensors named
/// `model/NAME`, `momentum/NAME`, `generator/DEVICE`, and as metadata `format`, `version` and
/// `state`, a JSON object with the rest. Throws `c10::Error` with the path and the reason.
inline void save_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint) {
  weights::StateDict all;
  detail::append("model/", checkpoint.model, all);
  detail::append("momentum/", checkpoint.momentum, all);
  detail::append("generator/", checkpoint.generators, all);
  weights::save_safetensors(path, all,
                            {{"format", std::string(detail::checkpoint_format)},
                             {"version", std::to_string(detail::checkpoint_version)},
                             {"state", detail::to_json(checkpoint).dump()}});
}

/// Reads what `save_checkpoint` wrote. Throws `c10::Error` with the path if the file is damaged,
/// is no checkpoint, or is of another version.
inline Checkpoint load_checkpoint(const std::filesystem::path& path) {
  auto file = weights::load_safetensors(path);
  const std::string origin = "checkpoint '" + path.native() + "'";
  TORCH_CHECK(file.metadata["format"] == detail::checkpoint_format, origin,
              " is a safetensors file, but not a bsconv checkpoint");
  TORCH_CHECK(file.metadata["version"] == std::to_string(detail::checkpoint_version), origin,
              " has version '", file.metadata["version"], "'; this program reads version ",
              detail::checkpoint_version);
  Checkpoint checkpoint;
  try {
    detail::from_json(nlohmann::json::parse(file.metadata["state"]), checkpoint);
  } catch (const nlohmann::json::exception& error) {
    TORCH_CHECK(false, origin, " is damaged: ", error.what());
  }
  try {
    checkpoint.options.check();
  } catch (const c10::Error& error) {
    TORCH_CHECK(false, origin, " is damaged: ", error.what_without_backtrace());
  }
  TORCH_CHECK(checkpoint.epoch >= 0 && checkpoint.step >= 0 &&
                  checkpoint.history.size() == static_cast<std::size_t>(checkpoint.epoch),
              origin, " is damaged: epoch ", checkpoint.epoch, ", step ", checkpoint.step, ", ",
              checkpoint.history.size(), " epochs of history");
  for (auto& item : file.tensors) {
    const auto slash = item.key().find('/');
    const auto group = item.key().substr(0, slash);
    auto* part = group == "model"       ? &checkpoint.model
                 : group == "momentum"  ? &checkpoint.momentum
                 : group == "generator" ? &checkpoint.generators
                                        : nullptr;
    TORCH_CHECK(part != nullptr && slash != std::string::npos, origin, " has a tensor '",
                item.key(), "'; known are model/…, momentum/… and generator/…");
    part->insert(item.key().substr(slash + 1), std::move(item.value()));
  }
  return checkpoint;
}

}  // namespace bsconv::train
