// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/autograd.h>
#include <torch/types.h>
#include <bsconv/autograd/block_backward.hpp>
#include <bsconv/autograd/block_forward.hpp>
#include <bsconv/autograd/block_input.hpp>
#include <bsconv/autograd/normalization_forward.hpp>
#include <bsconv/autograd/normalization_sums.hpp>
#include <bsconv/autograd/reference.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

namespace bsconv::detail {

/// The tensors of a block that gradients flow to, in a fixed order.
inline constexpr std::size_t block_tensor_count = 12;

/// Those tensors; undefined where there is none.
inline std::array<torch::Tensor, block_tensor_count> block_tensors(const TrainingBlock& block) {
  const auto weight = [](const auto& norm) { return norm ? norm->weight : torch::Tensor(); };
  const auto bias = [](const auto& norm) { return norm ? norm->bias : torch::Tensor(); };
  return {weight(block.input_norm),
          bias(block.input_norm),
          block.first,
          weight(block.first_norm),
          bias(block.first_norm),
          block.pointwise,
          weight(block.pointwise_norm),
          bias(block.pointwise_norm),
          block.depthwise,
          block.bias,
          weight(block.norm),
          bias(block.norm)};
}

/// Those tensors of all `blocks` in turn, as far as there are.
inline std::vector<torch::Tensor> defined_tensors(const std::vector<TrainingBlock>& blocks) {
  std::vector<torch::Tensor> result;
  for (const auto& block : blocks) {
    for (const auto& tensor : block_tensors(block)) {
      if (tensor.defined()) {
        result.push_back(tensor);
      }
    }
  }
  return result;
}

/// `block` with other tensors, in the order of `block_tensors`.
inline TrainingBlock with_tensors(TrainingBlock block, const torch::Tensor* tensors) {
  const auto set = [](auto& norm, const torch::Tensor& weight, const torch::Tensor& bias) {
    if (norm) {
      norm->weight = weight;
      norm->bias = bias;
    }
  };
  set(block.input_norm, tensors[0], tensors[1]);
  block.first = tensors[2];
  set(block.first_norm, tensors[3], tensors[4]);
  block.pointwise = tensors[5];
  set(block.pointwise_norm, tensors[6], tensors[7]);
  block.depthwise = tensors[8];
  block.bias = tensors[9];
  set(block.norm, tensors[10], tensors[11]);
  return block;
}

/// What a backward pass has to know beside its tensors.
struct ChainContext : torch::CustomClassHolder {
  /// The blocks, without tensors that autograd keeps.
  std::vector<TrainingBlock> blocks;
  /// What the batch normalization in front of the first does to the batch, if there is one.
  Normalization before;
  /// What the forward pass has found out about each.
  std::vector<c10::intrusive_ptr<BlockStatistics>> statistics;
  /// The kernels of the forward pass.
  const kernels::TrainingKernelTable* kernels = nullptr;
  /// Whether there is a residual beside the input. Without a batch normalization behind it, it
  /// isn't kept: its gradient is the output's.
  bool adds_residual = false;
  /// Whether the input is the residual, too.
  bool adds_input = false;
};

/// Blocks in a row as one operator: forward and backward on fused kernels; gradients of gradients
/// by LibTorch's operators.
///
/// Between two blocks lies the output of the first's depthwise convolution alone: the second
/// normalizes it as it reads it, and sums up the gradient for that normalization as it makes it.
class ChainFunction : public torch::autograd::Function<ChainFunction> {
 public:
  /// Computes `blocks` on `input`, and adds `residual` (with `adds_input`, `input`) in the last
  /// one, in front of its activation. Images are channels_last. Vectors divide the output channels
  /// of all blocks, and the input's if a batch normalization is in front of the first, as of none
  /// of the others. All but the last have one at the end. `tensors`, the `defined_tensors` of the
  /// blocks, are an argument so that autograd sees them.
  static torch::Tensor forward(torch::autograd::AutogradContext* context,
                               const torch::Tensor& input,
                               const std::optional<torch::Tensor>& residual_part,
                               at::TensorList /*tensors*/, const std::vector<TrainingBlock>& blocks,
                               bool adds_input, const kernels::TrainingKernelTable* kernels) {
    const auto residual = adds_input ? input : residual_part.value_or(torch::Tensor());
    auto context_data = c10::make_intrusive<ChainContext>();
    torch::autograd::variable_list saved = {
        input, blocks.back().norm ? residual_part.value_or(torch::Tensor()) : torch::Tensor(),
        torch::Tensor()};
    KeptBlock kept;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const bool is_last = i + 1 == blocks.size();
      const auto read = i == 0 ? input : kept.convolved;
      if (i == 0 && blocks[0].input_norm) {
        context_data->before = normalization_in_step(input, *blocks[0].input_norm, *kernels);
      }
      const auto from = i == 0 ? input_of(blocks[0], input, context_data->before, *kernels)
                               : input_behind(blocks[i - 1], kept, *kernels);
      const bool adds_here = is_last && !blocks[i].norm && residual.defined();
      kept = BlockForward(blocks[i], *kernels)
                 .run(read, from, adds_here ? pixels_of(residual) : PixelTensor());
      const auto tensors = block_tensors(blocks[i]);
      saved.insert(saved.end(), tensors.begin(), tensors.end());
      const auto normalized = blocks[i].norm ? kept.convolved : torch::Tensor();
      saved.insert(saved.end(), {kept.middle, kept.hidden, normalized});
      const std::array<torch::Tensor, block_tensor_count> none;
      context_data->blocks.push_back(with_tensors(blocks[i], none.data()));
      context_data->statistics.push_back(kept.statistics);
    }
    auto output = kept.convolved;
    const auto& last = blocks.back();
    if (last.norm) {
      output = normalized_images(kept.convolved, kept.statistics->outer, last.activation, residual,
                                 *kernels->forward);
      if (residual.defined() && last.activation != kernels::Activation::identity) {
        saved[output_at] = output;
      }
    }
    context_data->kernels = kernels;
    context_data->adds_residual = residual_part.has_value();
    context_data->adds_input = adds_input;
    context->saved_data["chain"] = torch::IValue::make_capsule(context_data);
    context->save_for_backward(std::move(saved));
    return output;
  }

