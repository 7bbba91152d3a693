// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <bsconv/train/checkpoint_state.hpp>
#include <bsconv/train/metrics.hpp>
#include <bsconv/train/options.hpp>
#include <bsconv/train/settings.hpp>
#include <bsconv/util/json_value.hpp>

/// \file
/// What a checkpoint holds beside its tensors, as JSON.

namespace bsconv::train {

namespace detail {

// JSON has no NaN; it is written as null.
inline double number(const nlohmann::json& json) {
  return json.is_null() ? std::numeric_limits<double>::quiet_NaN() : json.get<double>();
}

// What checkpoints of earlier versions don't have is zero.
inline int64_t integer_or_zero(const nlohmann::json& json, const char* key) {
  return json.contains(key) ? bsconv::detail::json_value<int64_t>(json.at(key)) : 0;
}

inline nlohmann::json to_json(const Metrics& metrics) {
  return {metrics.loss,     metrics.cross_entropy, metrics.regularization,
          metrics.accuracy, metrics.accuracy_top5, metrics.distillation};
}

inline Metrics metrics_from_json(const nlohmann::json& json) {
  Metrics metrics = {number(json.at(0)), number(json.at(1)), number(json.at(2)),
                     number(json.at(3))};
  if (json.size() > 4) {
    metrics.accuracy_top5 = number(json.at(4));
  }
  if (json.size() > 5) {
    metrics.distillation = number(json.at(5));
  }
  return metrics;
}

inline nlohmann::json to_json(const MetricSums& sums) {
  nlohmann::json json;
  MetricSums::visit_fields([&](const char* name, auto field) { json[name] = sums.*field; });
  return json;
}

inline MetricSums sums_from_json(const nlohmann::json& json) {
  MetricSums sums;
  MetricSums::visit_fields([&](const char* name, auto field) {
    if constexpr (std::is_integral_v<std::remove_reference_t<decltype(sums.*field)>>) {
      sums.*field = integer_or_zero(json, name);
    } else {
      sums.*field = json.contains(name) ? number(json.at(name)) : 0.0;
    }
  });
  return sums;
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
  row.epoch = bsconv::detail::json_value<int64_t>(json.at("epoch"));
  row.epochs = bsconv::detail::json_value<int64_t>(json.at("epochs"));
  row.learning_rate = number(json.at("learning_rate"));
  row.train = metrics_from_json(json.at("train"));
  row.test = metrics_from_json(json.at("test"));
  row.best_accuracy = number(json.at("best_accuracy"));
  row.best_epoch = bsconv::detail::json_value<int64_t>(json.at("best_epoch"));
  row.seconds = number(json.at("seconds"));
  row.images_per_second = number(json.at("images_per_second"));
  return row;
}

inline nlohmann::json to_json(const TrainOptions& options) {
  nlohmann::json json;
  visit_settings(options, [&json](const char* name, const auto& value, const char*) {
    if constexpr (std::is_enum_v<std::decay_t<decltype(value)>>) {
      json[name] = to_string(value);
    } else {
      json[name] = value;
    }
  });
  return json;
}

/// A setting that the version which wrote the checkpoint did not have keeps its default.
inline TrainOptions options_from_json(const nlohmann::json& json) {
  TrainOptions options;
  visit_settings(options, [&json](const char* name, auto& value, const char*) {
    using Value = std::decay_t<decltype(value)>;
    if (!json.contains(name)) {
      return;
    }
    if constexpr (std::is_enum_v<Value>) {
      value = parse_choice<Value>(json.at(name).get<std::string>());
    } else {
      value = bsconv::detail::json_value<Value>(json.at(name));
    }
  });
  return options;
}

inline nlohmann::json to_json(const Checkpoint& checkpoint) {
  nlohmann::json history = nlohmann::json::array();
  for (const auto& row : checkpoint.history) {
    history.push_back(to_json(row));
  }
  return {
      {"architecture", checkpoint.info.architecture},
      {"dataset", checkpoint.info.dataset},
      {"class_names", checkpoint.info.class_names},
      {"num_classes", checkpoint.info.num_classes()},
      {"in_channels", checkpoint.info.in_channels},
      {"program_settings", checkpoint.info.settings},
      {"settings", to_json(checkpoint.options)},
      {"epoch", checkpoint.epoch},
      {"step", checkpoint.step},
      {"steps", checkpoint.steps},
      {"ema_updates", checkpoint.ema_updates},
      {"partial", to_json(checkpoint.partial)},
      {"seconds", checkpoint.seconds},
      {"best_accuracy", checkpoint.history.empty() ? 0.0 : checkpoint.history.back().best_accuracy},
      {"history", std::move(history)}};
}

inline void from_json(const nlohmann::json& json, Checkpoint& checkpoint) {
  checkpoint.info.architecture = json.at("architecture").get<std::string>();
  checkpoint.info.dataset = json.at("dataset").get<std::string>();
  checkpoint.info.class_names = json.at("class_names").get<std::vector<std::string>>();
  checkpoint.info.in_channels = bsconv::detail::json_value<int64_t>(json.at("in_channels"));
  checkpoint.info.settings = json.value("program_settings", std::map<std::string, std::string>());
  checkpoint.options = options_from_json(json.at("settings"));
  checkpoint.ema_updates = integer_or_zero(json, "ema_updates");
  checkpoint.epoch = bsconv::detail::json_value<int64_t>(json.at("epoch"));
  checkpoint.step = bsconv::detail::json_value<int64_t>(json.at("step"));
  checkpoint.steps = integer_or_zero(json, "steps");
  checkpoint.partial = sums_from_json(json.at("partial"));
  checkpoint.seconds = json.contains("seconds") ? number(json.at("seconds")) : 0.0;
  for (const auto& row : json.at("history")) {
    checkpoint.history.push_back(summary_from_json(row));
  }
}

}  // namespace detail

}  // namespace bsconv::train
