// SPDX-License-Identifier: BSD-3-Clause-Clear
// What the tests of fused training share: steps on the fused kernels beside LibTorch's.
#pragma once

#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/types.h>
#include <bsconv/autograd/fused_training.hpp>
#include <bsconv/nn/any_layer.hpp>
#include <bsconv/nn/composite.hpp>
#include <bsconv/nn/layer.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "autograd_graph.hpp"

namespace bsconv_test {

/// `layer` with a batch normalization of `channels` and a ReLU6 behind it, as far as they are
/// wanted.
template <class Module>
bsconv::Layer chain_of(const Module& layer, bool with_norm, bool with_relu, int64_t channels) {
  bsconv::Chain chain;
  chain->push_back("layer", layer);
  if (with_norm) {
    chain->push_back("norm", torch::nn::BatchNorm2d(channels));
  }
  if (with_relu) {
    chain->push_back("relu", torch::nn::ReLU6());
  }
  return chain;
}

/// All that a step of training leaves: the output, gradients and buffers, by name.
using Step = std::vector<std::pair<std::string, torch::Tensor>>;

/// One step on `input` with a random gradient of the output.
inline Step step(bsconv::LayerImpl& model, const torch::Tensor& input, bool fused) {
  const bsconv::FusedTrainingGuard guard(fused);
  model.zero_grad();
  const auto x = input.detach().clone().set_requires_grad(true);
  // Nothing may be modified that the caller still holds.
  const auto output = model.forward(x * 1.0);
  torch::manual_seed(11);
  output.backward(torch::randn(output.sizes()).to(output.scalar_type()));
  Step result = {{"output", output.detach()}, {"input", x.grad()}};
  for (const auto& parameter : model.named_parameters()) {
    result.emplace_back(parameter.key(), parameter.value().grad());
  }
  for (const auto& buffer : model.named_buffers()) {
    result.emplace_back(buffer.key(), buffer.value().clone());
  }
  return result;
}

inline std::shared_ptr<bsconv::LayerImpl> copy_of(bsconv::Layer& layer) {
  return std::dynamic_pointer_cast<bsconv::LayerImpl>(layer->clone());
}

/// The names of the operators whose gradients a step needs.
inline std::string operators_of(bsconv::LayerImpl& model, const torch::Tensor& input) {
  const auto x = input.detach().clone().set_requires_grad(true);
  return c10::str(operators_behind(model.forward(x)));
}

inline bool is_fused(bsconv::LayerImpl& model, const torch::Tensor& input) {
  const auto all = operators_of(model, input);
  return all.find("ChainFunction") != std::string::npos ||
         all.find("NormFunction") != std::string::npos;
}

/// Expects a step of `layer` on fused kernels, in the mode that each module is in, to be that of
/// LibTorch's operators in double precision.
inline void expect_same_step_as_it_is(bsconv::Layer layer, const torch::Tensor& input,
                                      double tolerance) {
  auto exact = copy_of(layer);
  exact->to(torch::kDouble);
  ASSERT_TRUE(is_fused(*copy_of(layer), input));
  const auto found = step(*layer, input, true);
  const auto expected = step(*exact, input.to(torch::kDouble), false);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    SCOPED_TRACE(found[i].first);
    ASSERT_EQ(found[i].second.sizes(), expected[i].second.sizes());
    const auto difference = (found[i].second.to(torch::kDouble) - expected[i].second).norm();
    // What cancels to zero is compared with the size of what cancels.
    const double size =
        expected[i].second.norm().item<double>() + 0.1 * expected[1].second.norm().item<double>();
    EXPECT_LE(difference.item<double>(), tolerance * size);
  }
}

/// The same in training mode, with random weights of normalizations.
inline void expect_same_step(bsconv::Layer layer, const torch::Tensor& input,
                             double tolerance = 1e-4) {
  {
    const torch::NoGradGuard no_grad;
    for (auto& parameter : layer->parameters()) {
      if (parameter.dim() == 1) {
        parameter.add_(torch::randn(parameter.sizes()), 0.3);
      }
    }
  }
  layer->train();
  expect_same_step_as_it_is(layer, input, tolerance);
}

}  // namespace bsconv_test
