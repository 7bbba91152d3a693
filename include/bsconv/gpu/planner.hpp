// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/gpu/compiler.hpp>
#include <bsconv/gpu/geometry.hpp>
#include <bsconv/gpu/library_operation.hpp>
#include <bsconv/gpu/operation.hpp>
#include <bsconv/gpu/plan.hpp>
#include <bsconv/infer/capture.hpp>
#include <bsconv/infer/graph.hpp>
#include <bsconv/infer/run_operator.hpp>
#include <bsconv/infer/simplify.hpp>
#include <bsconv/infer/structure.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::gpu {

namespace detail {

using infer::Node;
using infer::NodeKind;

/// Hands the result of a run on that is no image.
class HandOn : public Operation {
 public:
  /// From the value `from`.
  explicit HandOn(std::size_t from) : from_(from) {}
  void run(const Context&, Values& values) const override { values.back() = values[from_]; }
  std::string describe() const override { return "result"; }

 private:
  std::size_t from_;
};

/// Turns a graph into a plan.
class Planner {
 public:
  Planner(std::shared_ptr<Compiler> compiler, infer::Graph graph, torch::ScalarType dtype)
      : compiler_(compiler),
        dtype_(dtype),
        plan_(std::make_unique<Plan>(std::move(compiler), std::move(graph), dtype)),
        context_{compiler_->runtime(), dtype} {
    constexpr int64_t quad = 4;
    infer::simplify(plan_->graph, quad);
  }

  std::unique_ptr<Plan> make(const torch::Tensor& example) {
    auto& g = graph();
    plan_->roots = infer::find_roots(
        g, [](const Node&) { return false; }, "flattened pixels");
    constexpr int64_t most_images = 65535;
    if (root(g.output) == g.input || !g.values[g.input].image || example.size(0) > most_images) {
      throw infer::NotCapturable(
          "a plan for a GPU takes at most 65535 float images and returns another tensor");
    }
    pairs_ = infer::find_pairs(g, [](const Node&) { return true; });
    imported_ = infer::find_imports(g, plan_->roots);
    bring_in();
    for (std::size_t i = 0; i < g.nodes.size(); ++i) {
      if (!g.nodes[i].removed && !pairs_.joined[i] && !imported_[i] &&
          g.nodes[i].kind != NodeKind::alias) {
        add(ways(i), i);
      }
    }
    bring_out();
    compile();
    choose();
    note_last_uses();
    infer::drop_captured(g);
    plan_->record(example);
    return std::move(plan_);
  }

 private:
  /// A step, and what could do it.
  struct Choice {
    std::vector<Sequence> ways;
    std::string key;
    std::size_t node = infer::no_node;
    std::vector<std::size_t> reads;
    std::vector<std::size_t> makes;
  };

  infer::Graph& graph() { return plan_->graph; }
  std::size_t root(std::size_t value) const { return plan_->roots[value]; }

  /// The shape of a value's image.
  std::vector<int64_t> image(std::size_t value) {
    const auto& sizes = graph().values[root(value)].sizes;
    return sizes.size() == 4 ? sizes : std::vector<int64_t>{sizes[0], sizes[1], 1, 1};
  }

  /// The input with its channels last, and affine maps of it.
  void bring_in() {
    auto& g = graph();
    std::size_t others = 0;
    for (std::size_t i = 0; i < g.nodes.size(); ++i) {
      const auto& node = g.nodes[i];
      if (node.removed) {
        continue;
      }
      if (imported_[i]) {
        add(one(bring_in(node.outputs[0], node.scale, node.bias)), i, {g.input}, {node.outputs[0]});
        continue;
      }
      for (const std::size_t input : node.inputs) {
        others += node.kind != NodeKind::alias && root(input) == g.input ? 1 : 0;
      }
    }
    if (others > 0) {
      add(one(bring_in(g.input, {}, {})), infer::no_node, {g.input}, {g.input});
    }
  }

  std::unique_ptr<Operation> bring_in(std::size_t to, const torch::Tensor& scale,
                                      const torch::Tensor& shift) {
    const auto sizes = image(graph().input);
    Constants c;
    c.set("channels", sizes[1])
        .set("pixels", infer::pixel_count(sizes))
        .set("scaled", scale.defined() ? 1 : 0);
    ElementOperation::Operands operands;
    operands.inputs = {value(graph().input), constant(scale), constant(shift)};
    operands.output = to;
    operands.sizes = sizes;
    return std::make_unique<ElementOperation>(
        scale.defined() ? "input, affine" : "input",
        KernelText{"bring_in", {"const float", "const float", "const float", "T"}, c},
        std::move(operands));
  }

