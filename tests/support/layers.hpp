// SPDX-License-Identifier: BSD-3-Clause-Clear
// What the tests of layers and replacements share: random geometries, independent results.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <bsconv/nn/layer.hpp>
#include <bsconv/nn/walk.hpp>

#include <algorithm>
#include <array>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <variant>
#include <vector>

namespace bsconv_test {

/// Whole numbers from one seeded generator.
class Draw {
 public:
  explicit Draw(unsigned seed) : random_(seed) {}
  /// A number from `low` to `high`.
  int64_t operator()(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }
  bool flip() { return (*this)(0, 1) == 1; }

 private:
  std::mt19937 random_;
};

/// What `options` pad in all at height and width.
inline std::array<int64_t, 2> total_padding(const torch::nn::Conv2dOptions& options) {
  if (const auto* numbers = std::get_if<torch::ExpandingArray<2>>(&options.padding())) {
    return {2 * (**numbers)[0], 2 * (**numbers)[1]};
  }
  if (std::holds_alternative<torch::enumtype::kValid>(options.padding())) {
    return {0, 0};
  }
  return {(*options.dilation())[0] * ((*options.kernel_size())[0] - 1),
          (*options.dilation())[1] * ((*options.kernel_size())[1] - 1)};
}

/// A random convolution without groups. Inputs of 14x15 and larger fit it.
inline torch::nn::Conv2dOptions random_convolution(Draw& draw) {
  torch::nn::Conv2dOptions options(draw(1, 9), draw(1, 9), {draw(1, 5), draw(1, 5)});
  options.dilation({draw(1, 2), draw(1, 2)}).bias(draw.flip());
  switch (draw(0, 3)) {
    case 0:
      options.padding(torch::kSame);
      break;
    case 1:
      options.padding(torch::kValid).stride({draw(1, 3), draw(1, 3)});
      break;
    default:
      options.padding({draw(0, 3), draw(0, 3)}).stride({draw(1, 3), draw(1, 3)});
  }
  const auto mode = draw(0, 3);
  const auto padding = total_padding(options);
  if (mode == 0 || padding[0] % 2 != 0 || padding[1] % 2 != 0) {
    return options;
  }
  if (mode == 1) {
    return options.padding_mode(torch::kReflect);
  }
  if (mode == 2) {
    return options.padding_mode(torch::kReplicate);
  }
  return options.padding_mode(torch::kCircular);
}

/// What the plain convolution with the kernel `depthwise * pointwise` computes: the definition of
/// a blueprint separable convolution. `pointwise` is `[out, in]`, `depthwise` `[out, 1, h, w]`.
inline torch::Tensor dense_result(const torch::nn::Conv2dOptions& options,
                                  const torch::Tensor& pointwise, const torch::Tensor& depthwise,
                                  const torch::Tensor& bias, const torch::Tensor& input) {
  const auto total = total_padding(options);
  torch::nn::functional::PadFuncOptions pad(
      {total[1] / 2, total[1] - total[1] / 2, total[0] / 2, total[0] - total[0] / 2});
  if (std::holds_alternative<torch::enumtype::kReflect>(options.padding_mode())) {
    pad.mode(torch::kReflect);
  } else if (std::holds_alternative<torch::enumtype::kReplicate>(options.padding_mode())) {
    pad.mode(torch::kReplicate);
  } else if (std::holds_alternative<torch::enumtype::kCircular>(options.padding_mode())) {
    pad.mode(torch::kCircular);
  }
  return torch::conv2d(torch::nn::functional::pad(input, pad),
                       depthwise * pointwise.unsqueeze(-1).unsqueeze(-1), bias, options.stride(),
                       torch::IntArrayRef({0, 0}), options.dilation());
}

/// The names of the parameters of `module`.
inline std::vector<std::string> parameter_names(const torch::nn::Module& module) {
  return module.named_parameters().keys();
}

/// Batch norms with statistics and factors that a test can tell from the initial ones.
inline void randomize(torch::nn::Module& module) {
  const torch::NoGradGuard no_grad;
  for (const auto& item : module.named_buffers()) {
    auto buffer = item.value();
    if (buffer.is_floating_point()) {
      const bool variance = item.key().find("running_var") != std::string::npos;
      buffer.copy_(variance ? torch::rand(buffer.sizes()) + 0.5 : torch::randn(buffer.sizes()));
    }
  }
  for (auto& parameter : module.parameters()) {
    parameter.add_(0.3 * torch::randn(parameter.sizes()).to(parameter.device()));
  }
}

/// Expects that `loss` gives every parameter of `module` a gradient that changes it in one step.
inline void expect_step_changes_all(torch::nn::Module& module, const torch::Tensor& loss) {
  torch::optim::SGD optimizer(module.parameters(), torch::optim::SGDOptions(0.1));
  std::vector<torch::Tensor> before;
  for (const auto& parameter : module.parameters()) {
    before.push_back(parameter.detach().clone());
  }
  module.zero_grad();
  loss.backward();
  optimizer.step();
  const auto after = module.named_parameters();
  ASSERT_EQ(after.size(), before.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_FALSE(torch::equal(after[i].value(), before[i])) << after[i].key();
  }
}

/// Expects that `other`, another model of the same make, computes what `model` does once it has
/// loaded what `model` saved. `run` runs either.
template <class Model, class Run>
void expect_round_trip(const Model& model, Model& other, Run&& run) {
  std::stringstream stream;
  torch::save(model, stream);
  const torch::Tensor expected = run(model);
  EXPECT_FALSE(torch::allclose(run(other), expected));
  torch::load(other, stream);
  EXPECT_TRUE(torch::equal(run(other), expected));
}

/// Expects that `module` and its clone compute the same and share nothing.
template <class Model, class Run>
void expect_deep_clone(const Model& model, Run&& run) {
  using Contained = typename Model::ContainedType;
  const torch::Tensor expected = run(model);
  const auto copy = std::dynamic_pointer_cast<Contained>(model->clone());
  ASSERT_NE(copy, nullptr);
  EXPECT_EQ(copy->named_parameters().keys(), model->named_parameters().keys());
  EXPECT_EQ(copy->named_buffers().keys(), model->named_buffers().keys());
  Model holder(nullptr);
  holder = copy;
  EXPECT_TRUE(torch::equal(run(holder), expected));
  const torch::NoGradGuard no_grad;
  for (auto& parameter : copy->parameters()) {
    parameter.zero_();
  }
  for (auto& buffer : copy->buffers()) {
    buffer.fill_(1);
  }
  EXPECT_TRUE(torch::equal(run(model), expected));
  EXPECT_FALSE(torch::equal(run(holder), expected));
}

/// Gives `model` statistics that fit its weights, without which deep models' results leave the
/// range of floats, and ends in evaluation mode.
inline void adapt(bsconv::Layer& model, const torch::Tensor& images) {
  bsconv::for_each_module(*model, [](torch::nn::Module& module, const std::string&) {
    if (auto* bn = dynamic_cast<torch::nn::BatchNorm2dImpl*>(&module)) {
      bn->options.momentum(1.0);
    }
  });
  model->train();
  model->forward(images);
  model->eval();
}

}  // namespace bsconv_test
