// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <concepts>

namespace bsconv::detail {

/// A module whose `forward` turns a tensor into a tensor.
template <class Module>
concept TensorModule = std::derived_from<Module, torch::nn::Module> &&
    requires(Module& module, const torch::Tensor& input) {
  { module.forward(input) } -> std::convertible_to<torch::Tensor>;
};

}  // namespace bsconv::detail