  void bring_out() {
    auto& g = graph();
    const std::size_t from = root(g.output);
    if (!g.values[g.output].image) {
      add(one(std::make_unique<HandOn>(from)), infer::no_node, {from}, {});
      return;
    }
    const auto sizes = image(from);
    Constants c;
    c.set("channels", sizes[1]).set("pixels", infer::pixel_count(sizes));
    ElementOperation::Operands operands;
    operands.inputs = {value(from)};
    operands.output = g.values.size();
    operands.sizes = g.values[g.output].sizes;
    operands.leaves = true;
    add(one(std::make_unique<ElementOperation>(
            "result", KernelText{"bring_out", {"const T", "float"}, c}, std::move(operands))),
        infer::no_node, {from}, {});
  }

  static std::pair<int64_t, torch::Tensor> value(std::size_t index) {
    return {static_cast<int64_t>(index), torch::Tensor()};
  }

  std::pair<int64_t, torch::Tensor> constant(const torch::Tensor& tensor) const {
    return {-1, tensor.defined() ? context_.upload(tensor) : torch::Tensor()};
  }

  /// A step that can be done in one way.
  template <class Made>
  static std::vector<Sequence> one(Made operation) {
    std::vector<Sequence> ways(1);
    ways[0].push_back(std::move(operation));
    return ways;
  }

  void add(std::vector<Sequence> ways, std::size_t node, std::vector<std::size_t> reads,
           std::vector<std::size_t> makes, std::string key = "") {
    for (auto& read : reads) {
      read = root(read);
    }
    choices_.push_back({std::move(ways), std::move(key), node, std::move(reads), std::move(makes)});
  }

  void add(std::pair<std::vector<Sequence>, std::string> ways, std::size_t index) {
    const auto& node = graph().nodes[index];
    auto reads = node.inputs;
    if (pairs_.partner[index] != infer::no_node) {
      reads[0] = graph().nodes[pairs_.partner[index]].inputs[0];
    }
    add(std::move(ways.first), index, std::move(reads), node.outputs, std::move(ways.second));
  }

  /// What could do the node, and what tells its choice from others'.
  std::pair<std::vector<Sequence>, std::string> ways(std::size_t index) {
    const auto& node = graph().nodes[index];
    switch (node.kind) {
      case NodeKind::convolution:
        return convolution(index);
      case NodeKind::pool:
        return {one(pool(node)), ""};
      case NodeKind::other:
        return {one(std::make_unique<LibraryOperation>(graph(), node, plan_->roots)), ""};
      default:
        return {one(map(node)), ""};
    }
  }

  /// `node` as one kernel a number: an affine map, an activation, a sum or a gate; or the epilogue
  /// of a convolution, whose result stands in its output.
  std::unique_ptr<Operation> map(const Node& node) {
    const bool convolution = node.kind == NodeKind::convolution;
    const bool sum = node.kind == NodeKind::add;
    const bool gate = node.kind == NodeKind::gate;
    const bool residual = sum || node.residual;
    const auto sizes = image(node.outputs[0]);
    const bool scaled = node.kind == NodeKind::affine;
    Constants c;
    c.set("channels", sizes[1]).set("pixels", infer::pixel_count(sizes));
    c.set("scaled", scaled ? 1 : 0).set("gated", gate ? 1 : 0).set("residual", residual ? 1 : 0);
    c.set("before", static_cast<int64_t>(node.before));
    c.set("after", static_cast<int64_t>(node.after));
    ElementOperation::Operands operands;
    const std::pair<int64_t, torch::Tensor> nothing{-1, torch::Tensor()};
    operands.inputs = {value(convolution ? node.outputs[0] : root(node.inputs[0])),
                       scaled ? constant(node.scale) : nothing,
                       scaled ? constant(node.bias) : nothing,
                       gate ? value(root(node.inputs[1])) : nothing,
                       residual ? value(root(node.inputs.back())) : nothing};
    operands.output = node.outputs[0];
    operands.sizes = sizes;
    const char* name = convolution ? "epilogue"
                       : sum       ? "sum"
                       : gate      ? "gate"
                       : scaled    ? "affine"
                                   : "activation";
    return std::make_unique<ElementOperation>(
        name,
        KernelText{"map", {"const T", "const float", "const float", "const T", "const T", "T"}, c},
        std::move(operands));
  }

