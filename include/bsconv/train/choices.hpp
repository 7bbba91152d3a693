// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

#include <bsconv/util/text.hpp>

namespace bsconv::train {

/// How gradients become changes of the weights.
enum class OptimizerType {
  /// Stochastic gradient descent with momentum.
  sgd,
  /// Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).
  adamw,
};

/// How the learning rate changes over the training.
enum class ScheduleType {
  /// It falls by a factor after given epochs: the reference's.
  multistep,
  /// It falls along half a cosine, step by step (Loshchilov and Hutter, ICLR 2017).
  cosine,
  /// It rises and falls along two half cosines, step by step (Smith and Topin, 2018).
  onecycle,
};

/// The numbers of the forward pass in training and test. Weights and optimizer stay in float32.
enum class Precision {
  /// float32 throughout.
  f32,
  /// Convolutions and matrix products in bfloat16, by LibTorch's autocast.
  bf16,
  /// The same in float16, with a gradient scaler against underflow.
  fp16,
};

namespace detail {

/// The values of an enumeration with their names.
template <class Choice>
struct ChoiceNames;

template <>
struct ChoiceNames<OptimizerType> {
  static constexpr std::array<std::pair<OptimizerType, const char*>, 2> values = {
      {{OptimizerType::sgd, "sgd"}, {OptimizerType::adamw, "adamw"}}};
};

template <>
struct ChoiceNames<ScheduleType> {
  static constexpr std::array<std::pair<ScheduleType, const char*>, 3> values = {
      {{ScheduleType::multistep, "multistep"},
       {ScheduleType::cosine, "cosine"},
       {ScheduleType::onecycle, "onecycle"}}};
};

template <>
struct ChoiceNames<Precision> {
  static constexpr std::array<std::pair<Precision, const char*>, 3> values = {
      {{Precision::f32, "f32"}, {Precision::bf16, "bf16"}, {Precision::fp16, "fp16"}}};
};

template <class Choice>
const char* choice_name(Choice choice) {
  for (const auto& [value, name] : ChoiceNames<Choice>::values) {
    if (value == choice) {
      return name;
    }
  }
  TORCH_CHECK(false, "not a value of its enumeration: ", static_cast<int>(choice));
}

}  // namespace detail

/// The name of a choice: "sgd", "cosine", "bf16" …
inline const char* to_string(OptimizerType choice) { return detail::choice_name(choice); }
/// \copydoc to_string(OptimizerType)
inline const char* to_string(ScheduleType choice) { return detail::choice_name(choice); }
/// \copydoc to_string(OptimizerType)
inline const char* to_string(Precision choice) { return detail::choice_name(choice); }

/// All names of an enumeration such as `OptimizerType`.
template <class Choice>
std::vector<std::string> choice_names() {
  std::vector<std::string> names;
  names.reserve(detail::ChoiceNames<Choice>::values.size());
  for (const auto& item : detail::ChoiceNames<Choice>::values) {
    names.emplace_back(item.second);
  }
  return names;
}

/// The value called `name`. Throws `c10::ValueError` that lists the names and gives the nearest.
template <class Choice>
Choice parse_choice(std::string_view name) {
  for (const auto& item : detail::ChoiceNames<Choice>::values) {
    if (name == item.second) {
      return item.first;
    }
  }
  const auto names = choice_names<Choice>();
  TORCH_CHECK_VALUE(false, "'", name, "' is unknown; valid are ", bsconv::detail::join(names, ", "),
                    "; the nearest is '", bsconv::detail::nearest(name, names), "'");
}

}  // namespace bsconv::train
