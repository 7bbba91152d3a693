// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/fused_training.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "support/autograd_graph.hpp"

namespace autograd_chain_function_test {
namespace {

using bsconv::detail::block_tensors;
using bsconv::detail::defined_tensors;
using bsconv::detail::reference_activation;
using bsconv::detail::reference_block;
using bsconv::detail::reference_norm;
using bsconv::detail::run_blocks;
using bsconv::detail::training_kernels_for;
using bsconv::detail::TrainingBatchNorm;
using bsconv::detail::TrainingBlock;
using bsconv::detail::with_tensors;
using bsconv::kernels::Activation;
using torch::nn::BatchNorm2d;

int64_t draw(int64_t low, int64_t high) {
  return torch::randint(low, high + 1, {1}).item<int64_t>();
}

TrainingBatchNorm norm_of(int64_t channels) {
  TrainingBatchNorm norm;
  if (draw(0, 4) != 0) {
    norm.weight = torch::rand({channels}).add_(0.5).requires_grad_();
    norm.bias = torch::randn({channels}).mul_(0.5).requires_grad_();
  }
  norm.running_mean = torch::randn({channels});
  norm.running_var = torch::rand({channels}).add_(0.5);
  norm.num_batches_tracked = torch::tensor(int64_t{3});
  return norm;
}

Activation any_activation() {
  return std::vector<Activation>{Activation::identity, Activation::relu,
                                 Activation::relu6}[static_cast<std::size_t>(draw(0, 2))];
}

/// A block from `in` to `out` channels, of any kind there is; `same` keeps the images' size.
TrainingBlock block_of(int64_t in, int64_t out, bool same) {
  TrainingBlock block;
  int64_t mid = in;
  if (draw(0, 1) == 1) {
    mid = draw(1, 6) * 4;
    block.first = torch::randn({mid, in, 1, 1}).div_(4).requires_grad_();
    if (draw(0, 1) == 1) {
      block.first_norm = norm_of(mid);
    }
  }
  block.pointwise = torch::randn({out, mid, 1, 1}).div_(4).requires_grad_();
  if (block.first_norm || draw(0, 2) == 0) {
    block.pointwise_norm = norm_of(out);
  }
  const int64_t kernel = same ? 3 : draw(1, 2) * 2 + 1;
  const int64_t stride = same ? 1 : draw(1, 2);
  block.depthwise = torch::randn({out, 1, kernel, kernel}).div_(2).requires_grad_();
  block.geometry = {{kernel, kernel}, {stride, stride}, {kernel / 2, kernel / 2}, {1, 1}};
  if (draw(0, 2) == 0) {
    block.bias = torch::randn({out}).requires_grad_();
  }
  block.norm = norm_of(out);
  block.activation = any_activation();
  return block;
}

/// What LibTorch's operators make of blocks in double precision.
struct Reference {
  torch::Tensor output;
  /// How near a value comes to a bend of an activation. Rounding moves some across that are very
  /// near, which changes gradients by far more than rounding.
  double margin = 1.0;
};

Reference reference_chain(torch::Tensor x, const std::vector<TrainingBlock>& blocks,
                          const torch::Tensor& residual) {
  Reference result;
  const auto activate = [&](Activation activation) {
    if (activation != Activation::identity) {
      const auto values = x.detach();
      const auto distance = torch::minimum(values.abs(), (values - 6.0).abs()).min();
      result.margin = std::min(result.margin, distance.item<double>());
    }
    x = reference_activation(x, {}, activation);
  };
  for (const auto& block : blocks) {
    auto tensors = block_tensors(block);
    for (auto& tensor : tensors) {
      if (tensor.defined()) {
        tensor = tensor.to(torch::kDouble);
      }
    }
    auto plain = with_tensors(block, tensors.data());
    plain.activation = Activation::identity;
    if (plain.input_norm) {
      x = reference_norm(x, plain.input_norm);
      activate(plain.input_activation);
      plain.input_norm.reset();
    }
    x = reference_block(x, plain, &block == &blocks.back() ? residual : torch::Tensor());
    activate(block.activation);
  }
  result.output = x;
  return result;
}

/// Expects output and all gradients to be those of LibTorch's operators in double precision.
/// Returns whether values were far enough from bends to tell.
bool expect_chain(const std::vector<TrainingBlock>& blocks, const torch::Tensor& input,
                  const torch::Tensor& residual) {
  auto leaves = defined_tensors(blocks);
  leaves.push_back(input);
  if (residual.defined() && !residual.is_same(input)) {
    leaves.push_back(residual);
  }
  const auto as_double = [](const torch::Tensor& tensor) {
    return tensor.defined() ? tensor.to(torch::kDouble) : tensor;
  };
  const auto [expected, margin] = reference_chain(as_double(input), blocks, as_double(residual));
  if (margin < 2e-6) {
    return false;
  }
  const auto found = run_blocks(input, blocks, residual);
  EXPECT_LE((found - expected).norm().item<double>(), 1e-4 * expected.norm().item<double>());
  const auto gradient = torch::randn(expected.sizes());
  const auto found_gradients = torch::autograd::grad({found}, leaves, {gradient});
  const auto gradients = torch::autograd::grad({expected}, leaves, {gradient.to(torch::kDouble)});
  // What cancels to zero is compared with the size of what cancels.
  const double size = gradients.back().norm().item<double>();
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    SCOPED_TRACE(c10::str("gradient ", i, " ", leaves[i].sizes()));
    EXPECT_LE((found_gradients[i] - gradients[i]).norm().item<double>(),
              1e-4 * (gradients[i].norm().item<double>() + 0.1 * size));
  }
  return true;
}

class RandomChain : public testing::TestWithParam<int> {};

TEST_P(RandomChain, GradientsEqualLibTorchs) {
  torch::manual_seed(GetParam());
  // Above 48 channels, what the depthwise convolution reads is kept.
  const int64_t unit =
      std::vector<int64_t>{64, 8, 16, 16, 16}[static_cast<std::size_t>(draw(0, 4))];
  const bool same = draw(0, 1) == 1;
  const int64_t count = draw(2, 4);
  const int64_t ends = unit * draw(1, 2);
  int64_t channels = same ? ends : draw(3, 40);
  const std::vector<int64_t> sizes = {draw(2, 5), channels, draw(5, 20), draw(5, 17)};
  std::vector<TrainingBlock> blocks;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t out = same && i + 1 == count ? ends : unit * draw(1, 2);
    blocks.push_back(block_of(channels, out, same));
    channels = out;
  }
  const bool adds_input = draw(0, 2) != 0;
  auto& first = blocks.front();
  if (draw(0, 1) == 1 && training_kernels_for(sizes[1], sizes[2] * sizes[3]) != nullptr) {
    first.input_norm = norm_of(sizes[1]);
    first.input_activation = any_activation();
  }
  auto& last = blocks.back();
  if (draw(0, 1) == 1) {
    last.norm.reset();
    last.activation = Activation::identity;
  }
  SCOPED_TRACE(c10::str(count, " blocks, input ", sizes, same ? ", with a residual" : "",
                        first.input_norm ? ", normalized first" : "",
                        last.norm ? "" : ", without a norm at the end"));
  bool compared = false;
  for (int i = 0; i < 20 && !compared; ++i) {
    const auto input = torch::randn(sizes).add_(0.3).requires_grad_();
    torch::Tensor residual;
    if (same) {
      residual = adds_input ? input : torch::randn(sizes).requires_grad_();
    }
    compared = expect_chain(blocks, input, residual);
  }
  EXPECT_TRUE(compared);
}

