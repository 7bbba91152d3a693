// SPDX-License-Identifier: BSD-3-Clause-Clear
// What autograd has written down.
#pragma once

#include <torch/autograd.h>
#include <torch/types.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <unordered_set>
#include <vector>

namespace bsconv_test {

/// The names of the operators that `output` came from, each once however many ways lead to it.
inline std::vector<std::string> operators_behind(const torch::Tensor& output) {
  std::vector<torch::autograd::Node*> todo = {output.grad_fn().get()};
  std::unordered_set<const torch::autograd::Node*> seen(todo.begin(), todo.end());
  std::vector<std::string> names;
  for (std::size_t i = 0; i < todo.size(); ++i) {
    names.push_back(todo[i]->name());
    for (const auto& edge : todo[i]->next_edges()) {
      if (edge.function != nullptr && seen.insert(edge.function.get()).second) {
        todo.push_back(edge.function.get());
      }
    }
  }
  return names;
}

/// How many of those have `part` in their names.
inline std::ptrdiff_t count_operators(const torch::Tensor& output, const std::string& part) {
  const auto names = operators_behind(output);
  return std::count_if(names.begin(), names.end(), [&part](const std::string& name) {
    return name.find(part) != std::string::npos;
  });
}

}  // namespace bsconv_test
