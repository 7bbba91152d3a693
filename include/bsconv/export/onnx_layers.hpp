// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/capture/operator_capture.hpp>
#include <bsconv/export/onnx_builder.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

/// \file
/// Convolutions, linear layers, normalizations and pools as ONNX.

namespace bsconv::onnx::detail {

using bsconv::detail::numbers;

/// `[begin..., end...]`, as ONNX wants them, of the same padding on both sides.
inline std::vector<int64_t> both_sides(std::vector<int64_t> padding) {
  const auto count = padding.size();
  padding.resize(2 * count);
  std::copy_n(padding.begin(), count, padding.begin() + static_cast<std::ptrdiff_t>(count));
  return padding;
}

inline void write_convolution(Builder& to) {
  const auto weight_sizes = to.sizes(1);
  const std::size_t spatial = weight_sizes.size() - 2;
  if (to.sizes(0).size() != spatial + 2) {
    to.refuse("has an input without a batch dimension, which ONNX has not");
  }
  const std::vector<int64_t> kernel(weight_sizes.begin() + 2, weight_sizes.end());
  const auto dilation = numbers(to.argument(5), spatial);
  std::vector<int64_t> pads(2 * spatial, 0);
  if (!to.argument(4).isString()) {
    pads = both_sides(numbers(to.argument(4), spatial));
  } else if (to.argument(4).toStringRef() == "same") {
    for (std::size_t d = 0; d < spatial; ++d) {
      const int64_t total = dilation[d] * (kernel[d] - 1);
      // LibTorch pads one more at the end where the total is odd.
      pads[d] = total / 2;
      pads[spatial + d] = total - total / 2;
    }
  }
  std::vector<std::string> inputs = {to.input(0)};
  const auto& node = to.node();
  const bool has_bias = to.argument(2).isTensor() && to.argument(2).toTensor().defined();
  if (node.kind == infer::NodeKind::convolution && node.weight.defined()) {
    // The capture has it in double precision, with what has been folded into it.
    const auto given = to.argument(1).toTensor();
    const auto folded = node.weight.to(given.scalar_type());
    const bool changed = !folded.equal(given) || (!has_bias && node.bias.any().item<bool>());
    if (!changed) {
      inputs.push_back(to.input(1));
    } else {
      inputs.push_back(to.changed_weight(folded, given, "weight"));
    }
    const auto bias = node.bias.to(given.scalar_type());
    if (has_bias && bias.equal(to.argument(2).toTensor())) {
      inputs.push_back(to.input(2));
    } else if (has_bias || changed) {
      auto name = inputs[1];
      const auto dot = name.rfind('.');
      name = dot == std::string::npos ? "bias" : name.substr(0, dot) + ".bias";
      inputs.push_back(
          to.changed_weight(bias, has_bias ? to.argument(2).toTensor() : torch::Tensor(), name));
    }
  } else {
    inputs.push_back(to.input(1));
    if (has_bias) {
      inputs.push_back(to.input(2));
    }
  }
  to.give(to.add("Conv", inputs,
                 {{"kernel_shape", kernel},
                  {"strides", numbers(to.argument(3), spatial)},
                  {"pads", pads},
                  {"dilations", dilation},
                  {"group", to.argument(6).toInt()}}));
}

inline void write_transposed_convolution(Builder& to) {
  const auto weight_sizes = to.sizes(1);
  const std::size_t spatial = weight_sizes.size() - 2;
  if (to.sizes(0).size() != spatial + 2) {
    to.refuse("has an input without a batch dimension, which ONNX has not");
  }
  std::vector<std::string> inputs = {to.input(0), to.input(1)};
  if (to.argument(2).isTensor() && to.argument(2).toTensor().defined()) {
    inputs.push_back(to.input(2));
  }
  to.give(
      to.add("ConvTranspose", inputs,
             {{"kernel_shape", std::vector<int64_t>(weight_sizes.begin() + 2, weight_sizes.end())},
              {"strides", numbers(to.argument(3), spatial)},
              {"pads", both_sides(numbers(to.argument(4), spatial))},
              {"output_padding", numbers(to.argument(5), spatial)},
              {"group", to.argument(6).toInt()},
              {"dilations", numbers(to.argument(7), spatial)}}));
}

/// The name of the matrix at `index`, and whether it has to be transposed: linear layers run with
/// a transposed view of their weight.
inline std::pair<std::string, bool> matrix(Builder& to, std::size_t index) {
  if (!to.value(index)) {
    const auto parameter = to.transposed_parameter(to.argument(index).toTensor());
    if (parameter.defined()) {
      return {to.weight(parameter), true};
    }
  }
  return {to.input(index), false};
}

// beta * bias + alpha * (x W).
inline void write_addmm(Builder& to) {
  const auto [weight, transposed] = matrix(to, 2);
  to.give(to.add("Gemm", {to.input(1), weight, to.input(0)},
                 {{"alpha", static_cast<float>(to.argument(4).toScalar().toDouble())},
                  {"beta", static_cast<float>(to.argument(3).toScalar().toDouble())},
                  {"transB", int64_t{transposed ? 1 : 0}}}));
}

inline void write_matmul(Builder& to) { to.give(to.add("MatMul", {to.input(0), to.input(1)})); }

// x W^T + bias.
inline void write_linear(Builder& to) {
  const auto weight = to.add("Transpose", {to.input(1)}, {{"perm", std::vector<int64_t>{1, 0}}});
  auto result = to.add("MatMul", {to.input(0), weight});
  if (to.argument(2).isTensor() && to.argument(2).toTensor().defined()) {
    result = to.add("Add", {result, to.input(2)});
  }
  to.give(result);
}

/// The name of an optional vector argument, or of `otherwise` for all of `count` channels.
inline std::string vector_or(Builder& to, std::size_t index, int64_t count, double otherwise) {
  const auto given = to.argument(index);
  if (given.isTensor() && given.toTensor().defined()) {
    return to.input(index);
  }
  return to.constant(torch::full({count}, otherwise, to.result_type()));
}

inline void write_batch_norm(Builder& to) {
  if (to.argument(5).toBool() || !to.argument(3).isTensor() ||
      !to.argument(3).toTensor().defined()) {
    to.refuse("normalizes with the statistics of the batch; ONNX needs running statistics");
  }
  const int64_t channels = to.sizes(0).at(1);
  to.give(to.add("BatchNormalization",
                 {to.input(0), vector_or(to, 1, channels, 1.0), vector_or(to, 2, channels, 0.0),
                  to.input(3), to.input(4)},
                 {{"epsilon", static_cast<float>(to.argument(7).toDouble())}}));
}

inline void write_layer_norm(Builder& to) {
  const auto shape = to.argument(1).toIntVector();
  const auto given = to.argument(2);
  const std::string scale = given.isTensor() && given.toTensor().defined()
                                ? to.input(2)
                                : to.constant(torch::ones(shape, to.result_type()));
  std::vector<std::string> inputs = {to.input(0), scale};
  if (to.argument(3).isTensor() && to.argument(3).toTensor().defined()) {
    inputs.push_back(to.input(3));
  }
  to.give(to.add("LayerNormalization", inputs,
                 {{"axis", -static_cast<int64_t>(shape.size())},
                  {"epsilon", static_cast<float>(to.argument(4).toDouble())}}));
}

// Groups of channels as the channels of an instance normalization.
inline void write_group_norm(Builder& to) {
  const int64_t groups = to.argument(1).toInt();
  const auto sizes = to.sizes(0);
  const auto grouped = to.add("Reshape", {to.input(0), to.list({0, groups, -1})});
  const auto normal = to.add("InstanceNormalization",
                             {grouped, to.constant(torch::ones({groups}, to.result_type())),
                              to.constant(torch::zeros({groups}, to.result_type()))},
                             {{"epsilon", static_cast<float>(to.argument(4).toDouble())}});
  auto result = to.add("Reshape", {normal, to.list(to.target_sizes(to.result()))});
  std::vector<int64_t> shape(sizes.size() - 1, 1);
  shape[0] = sizes[1];
  const struct {
    std::size_t index;
    const char* type;
  } factors[] = {{2, "Mul"}, {3, "Add"}};
  for (const auto& [index, type] : factors) {
    const auto given = to.argument(index);
    if (given.isTensor() && given.toTensor().defined()) {
      to.refuse_value(index);
      const auto& tensor = given.toTensor();
      result = to.add(type, {result, to.changed_weight(tensor.view(shape), tensor, "factor")});
    }
  }
  to.give(result);
}

/// How a pool's windows lie.
struct Windows {
  std::vector<int64_t> kernel;
  std::vector<int64_t> strides;
  std::vector<int64_t> pads;
  /// Whether a window reaches beyond the padding, which only rounding up allows.
  bool beyond = false;
};

// ONNX's rounding up differs from LibTorch's; padding that is written out does not.
inline Windows windows(Builder& to, std::size_t spatial, const std::vector<int64_t>& dilation,
                       bool rounds_up) {
  Windows result;
  const auto sizes = to.sizes(0);
  if (sizes.size() != spatial + 2) {
    to.refuse("has an input without a batch dimension, which ONNX has not");
  }
  result.kernel = numbers(to.argument(1), spatial);
  const auto strides =
      to.argument(2).isIntList() ? to.argument(2).toIntVector() : std::vector<int64_t>{};
  result.strides = strides.empty() ? result.kernel : numbers(to.argument(2), spatial);
  result.pads = both_sides(numbers(to.argument(3), spatial));
  for (std::size_t d = 0; rounds_up && d < spatial; ++d) {
    const int64_t needed = (to.result_sizes()[d + 2] - 1) * result.strides[d] +
                           dilation[d] * (result.kernel[d] - 1) + 1 - sizes[d + 2] - result.pads[d];
    result.beyond = result.beyond || needed > result.pads[spatial + d];
    result.pads[spatial + d] = std::max(result.pads[spatial + d], needed);
  }
  return result;
}

inline void write_max_pool(Builder& to) {
  const std::size_t spatial = to.name() == "max_pool1d" ? 1 : to.name() == "max_pool3d" ? 3 : 2;
  const auto dilation = numbers(to.argument(4), spatial);
  const auto shape = windows(to, spatial, dilation, to.argument(5).toBool());
  for (std::size_t i = 0; i < shape.pads.size(); ++i) {
    if (shape.pads[i] >= shape.kernel[i % spatial]) {
      to.refuse("rounds its size up beyond a whole kernel of padding, which runtimes refuse");
    }
  }
  to.give(to.add("MaxPool", {to.input(0)},
                 {{"kernel_shape", shape.kernel},
                  {"strides", shape.strides},
                  {"pads", shape.pads},
                  {"dilations", dilation}}));
}

inline void write_average_pool(Builder& to) {
  const std::size_t spatial = to.name() == "avg_pool1d" ? 1 : to.name() == "avg_pool3d" ? 3 : 2;
  const auto shape =
      windows(to, spatial, std::vector<int64_t>(spatial, 1), to.argument(4).toBool());
  if (!to.argument(6).isNone()) {
    to.refuse("has a divisor of its own, which ONNX has not");
  }
  const bool pads = std::any_of(shape.pads.begin(), shape.pads.end(), [](int64_t p) { return p; });
  const auto given = numbers(to.argument(3), spatial);
  const bool padded = std::any_of(given.begin(), given.end(), [](int64_t p) { return p > 0; });
  bool counts = pads && to.argument(5).toBool();
  if (shape.beyond) {
    if (counts && padded) {
      to.refuse("counts its padding and rounds its size up, which ONNX can't both");
    }
    counts = false;
  }
  to.give(to.add("AveragePool", {to.input(0)},
                 {{"kernel_shape", shape.kernel},
                  {"strides", shape.strides},
                  {"pads", shape.pads},
                  {"count_include_pad", int64_t{counts ? 1 : 0}}}));
}

inline void write_adaptive_pool(Builder& to) {
  const bool greatest = to.name().find("max") != std::string::npos;
  const auto sizes = to.sizes(0);
  const auto& wanted = to.result_sizes();
  const std::size_t spatial = to.name().back() == 'd' ? to.name()[to.name().size() - 2] - '0' : 2;
  if (sizes.size() != spatial + 2) {
    to.refuse("has an input without a batch dimension, which ONNX has not");
  }
  std::vector<int64_t> kernel;
  for (std::size_t d = 2; d < sizes.size(); ++d) {
    if (wanted[d] == 0 || sizes[d] % wanted[d] != 0) {
      to.refuse("pools to a size that does not divide the input's, for which ONNX has no operator");
    }
    kernel.push_back(sizes[d] / wanted[d]);
  }
  if (std::all_of(wanted.begin() + 2, wanted.end(), [](int64_t size) { return size == 1; })) {
    to.give(to.add(greatest ? "GlobalMaxPool" : "GlobalAveragePool", {to.input(0)}));
  } else {
    to.give(to.add(greatest ? "MaxPool" : "AveragePool", {to.input(0)},
                   {{"kernel_shape", kernel}, {"strides", kernel}}));
  }
}

}  // namespace bsconv::onnx::detail
