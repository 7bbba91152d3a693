// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/optim/adamw.h>
#include <torch/optim/optimizer.h>
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

namespace detail {

/// Adds to `differences` why `value` does not fit the parameter called `name`, if it doesn't.
inline void compare_with_parameter(const weights::StateDict& parameters, const std::string& name,
                                   const std::string& key, const torch::Tensor& value,
                                   const char* what, std::string& differences) {
  const auto* parameter = parameters.find(name);
  if (parameter == nullptr) {
    differences += "  unexpected: " + key + "\n";
  } else if (parameter->sizes() != value.sizes() ||
             parameter->scalar_type() != value.scalar_type()) {
    differences += c10::str("  does not fit: ", key, ": the parameter is ",
                            weights::detail::describe(*parameter), ", the ", what, " ",
                            weights::detail::describe(value), "\n");
  }
}

/// A copy of `value` where and as `parameter` lies.
inline torch::Tensor copy_like(const torch::Tensor& parameter, const torch::Tensor& value) {
  return torch::empty_like(parameter).copy_(value).detach();
}

}  // namespace detail

/// Gives `optimizer` copies of the momentum in `state`, and none to parameters that `state` lacks.
/// Throws `c10::Error` that lists all names or shapes in `state` which do not fit `parameters`; the
/// optimizer is then unchanged.
inline void load_momentum_state(torch::optim::SGD& optimizer, const weights::StateDict& parameters,
                                const weights::StateDict& state) {
  std::string differences;
  for (const auto& item : state) {
    detail::compare_with_parameter(parameters, item.key(), item.key(), item.value(), "momentum",
                                   differences);
  }
  TORCH_CHECK(differences.empty(), "the momentum does not fit the model:\n", differences);
  optimizer.state().clear();
  for (const auto& item : state) {
    const auto& parameter = parameters[item.key()];
    auto buffer = std::make_unique<torch::optim::SGDParamState>();
    buffer->momentum_buffer(detail::copy_like(parameter, item.value()));
    optimizer.state()[parameter.unsafeGetTensorImpl()] = std::move(buffer);
  }
}

/// Copies, on the CPU, of AdamW's state of each of `parameters` that has one: `step/NAME`, an int64
/// number, and the moments `exp_avg/NAME` and `exp_avg_sq/NAME`.
inline weights::StateDict adamw_state(const torch::optim::AdamW& optimizer,
                                      const weights::StateDict& parameters) {
  weights::StateDict result;
  for (const auto& item : parameters) {
    const auto found = optimizer.state().find(item.value().unsafeGetTensorImpl());
    if (found == optimizer.state().end()) {
      continue;
    }
    const auto& state = static_cast<const torch::optim::AdamWParamState&>(*found->second);
    result.insert("step/" + item.key(), torch::tensor(state.step(), torch::kLong));
    result.insert("exp_avg/" + item.key(), state.exp_avg());
    result.insert("exp_avg_sq/" + item.key(), state.exp_avg_sq());
  }
  return weights::clone_state_dict(result);
}

/// Gives `optimizer` copies of what `adamw_state` returned, and no state to parameters that `state`
/// lacks. Throws `c10::Error` that lists all names or shapes which do not fit `parameters` or lack
/// their companions; the optimizer is then unchanged.
inline void load_adamw_state(torch::optim::AdamW& optimizer, const weights::StateDict& parameters,
                             const weights::StateDict& state) {
  constexpr std::array<const char*, 3> parts = {"step/", "exp_avg/", "exp_avg_sq/"};
  std::string differences;
  std::vector<std::string> names;
  for (const auto& item : state) {
    const auto slash = item.key().find('/');
    const auto part = item.key().substr(0, slash + 1);
    const auto name = item.key().substr(slash + 1);
    if (std::find(parts.begin(), parts.end(), part) == parts.end()) {
      differences += "  unexpected: " + item.key() + "\n";
    } else if (part != parts[0]) {
      detail::compare_with_parameter(parameters, name, item.key(), item.value(), "moment",
                                     differences);
    } else if (item.value().dim() != 0 || item.value().scalar_type() != torch::kLong) {
      differences += "  no whole number: " + item.key() + "\n";
    } else {
      names.push_back(name);
    }
    for (const auto* companion : parts) {
      if (!state.contains(companion + name)) {
        differences += "  missing: ";
        differences += companion + name + "\n";
      }
    }
  }
  TORCH_CHECK(differences.empty(), "AdamW's state does not fit the model:\n", differences);
  optimizer.state().clear();
  for (const auto& name : names) {
    const auto& parameter = parameters[name];
    auto own = std::make_unique<torch::optim::AdamWParamState>();
    own->step(state["step/" + name].item<int64_t>());
    own->exp_avg(detail::copy_like(parameter, state["exp_avg/" + name]));
    own->exp_avg_sq(detail::copy_like(parameter, state["exp_avg_sq/" + name]));
    optimizer.state()[parameter.unsafeGetTensorImpl()] = std::move(own);
  }
}

}  // namespace bsconv::train
