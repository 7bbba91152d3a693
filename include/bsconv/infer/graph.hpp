// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/types.h>
#include <bsconv/kernels/arguments.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

/// \file
/// What a model computes, as a list of operations on values.

namespace bsconv::infer {

/// What a node does.
enum class NodeKind {
  /// A convolution of any geometry; a linear layer is one, too.
  convolution,
  /// `x * scale + shift` by channel.
  affine,
  /// An activation alone.
  activation,
  /// The sum of two values of the same shape.
  add,
  /// A value times one number a channel, the squeeze-and-excitation gate.
  gate,
  /// Maximum or mean of windows.
  pool,
  /// Another shape or name for the same numbers.
  alias,
  /// An operator that LibTorch runs.
  other,
};

/// A tensor that the model makes.
struct Value {
  /// Its shape in the captured run.
  std::vector<int64_t> sizes;
  /// The node that makes it; none for the model's input.
  std::optional<std::size_t> producer;
  /// How many nodes use it; the model's result counts as a use.
  std::size_t uses = 0;
  /// The type of its elements.
  torch::ScalarType dtype = torch::kFloat;
  /// Whether it is of floats on the graph's device with the shape `[N, C, H, W]` or `[N, C]`.
  bool image = false;
};

/// One operation. Which members have a meaning depends on the kind.
struct Node {
  /// What it does.
  NodeKind kind = NodeKind::other;
  /// The operator it came from, such as "aten::conv2d".
  std::string source;
  /// Why LibTorch has to run it; empty if it needn't.
  std::string reason;
  /// The values it reads, an epilogue's residual last.
  std::vector<std::size_t> inputs;
  /// The values it makes; every kind but `other` makes one.
  std::vector<std::size_t> outputs;
  /// Whether it has been absorbed by another node.
  bool removed = false;

  /// Convolution: `[out, in / groups, height, width]` in double precision.
  torch::Tensor weight;
  /// Convolution: `[out]` in double precision. Affine: the shift.
  torch::Tensor bias;
  /// Affine: `[channels]` in double precision.
  torch::Tensor scale;
  /// Geometry of a convolution or pool; the padding is that above and to the left.
  std::array<int64_t, 2> kernel{1, 1};
  /// Pixels from a window to the next, down and across.
  std::array<int64_t, 2> stride{1, 1};
  /// Zeros above and to the left.
  std::array<int64_t, 2> padding{0, 0};
  /// Pixels between the taps of a kernel.
  std::array<int64_t, 2> dilation{1, 1};
  /// Groups of channels that a convolution keeps apart.
  int64_t groups = 1;
  /// The epilogue of every kind but `pool`, `alias` and `other`.
  kernels::Activation before = kernels::Activation::identity;
  /// The last part of the epilogue.
  kernels::Activation after = kernels::Activation::identity;
  /// Whether the last of `inputs` is added.
  bool residual = false;
  /// Pool: the greatest or the mean, and how a mean counts.
  bool greatest = false;
  /// Pool: whether a mean counts the padding.
  bool count_padding = true;
  /// Pool: what a mean divides by, or 0 for the number of pixels.
  int64_t divisor = 0;

  /// Which of the model's tensors its weights were made of: equal lists make equal weights.
  std::vector<int64_t> origin;

  /// The operator and its arguments; a tensor that is a value stands in `values`. A plan keeps
  /// them for `other` alone.
  std::optional<c10::OperatorHandle> op;
  /// Its arguments in the captured run.
  std::vector<c10::IValue> arguments;
  /// Position in `arguments`, position in a list there or -1, value.
  std::vector<std::array<int64_t, 3>> values;
  /// Position of each output among the results, position in a list there or -1.
  std::vector<std::array<int64_t, 2>> results;
  /// The argument that it writes to, or -1.
  int64_t writes = -1;

  /// Whether it has weights for one channel each.
  bool is_depthwise() const {
    return kind == NodeKind::convolution && groups > 1 && groups == weight.size(0) &&
           weight.size(1) == 1;
  }
  /// Whether it mixes channels of single pixels.
  bool is_pointwise() const {
    return kind == NodeKind::convolution && groups == 1 && kernel[0] == 1 && kernel[1] == 1 &&
           padding[0] == 0 && padding[1] == 0;
  }
  /// Whether nothing happens to its sums.
  bool is_plain() const {
    return before == kernels::Activation::identity && after == kernels::Activation::identity &&
           !residual;
  }
};

/// A model can't be run as a list of operations, or an input can't; says why.
class NotCapturable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;

  /// Of an operator whose results have other shapes with other numbers.
  static NotCapturable shape_of(const std::string& source) {
    return NotCapturable("the shape of what " + source + " gives depends on numbers");
  }
};

/// A model's operations in the order in which they ran.
struct Graph {
  /// All values.
  std::vector<Value> values;
  /// The operations in order.
  std::vector<Node> nodes;
  /// The model's input and result.
  std::size_t input = 0;
  /// The model's result.
  std::size_t output = 0;
  /// Where the model ran: its input's device.
  torch::Device device = torch::kCPU;
  /// The tensors of the model that the operations read, to notice when they change.
  std::vector<torch::Tensor> constants;

  /// Adds a value like `tensor`.
  std::size_t add_value(const torch::Tensor& tensor) {
    Value value;
    value.sizes = tensor.sizes().vec();
    value.dtype = tensor.scalar_type();
    if (values.empty()) {
      device = tensor.device();
    }
    const bool is_batch = values.empty() || (!values.front().sizes.empty() && tensor.dim() > 0 &&
                                             tensor.size(0) == values.front().sizes[0]);
    value.image = is_batch && tensor.scalar_type() == torch::kFloat && tensor.device() == device &&
                  tensor.layout() == torch::kStrided && (tensor.dim() == 4 || tensor.dim() == 2) &&
                  tensor.numel() > 0;
    values.push_back(std::move(value));
    return values.size() - 1;
  }

  /// The shape of the first of what `node` gives; none if it gives nothing.
  std::vector<int64_t> result_sizes(const Node& node) const {
    return node.outputs.empty() ? std::vector<int64_t>() : values[node.outputs.front()].sizes;
  }

  /// The node that makes `value` if it is not removed and nothing else uses the value.
  Node* sole_producer(std::size_t value) {
    const auto& producer = values[value].producer;
    if (!producer || values[value].uses != 1) {
      return nullptr;
    }
    return &nodes[*producer];
  }
};

}  // namespace bsconv::infer
