// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/pimpl.h>
#include <torch/types.h>
#include <bsconv/nn/layer.hpp>

#include <functional>
#include <utility>

namespace bsconv_test {

/// A layer of a function, for what no module does.
struct FunctionImpl : bsconv::LayerImpl {
  using Call = std::function<torch::Tensor(const torch::Tensor&)>;
  explicit FunctionImpl(Call function) : call(std::move(function)) {}
  torch::Tensor forward(const torch::Tensor& input) override { return call(input); }
  Call call;
};
TORCH_MODULE(Function);

}  // namespace bsconv_test
