// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

#include <bsconv/train/options.hpp>
#include <bsconv/util/text.hpp>

/// \file
/// The settings of a training by name: one list serves checkpoints, files, flags and messages.

namespace bsconv::train {

/// Calls `visit(name, value, description)` for every setting of `options` that a checkpoint keeps,
/// in the order in which people read them. `value` is a reference to it; `options` may be const.
template <class Options, class Visitor>
void visit_settings(Options&& options, Visitor&& visit) {
  static_assert(std::is_same_v<std::remove_cvref_t<Options>, TrainOptions>);
  visit("epochs", options.epochs(), "Epochs in all");
  visit("batch_size", options.batch_size(), "Images in a batch");
  visit("seed", options.seed(), "Seed of weights, order and augmentation");
  visit("optimizer", options.optimizer(), "sgd or adamw");
  visit("learning_rate", options.learning_rate(),
        "Learning rate that the schedule starts from; the highest one of onecycle");
  visit("momentum", options.momentum(), "sgd: momentum");
  visit("nesterov", options.nesterov(), "sgd: Nesterov's momentum");
  visit("beta1", options.beta1(), "adamw: decay of the mean of gradients");
  visit("beta2", options.beta2(), "adamw: decay of the mean of squared gradients");
  visit("epsilon", options.epsilon(), "adamw: what is added to the denominator");
  visit("weight_decay", options.weight_decay(), "L2 with sgd, decoupled with adamw");
  visit("exempt_norm_bias", options.exempt_norm_bias(),
        "No weight decay of biases and of the weights of norms");
  visit("schedule_type", options.schedule_type(), "multistep, cosine or onecycle");
  visit("schedule", options.schedule(), "multistep: epochs after which the learning rate falls");
  visit("gamma", options.gamma(), "multistep: factor by which it falls");
  visit("min_learning_rate", options.min_learning_rate(), "cosine: the last learning rate");
  visit("pct_start", options.pct_start(), "onecycle: share of the steps in which the rate rises");
  visit("div_factor", options.div_factor(), "onecycle: highest rate divided by the first one");
  visit("final_div_factor", options.final_div_factor(),
        "onecycle: first rate divided by the last one");
  visit("warmup_epochs", options.warmup_epochs(),
        "Epochs, fractions allowed, in which the rate first rises linearly");
  visit("warmup_factor", options.warmup_factor(),
        "Share of the learning rate that the warm-up starts from");
  visit("alpha", options.alpha(), "Weight of the regularization loss");
  visit("label_smoothing", options.label_smoothing(),
        "Share of a target's probability that is spread over all classes");
  visit("distillation_weight", options.distillation_weight(),
        "With a teacher: its part of the loss; the labels have the rest");
  visit("distillation_temperature", options.distillation_temperature(),
        "With a teacher: what logits are divided by before softmax");
  visit("clip_grad_norm", options.clip_grad_norm(),
        "Largest norm of all gradients together; 0: no limit");
  visit("accumulate", options.accumulate(),
        "Batches whose gradients are averaged for one step of the optimizer");
  visit("ema_decay", options.ema_decay(),
        "Decay of the moving average of the weights that is tested; 0: none");
  visit("precision", options.precision(), "f32, bf16 or fp16 in the forward pass");
  visit("channels_last", options.channels_last(), "Weights and images with channels last");
  visit("eval_every", options.eval_every(), "Epochs between tests");
  visit("patience", options.patience(),
        "Epochs without a better test accuracy after which it ends; 0: never");
  visit("keep_checkpoints", options.keep_checkpoints(),
        "Numbered checkpoints kept beside best and last");
  visit("checkpoint_steps", options.checkpoint_steps(),
        "Batches between checkpoints inside an epoch; 0: none");
}

/// The names that `visit_settings` gives.
inline std::vector<std::string> setting_names() {
  std::vector<std::string> names;
  const TrainOptions options;
  visit_settings(options,
                 [&](const char* name, const auto&, const char*) { names.emplace_back(name); });
  return names;
}

namespace detail {

template <class Number>
Number parse_number(std::string_view text, const char* kind) {
  Number value{};
  const auto* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  TORCH_CHECK_VALUE(error == std::errc() && stop == end, "'", text, "' is not ", kind);
  return value;
}

inline void parse_value(std::string_view text, int64_t& value) {
  value = parse_number<int64_t>(text, "a whole number");
}

inline void parse_value(std::string_view text, uint64_t& value) {
  value = parse_number<uint64_t>(text, "a whole number from 0 on");
}

inline void parse_value(std::string_view text, double& value) {
  value = parse_number<double>(text, "a number");
}

inline void parse_value(std::string_view text, bool& value) {
  TORCH_CHECK_VALUE(text == "true" || text == "false", "'", text, "' is neither true nor false");
  value = text == "true";
}

inline void parse_value(std::string_view text, std::vector<int64_t>& value) {
  std::vector<int64_t> numbers;
  while (!text.empty()) {
    const auto comma = text.find(',');
    numbers.push_back(parse_number<int64_t>(text.substr(0, comma), "a list of whole numbers"));
    text.remove_prefix(comma == std::string_view::npos ? text.size() : comma + 1);
  }
  value = std::move(numbers);
}

template <class Choice, std::enable_if_t<std::is_enum_v<Choice>, int> = 0>
void parse_value(std::string_view text, Choice& value) {
  value = parse_choice<Choice>(text);
}

inline std::string value_text(int64_t value) { return std::to_string(value); }
inline std::string value_text(uint64_t value) { return std::to_string(value); }
inline std::string value_text(bool value) { return value ? "true" : "false"; }

/// A decimal of few digits that is read as `value`.
inline std::string value_text(double value) {
  char buffer[64];
  for (int digits = 15; digits <= 17; ++digits) {
    std::snprintf(buffer, sizeof buffer, "%.*g", digits, value);
    if (std::strtod(buffer, nullptr) == value) {
      break;
    }
  }
  return buffer;
}

inline std::string value_text(const std::vector<int64_t>& value) {
  std::string text;
  for (const int64_t number : value) {
    text += text.empty() ? "" : ",";
    text += std::to_string(number);
  }
  return text;
}

template <class Choice, std::enable_if_t<std::is_enum_v<Choice>, int> = 0>
std::string value_text(Choice value) {
  return to_string(value);
}

}  // namespace detail

/// Throws `c10::ValueError` that names the nearest of `known` if `name` is not among them.
inline void check_setting_name(std::string_view name, const std::vector<std::string>& known) {
  for (const auto& candidate : known) {
    if (name == candidate) {
      return;
    }
  }
  TORCH_CHECK_VALUE(false, "there is no setting '", name, "'; the nearest is '",
                    bsconv::detail::nearest(name, known), "'");
}

/// Sets the setting called `name` to what `text` says: a number, true or false, a name, or numbers
/// separated by commas. Throws `c10::ValueError` with the name, the text and what is valid;
/// whether the value lies in its range is left to `TrainOptions::check`.
inline void set_setting(TrainOptions& options, std::string_view name, std::string_view text) {
  check_setting_name(name, setting_names());
  visit_settings(options, [&](const char* candidate, auto& value, const char*) {
    if (name == candidate) {
      try {
        detail::parse_value(text, value);
      } catch (const c10::ValueError& error) {
        TORCH_CHECK_VALUE(false, name, ": ", error.what_without_backtrace());
      }
    }
  });
}

/// All settings as lines "name  value", in columns.
inline std::string describe_settings(const TrainOptions& options) {
  std::size_t width = 0;
  for (const auto& name : setting_names()) {
    width = std::max(width, name.size());
  }
  std::string text;
  visit_settings(options, [&](const char* name, const auto& value, const char*) {
    std::string line = name;
    line.resize(width + 2, ' ');
    text += line + detail::value_text(value) + '\n';
  });
  return text;
}

}  // namespace bsconv::train