INSTANTIATE_TEST_SUITE_P(Random, RandomChain, testing::Range(0, 80));

// Images that are dealt out in bands, and those that wait for each other.
TEST(ChainFunction, LargeAndSmallImages) {
  torch::manual_seed(1);
  for (const auto& [images, size] : {std::pair<int64_t, int64_t>{3, 71}, {70, 3}, {9, 1}}) {
    const auto input = torch::randn({images, 32, size, size}).requires_grad_();
    std::vector<TrainingBlock> blocks = {block_of(32, 64, true), block_of(64, 32, true)};
    blocks[0].activation = blocks[1].activation = Activation::identity;
    EXPECT_TRUE(expect_chain(blocks, input, input));
    blocks[0].input_norm = norm_of(32);
    blocks[1].norm.reset();
    EXPECT_TRUE(expect_chain(blocks, input, input));
  }
}

TEST(ChainFunction, InputThatNeedsNoGradient) {
  torch::manual_seed(2);
  for (const int64_t channels : {3, 16}) {
    std::vector<TrainingBlock> blocks = {block_of(channels, 16, true), block_of(16, 16, true)};
    const bool adds_input = channels == 16;
    if (adds_input) {
      blocks[0].input_norm = norm_of(16);
      blocks[1].norm.reset();
      blocks[1].activation = Activation::identity;
    }
    const auto leaves = defined_tensors(blocks);
    const auto input = torch::randn({3, channels, 9, 9});
    const auto gradients = [&](const torch::Tensor& x) {
      const auto output = run_blocks(x, blocks, adds_input ? x : torch::Tensor());
      return torch::autograd::grad({output.square().sum()}, leaves);
    };
    const auto found = gradients(input);
    const auto with_input = gradients(input.clone().requires_grad_());
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      EXPECT_TRUE(torch::equal(found[i], with_input[i])) << channels << ", " << i;
    }
  }
}