  /// Gradients in the order of the arguments of `forward`.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto capsule = context->saved_data["chain"].toCapsule();
    const auto& kept = static_cast<const ChainContext&>(*capsule);
    auto found = torch::GradMode::is_enabled()
                     ? reference(kept, saved, gradients[0])
                     : fused(kept, saved, gradients[0], context->needs_input_grad(0));
    // Of the tensors, those that are defined were arguments.
    torch::autograd::variable_list result = {std::move(found[0]), std::move(found[1])};
    for (std::size_t block = 0; block < kept.blocks.size(); ++block) {
      for (std::size_t i = 0; i < block_tensor_count; ++i) {
        const auto& tensor = saved[saved_at(block) + i];
        if (tensor.defined()) {
          auto& gradient = found[2 + block * block_tensor_count + i];
          result.push_back(gradient.defined() && gradient.sizes() != tensor.sizes()
                               ? gradient.reshape(tensor.sizes())
                               : std::move(gradient));
        }
      }
    }
    result.resize(result.size() + other_arguments);
    return result;
  }

 private:
  static constexpr std::size_t output_at = 2;
  static constexpr std::size_t kept_count = 3;
  static constexpr std::size_t other_arguments = 3;

  /// Where what is saved of a block begins.
  static std::size_t saved_at(std::size_t block) {
    return output_at + 1 + block * (block_tensor_count + kept_count);
  }

  /// What the first block, `block`, reads of `input`; `before` is for its `input_norm`.
  static BlockInput input_of(const TrainingBlock& block, const torch::Tensor& input,
                             const Normalization& before,
                             const kernels::TrainingKernelTable& kernels) {
    return block.input_norm
               ? BlockInput(pixels_of(input), {before, block.input_activation, *kernels.forward})
               : BlockInput(pixels_of(input));
  }

  /// What a block reads behind `block`.
  static BlockInput input_behind(const TrainingBlock& block, const KeptBlock& kept,
                                 const kernels::TrainingKernelTable& kernels) {
    return {pixels_of(kept.convolved),
            {kept.statistics->outer, block.activation, *kernels.forward}};
  }

  /// The gradients of input, residual and all tensors of the blocks.
  static torch::autograd::variable_list fused(const ChainContext& context,
                                              const torch::autograd::variable_list& saved,
                                              const torch::Tensor& output_gradient,
                                              bool needs_input_gradient) {
    const auto& kernels = *context.kernels;
    const std::size_t count = context.blocks.size();
    std::vector<TrainingBlock> blocks;
    std::vector<KeptBlock> kept;
    for (std::size_t i = 0; i < count; ++i) {
      const auto* tensors = saved.data() + saved_at(i);
      blocks.push_back(with_tensors(context.blocks[i], tensors));
      tensors += block_tensor_count;
      kept.push_back({tensors[0], tensors[1], tensors[2], context.statistics[i]});
    }
    torch::autograd::variable_list result(2 + count * block_tensor_count);
    auto gradient = channels_last(output_gradient);
    const bool adds = context.adds_residual || context.adds_input;
    const bool normalizes_input = blocks.front().input_norm.has_value();
    torch::Tensor residual_gradient;
    std::optional<NormalizationBackward> norm;
    if (blocks.back().norm) {
      norm.emplace(gradient, kept.back().convolved, saved[output_at], adds,
                   kept.back().statistics->outer, blocks.back().activation, kernels);
      residual_gradient = norm->residual_gradient;
    } else if (adds) {
      residual_gradient = gradient;
    }
    const auto added = context.adds_input ? residual_gradient : torch::Tensor();
    if (!context.adds_input) {
      result[1] = residual_gradient;
    }
    for (std::size_t i = count; i-- > 0;) {
      const auto input = i == 0 ? input_of(blocks[0], saved[0], context.before, kernels)
                                : input_behind(blocks[i - 1], kept[i - 1], kernels);
      const auto& normalization = i == 0 ? context.before : kept[i - 1].statistics->outer;
      const auto activation = i == 0 ? blocks[0].input_activation : blocks[i - 1].activation;
      std::optional<NormalizationSums> before;
      if (input.is_normalized()) {
        before.emplace(input.images(), 1, normalization, activation, kernels);
      }
      BlockBackward backward(blocks[i], kernels, kept[i], input, norm ? &*norm : nullptr);
      backward.run(gradient, before || needs_input_gradient,
                   i == 0 && !before ? added : torch::Tensor(), before ? &*before : nullptr);
      const auto of_block = tensor_gradients(blocks[i], backward, norm, gradient);
      std::copy(of_block.begin(), of_block.end(), result.begin() + 2 + i * block_tensor_count);
      gradient = backward.input_gradient;
      if (before) {
        norm.emplace(gradient, i == 0 ? saved[0] : kept[i - 1].convolved, backward.before_totals,
                     normalization, activation, kernels);
      }
    }
    if (normalizes_input) {
      result[2] = float_tensor(norm->weight);
      result[3] = float_tensor(norm->bias);
      if (needs_input_gradient) {
        norm->write(added, gradient);
      }
    }
    if (needs_input_gradient) {
      result[0] = gradient;
    }
    return result;
  }

  /// The gradients of the tensors of a block, float.
  static std::array<torch::Tensor, block_tensor_count> tensor_gradients(
      const TrainingBlock& block, const BlockBackward& backward,
      const std::optional<NormalizationBackward>& norm, const torch::Tensor& gradient) {
    const auto& inner = backward.inner;
    std::array<torch::Tensor, block_tensor_count> result = {torch::Tensor(),
                                                            torch::Tensor(),
                                                            backward.first,
                                                            inner.first_weight,
                                                            inner.first_bias,
                                                            inner.pointwise,
                                                            inner.pointwise_weight,
                                                            inner.pointwise_bias,
                                                            backward.depthwise,
                                                            {},
                                                            {},
                                                            {}};
    if (block.bias.defined()) {
      // A batch normalization takes away what a bias adds.
      result[9] = norm ? torch::zeros_like(block.bias) : gradient.sum({0, 2, 3});
    }
    if (norm) {
      result[10] = float_tensor(norm->weight);
      result[11] = float_tensor(norm->bias);
    }
    for (auto& tensor : result) {
      if (tensor.defined()) {
        tensor = tensor.to(torch::kFloat).contiguous();
      }
    }
    return result;
  }

  /// The same by LibTorch's operators, which can be differentiated again.
  static torch::autograd::variable_list reference(const ChainContext& context,
                                                  const torch::autograd::variable_list& saved,
                                                  const torch::Tensor& gradient) {
    const std::size_t count = context.blocks.size();
    torch::autograd::variable_list tensors = {saved[0], saved[1]};
    for (std::size_t i = 0; i < count; ++i) {
      const auto* of_block = saved.data() + saved_at(i);
      tensors.insert(tensors.end(), of_block, of_block + block_tensor_count);
    }
    auto result = reference_gradients(
        [&context, count](const torch::autograd::variable_list& own) {
          auto output = own[0];
          for (std::size_t i = 0; i < count; ++i) {
            const auto* of_block = own.data() + 2 + i * block_tensor_count;
            const auto& residual = context.adds_input ? own[0] : own[1];
            output = reference_block(output, with_tensors(context.blocks[i], of_block),
                                     i + 1 == count ? residual : torch::Tensor());
          }
          return output;
        },
        gradient, tensors, tensors.size(), tensors.size());
    if (context.adds_residual && !saved[1].defined()) {
      result[1] = gradient;
    }
    return result;
  }
};

/// Computes `blocks` on `kernels`, as a part of the graph; see `ChainFunction`.
inline torch::Tensor run_chain(const torch::Tensor& input, const std::vector<TrainingBlock>& blocks,
                               const torch::Tensor& residual,
                               const kernels::TrainingKernelTable& kernels) {
  const auto tensors = defined_tensors(blocks);
  const bool adds_input = residual.defined() && residual.is_same(input);
  return ChainFunction::apply(
      channels_last(input), adds_input ? std::nullopt : if_defined(channels_last_if_any(residual)),
      at::TensorList(tensors), blocks, adds_input, &kernels);
}

}  // namespace bsconv::detail