  std::unique_ptr<Operation> pool(const Node& node) {
    const auto in = image(node.inputs[0]);
    const auto out = image(node.outputs[0]);
    Constants c;
    c.set("channels", in[1]).set("in_height", in[2]).set("in_width", in[3]);
    c.set("out_height", out[2]).set("out_width", out[3]);
    c.set("kernel_height", node.kernel[0]).set("kernel_width", node.kernel[1]);
    c.set("stride_y", node.stride[0]).set("stride_x", node.stride[1]);
    c.set("padding_y", node.padding[0]).set("padding_x", node.padding[1]);
    c.set("dilation_y", node.dilation[0]).set("dilation_x", node.dilation[1]);
    c.set("greatest", node.greatest ? 1 : 0).set("count_padding", node.count_padding ? 1 : 0);
    c.set("divisor", node.divisor);
    ElementOperation::Operands operands;
    operands.inputs = {value(root(node.inputs[0]))};
    operands.output = node.outputs[0];
    operands.sizes = out;
    return std::make_unique<ElementOperation>(node.greatest ? "max pool" : "mean pool",
                                              KernelText{"pool", {"const T", "T"}, c},
                                              std::move(operands));
  }

  /// A convolution by our kernels in several tiles, where they do it, and by the library.
  std::pair<std::vector<Sequence>, std::string> convolution(std::size_t index) {
    const auto& node = graph().nodes[index];
    const Node* pointwise =
        pairs_.partner[index] != infer::no_node ? &graph().nodes[pairs_.partner[index]] : nullptr;
    std::vector<Sequence> ways;
    std::string key;
    if (node.is_depthwise() || node.is_pointwise()) {
      const auto shape = shape_of(node, pointwise);
      const auto weights = weights_of(node, pointwise);
      const std::size_t from = root((pointwise == nullptr ? node : *pointwise).inputs[0]);
      const std::size_t residual = node.residual ? root(node.inputs.back()) : from;
      for (const auto& tile : shape.tiles()) {
        Sequence way;
        way.push_back(std::make_unique<ConvolveOperation>(shape, tile, weights, from, residual,
                                                          node.outputs[0], image(node.outputs[0])));
        ways.push_back(std::move(way));
      }
      key = shape.text({}).define("k", element_name(dtype_)) + std::to_string(shape.images);
    }
    Sequence library;
    if (pointwise != nullptr) {
      by_library(*pointwise, library);
    }
    by_library(node, library);
    ways.push_back(std::move(library));
    return {std::move(ways), std::move(key)};
  }

  ConvolutionShape shape_of(const Node& node, const Node* pointwise) {
    const Node* first = pointwise != nullptr ? pointwise : node.is_pointwise() ? &node : nullptr;
    const auto in = image((first != nullptr ? *first : node).inputs[0]);
    const auto out = image(node.outputs[0]);
    ConvolutionShape s;
    s.images = in[0];
    s.in_channels = in[1];
    s.channels = out[1];
    s.in_height = in[2];
    s.in_width = in[3];
    s.out_height = out[2];
    s.out_width = out[3];
    s.pointwise = first != nullptr;
    if (first != nullptr) {
      s.pointwise_stride = first->stride;
    }
    s.depthwise = node.is_depthwise();
    const auto middle = s.depthwise ? image(node.inputs[0]) : out;
    s.middle_height = middle[2];
    s.middle_width = middle[3];
    if (s.depthwise) {
      s.kernel = node.kernel;
      s.stride = node.stride;
      s.padding = node.padding;
      s.dilation = node.dilation;
    }
    s.between = pointwise != nullptr ? static_cast<int64_t>(pointwise->after) : 0;
    s.before = static_cast<int64_t>(node.before);
    s.after = static_cast<int64_t>(node.after);
    s.residual = node.residual;
    return s;
  }

  ConvolveOperation::Weights weights_of(const Node& node, const Node* pointwise) const {
    ConvolveOperation::Weights weights;
    const auto by_channel = [&](const Node& from) {
      return context_.upload(from.weight.flatten(1).t());
    };
    if (node.is_depthwise()) {
      weights.depthwise = by_channel(node);
      weights.depthwise_bias = context_.upload(node.bias);
    } else {
      pointwise = &node;
    }
    if (pointwise != nullptr) {
      weights.pointwise = by_channel(*pointwise);
      weights.pointwise_bias = context_.upload(pointwise->bias);
    }
    return weights;
  }

