// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <ATen/Context.h>
#include <torch/nn/module.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>

#include <bsconv/weights/state_dict.hpp>

namespace bsconv::train {

/// The parameters of `module` that need a gradient, by name, each once even where modules share it.
inline weights::StateDict trainable_parameters(const torch::nn::Module& module) {
  weights::StateDict result;
  std::vector<c10::TensorImpl*> seen;
  for (const auto& item : module.named_parameters()) {
    auto* identity = item.value().unsafeGetTensorImpl();
    if (item.value().requires_grad() &&
        std::find(seen.begin(), seen.end(), identity) == seen.end()) {
      seen.push_back(identity);
      result.insert(item.key(), item.value());
    }
  }
  return result;
}

/// Copies, on the CPU, of SGD's momentum of each of `parameters` that has one.
inline weights::StateDict momentum_state(const torch::optim::SGD& optimizer,
                                         const weights::StateDict& parameters) {
  weights::StateDict result;
  for (const auto& item : parameters) {
    const auto found = optimizer.state().find(item.value().unsafeGetTensorImpl());
    if (found == optimizer.state().end()) {
      continue;
    }
    const auto& state = static_cast<const torch::optim::SGDParamState&>(*found->second);
    if (state.momentum_buffer().defined()) {
      result.insert(item.key(), state.momentum_buffer());
    }
  }
  return weights::clone_state_dict(result);
}

/// Gives `optimizer` copies of the momentum in `state`, and none to parameters that `state` lacks.
/// Throws `c10::Error` that lists all names or shapes in `state` which do not fit `parameters`; the
/// optimizer is then unchanged.
inline void load_momentum_state(torch::optim::SGD& optimizer, const weights::StateDict& parameters,
                                const weights::StateDict& state) {
  std::string differences;
  for (const auto& item : state) {
    const auto* parameter = parameters.find(item.key());
    if (parameter == nullptr) {
      differences += "  unexpected: " + item.key() + "\n";
    } else if (parameter->sizes() != item.value().sizes() ||
               parameter->scalar_type() != item.value().scalar_type()) {
      differences += c10::str("  does not fit: ", item.key(), ": the parameter is ",
                              weights::detail::describe(*parameter), ", the momentum ",
                              weights::detail::describe(item.value()), "\n");
    }
  }
  TORCH_CHECK(differences.empty(), "the momentum does not fit the model:\n", differences);
  optimizer.state().clear();
  for (const auto& item : state) {
    const auto& parameter = parameters[item.key()];
    auto buffer = std::make_unique<torch::optim::SGDParamState>();
    buffer->momentum_buffer(torch::empty_like(parameter).copy_(item.value()).detach());
    optimizer.state()[parameter.unsafeGetTensorImpl()] = std::move(buffer);
  }
}

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
