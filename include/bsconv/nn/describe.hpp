// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <sstream>
#include <string>
#include <unordered_set>

namespace bsconv {

/// The number of elements of the parameters of `module` that require a gradient; a parameter that
/// stands at several places counts once.
inline int64_t parameter_count(const torch::nn::Module& module) {
  int64_t count = 0;
  std::unordered_set<const c10::TensorImpl*> seen;
  for (const auto& parameter : module.parameters()) {
    if (parameter.requires_grad() && seen.insert(parameter.unsafeGetTensorImpl()).second) {
      count += parameter.numel();
    }
  }
  return count;
}

/// What `module` prints of itself, without its children: `torch::nn::Conv2d(3, 16, …)`.
inline std::string describe(const torch::nn::Module& module) {
  std::ostringstream stream;
  module.pretty_print(stream);
  return stream.str();
}

}  // namespace bsconv