TEST(ChainFunction, GradientsOfGradientsAreLibTorchs) {
  torch::manual_seed(4);
  std::vector<TrainingBlock> blocks = {block_of(16, 32, true), block_of(32, 16, true)};
  const auto input = torch::randn({2, 16, 6, 6}).requires_grad_();
  const auto penalty = [&](const torch::Tensor& output) {
    const auto gradient = torch::autograd::grad({output.square().sum()}, {input}, {}, std::nullopt,
                                                /*create_graph=*/true)[0];
    return torch::autograd::grad({gradient.square().sum()}, {input})[0];
  };
  const auto expect_equal = [&] {
    const auto found = penalty(run_blocks(input, blocks, input));
    const auto x = input.to(torch::kDouble);
    const auto expected = penalty(reference_chain(x, blocks, x).output);
    EXPECT_LE((found - expected).norm().item<double>(), 1e-3 * expected.norm().item<double>());
  };
  expect_equal();
  blocks[0].input_norm = norm_of(16);
  blocks[1].norm.reset();
  blocks[1].activation = Activation::identity;
  expect_equal();
}

/// How many operators of the library a step of `model` has.
int64_t operators_of(bsconv::Chain& model, const torch::Tensor& input) {
  return bsconv_test::count_operators(model->forward(input), "ChainFunction");
}

TEST(ChainFunction, LayersInARowAreOneOperator) {
  const auto model_of = [](const std::vector<int64_t>& channels) {
    bsconv::Chain model;
    for (std::size_t i = 0; i + 1 < channels.size(); ++i) {
      const auto name = std::to_string(i);
      const bsconv::BSConvUOptions options(channels[i], channels[i + 1], 3);
      model->push_back("layer" + name, bsconv::BSConvU(options));
      model->push_back("norm" + name, BatchNorm2d(channels[i + 1]));
      model->push_back("relu" + name, torch::nn::ReLU());
    }
    return model;
  };
  const auto input = torch::randn({2, 16, 9, 9});
  auto model = model_of({16, 16, 32, 16});
  EXPECT_EQ(operators_of(model, input), 1);
  EXPECT_EQ(model->named_buffers()["norm0.num_batches_tracked"].item<int64_t>(), 1);
  // LibTorch's operators have to do one in the middle.
  model = model_of({16, 16, 15, 16});
  EXPECT_EQ(operators_of(model, input), 2);
  for (const auto& buffer : model->named_buffers()) {
    if (buffer.value().dim() == 0) {
      EXPECT_EQ(buffer.value().item<int64_t>(), 1) << buffer.key();
    }
  }
  // Vectors of different widths can't be handed on.
  const bool is_wide = bsconv::kernels::available_kernels().front()->width == 16;
  model = model_of({16, 16, 24, 16});
  EXPECT_EQ(operators_of(model, input), is_wide ? 3 : 1);
}

/// A chain that does more than run its layers.
struct TwiceImpl : bsconv::ChainImpl {
  torch::Tensor forward(const torch::Tensor& input) override { return 2 * call_all(input); }
};
TORCH_MODULE(Twice);

TEST(ChainFunction, LayersOfChainsInAChainAreOneOperatorToo) {
  torch::manual_seed(5);
  bsconv::Chain model;
  bsconv::Chain stage;
  for (const auto* name : {"a", "b", "c"}) {
    bsconv::Chain unit;
    unit->push_back("conv", bsconv::BSConvU(bsconv::BSConvUOptions(16, 16, 3).padding(1)))
        .push_back("norm", BatchNorm2d(16))
        .push_back("relu", torch::nn::ReLU());
    if (*name == 'c') {
      stage->push_back("tanh", torch::nn::Tanh());
    }
    stage->push_back(name, unit);
  }
  model->push_back("first", stage);
  bsconv::BSConvU second(bsconv::BSConvUOptions(16, 16, 3).padding(1));
  model->push_back("conv", second).push_back("norm", BatchNorm2d(16));
  const auto input = torch::randn({2, 16, 9, 9});
  EXPECT_EQ(operators_of(model, input), 2);

  const auto output = model->forward(input);
  const bsconv::FusedTrainingGuard off(false);
  EXPECT_EQ(operators_of(model, input), 0);
  EXPECT_TRUE(torch::allclose(output, model->forward(input), 1e-4, 1e-4));
}

TEST(ChainFunction, AChainWithAForwardOfItsOwnStaysWhole) {
  torch::manual_seed(6);
  Twice twice;
  twice->push_back("conv", bsconv::BSConvU(16, 16, 3)).push_back("norm", BatchNorm2d(16));
  bsconv::Chain model;
  model->push_back("twice", twice);
  const auto input = torch::randn({2, 16, 9, 9});
  EXPECT_TRUE(torch::allclose(model->forward(input).square().mean(), torch::tensor(4.0), 1e-2));
}

}  // namespace
}  // namespace autograd_chain_function_test