  void by_library(const Node& node, Sequence& sequence) {
    const auto in = image(node.inputs[0]);
    const auto out = image(node.outputs[0]);
    LibraryConvolution::Parts parts;
    const auto type = torch::TensorOptions().dtype(dtype_).device(context_.runtime.device());
    parts.weight = node.weight.to(type).contiguous(torch::MemoryFormat::ChannelsLast);
    parts.bias = node.bias.to(type);
    parts.groups = node.groups;
    parts.stride = {node.stride[0], node.stride[1]};
    parts.dilation = {node.dilation[0], node.dilation[1]};
    for (const std::size_t d : {std::size_t{1}, std::size_t{0}}) {
      const int64_t reach = (out[d + 2] - 1) * node.stride[d] +
                            (node.kernel[d] - 1) * node.dilation[d] + 1 - node.padding[d];
      parts.padding.push_back(node.padding[d]);
      // Beyond the last window there may be pixels that nothing reads.
      parts.padding.push_back(std::max<int64_t>(reach - in[d + 2], 0));
    }
    parts.height = out[2];
    parts.width = out[3];
    const int64_t multiply_adds = out[0] * out[2] * out[3] * node.weight.numel();
    sequence.push_back(std::make_unique<LibraryConvolution>(std::move(parts), root(node.inputs[0]),
                                                            node.outputs[0], multiply_adds));
    if (!node.is_plain()) {
      sequence.push_back(map(node));
    }
  }

  void compile() {
    std::vector<Launch*> launches;
    for (auto& choice : choices_) {
      for (auto& way : choice.ways) {
        for (auto& operation : way) {
          if (Launch* launch = operation->launch()) {
            launches.push_back(launch);
          }
        }
      }
    }
    compiler_->compile(launches, dtype_);
  }

  /// Keeps the fastest way of each step.
  void choose() {
    for (auto& choice : choices_) {
      std::size_t best = 0;
      if (choice.ways.size() > 1) {
        best = compiler_->fastest(choice.key, choice.ways.size(), [&](std::size_t way) {
          Values values(graph().values.size() + 1);
          for (const std::size_t read : choice.reads) {
            values[read] = context_.empty(image(read)).fill_(0.5);
          }
          return compiler_->runtime().time([&] {
            for (const auto& operation : choice.ways[way]) {
              operation->run(context_, values);
            }
          });
        });
      }
      PlanStep step;
      step.operations = std::move(choice.ways[best]);
      step.node = choice.node;
      plan_->steps.push_back(std::move(step));
    }
  }

  /// Lets go of values behind the last step that reads them.
  void note_last_uses() {
    std::vector<std::optional<std::size_t>> last(graph().values.size());
    for (std::size_t i = 0; i < choices_.size(); ++i) {
      for (const auto* list : {&choices_[i].reads, &choices_[i].makes}) {
        for (const std::size_t value : *list) {
          last[root(value)] = i;
        }
      }
      if (partner_of(i) != infer::no_node) {
        last[root(graph().nodes[partner_of(i)].outputs[0])] = i;
      }
    }
    for (std::size_t value = 0; value < last.size(); ++value) {
      if (last[value]) {
        plan_->steps[*last[value]].dead.push_back(value);
      }
    }
  }

  std::size_t partner_of(std::size_t step) const {
    const std::size_t node = choices_[step].node;
    return node == infer::no_node ? infer::no_node : pairs_.partner[node];
  }

  std::shared_ptr<Compiler> compiler_;
  torch::ScalarType dtype_;
  std::unique_ptr<Plan> plan_;
  Context context_;
  infer::Pairs pairs_;
  std::vector<bool> imported_;
  std::vector<Choice> choices_;
};

}  // namespace detail

/// A plan for `graph`, which was captured from an input like `example`, on the runtime of
/// `compiler` with elements of `dtype`.
inline std::unique_ptr<Plan> make_plan(std::shared_ptr<Compiler> compiler, infer::Graph graph,
                                       const torch::Tensor& example, torch::ScalarType dtype) {
  return detail::Planner(std::move(compiler), std::move(graph), dtype).make(example);
}

}  // namespace bsconv::gpu
