// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>

#include <functional>

namespace bsconv {

/// Runs a model on a batch of images `[N, C, H, W]`: what stands for a model whose type has no
/// common `forward`.
using ForwardFunction = std::function<torch::Tensor(const torch::Tensor&)>;

}  // namespace bsconv
