// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <mutex>

#include <ATen/Context.h>
#include <torch/types.h>

#include <bsconv/weights/state_dict.hpp>

namespace bsconv::train {

/// The states of LibTorch's default random generators of the CPU and of `device`, by device.
inline weights::StateDict generator_states(torch::Device device) {
  weights::StateDict result;
  const auto add = [&result](torch::Device place) {
    auto generator = at::globalContext().defaultGenerator(place);
    const std::lock_guard<std::mutex> lock(generator.mutex());
    result.insert(place.is_cpu() ? "cpu" : "device", generator.get_state());
  };
  add(torch::kCPU);
  if (!device.is_cpu()) {
    add(device);
  }
  return result;
}

/// Puts the states of `generator_states` back. The state of an accelerator is left out where
/// `device` is the CPU.
inline void load_generator_states(const weights::StateDict& states, torch::Device device) {
  const auto load = [](torch::Device place, const torch::Tensor& state) {
    auto generator = at::globalContext().defaultGenerator(place);
    const std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(state);
  };
  if (const auto* state = states.find("cpu")) {
    load(torch::kCPU, *state);
  }
  if (const auto* state = states.find("device"); state != nullptr && !device.is_cpu()) {
    load(device, *state);
  }
}

}  // namespace bsconv::train
