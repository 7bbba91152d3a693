// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>
#include <bsconv/capture/operator_capture.hpp>
#include <bsconv/nn/call_observer.hpp>
#include <bsconv/profile/profile.hpp>
#include <bsconv/profile/profile_observer.hpp>
#include <bsconv/profile/state_guard.hpp>

#include <cstdint>
#include <type_traits>
#include <utility>

namespace bsconv {

namespace detail {

/// Profiles `run`, which runs `model` forward once.
template <class Run>
Profile profile_run(torch::nn::Module& model, const ProfileOptions& options, Run&& run) {
  TORCH_CHECK_VALUE(options.timed_runs() >= 0, "profile: timed_runs must be at least 0, got ",
                    options.timed_runs());
  const ModelStateGuard state(model);
  ProfileObserver observer(model, options);
  const CallObserverGuard calls(observer);
  const OperatorCapture capture(observer);
  for (int64_t pass = 0; pass <= options.timed_runs(); ++pass) {
    observer.begin(pass > 0);
    run();
    observer.end();
  }
  return std::move(observer.profile);
}

}  // namespace detail

/// Runs `model` forward on `inputs` once and reports parameters, multiply-adds and memory of every
/// module and operator, functional ones included; with `timed_runs`, times too.
///
/// Works on any module with a `forward`, grafted ones included. The model is left as it was: modes,
/// gradients, buffers and random generators.
template <class Contained, class... Inputs>
Profile profile(torch::nn::ModuleHolder<Contained>& model, const ProfileOptions& options,
                const Inputs&... inputs) {
  return detail::profile_run(*model, options, [&] { model->forward(inputs...); });
}

/// The same with the default options: `profile(model, torch::zeros({1, 3, 32, 32}))`.
template <class Contained>
Profile profile(torch::nn::ModuleHolder<Contained>& model, const torch::Tensor& input) {
  return profile(model, ProfileOptions(), input);
}

/// The same for a module without a holder.
template <class Module, class... Inputs,
          class = std::enable_if_t<std::is_base_of_v<torch::nn::Module, Module>>>
Profile profile(Module& model, const ProfileOptions& options, const Inputs&... inputs) {
  return detail::profile_run(model, options, [&] { model.forward(inputs...); });
}

/// The same for a module without a holder, with the default options.
template <class Module, class = std::enable_if_t<std::is_base_of_v<torch::nn::Module, Module>>>
Profile profile(Module& model, const torch::Tensor& input) {
  return profile(model, ProfileOptions(), input);
}

}  // namespace bsconv
