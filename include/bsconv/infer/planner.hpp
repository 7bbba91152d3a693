// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/infer/capture.hpp>
#include <bsconv/infer/convolution_step.hpp>
#include <bsconv/infer/depthwise_step.hpp>
#include <bsconv/infer/graph.hpp>
#include <bsconv/infer/import_step.hpp>
#include <bsconv/infer/plan.hpp>
#include <bsconv/infer/pointwise_step.hpp>
#include <bsconv/infer/pool_step.hpp>
#include <bsconv/infer/run_operator.hpp>
#include <bsconv/infer/simplify.hpp>
#include <bsconv/infer/structure.hpp>
#include <bsconv/kernels/pack.hpp>
#include <bsconv/kernels/table.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace bsconv::infer {

/// Packed weights that the plans of a model share.
class PackCache {
 public:
  /// What tells one pack from another.
  using Key = std::tuple<std::vector<int64_t>, std::vector<int64_t>, int64_t, int64_t>;

  /// The convolution weights of `key`; `make` makes them where they are missing.
  template <class Make>
  std::shared_ptr<const kernels::PackedConvolution> convolution(const Key& key, Make&& make) {
    auto& found = convolutions_[key];
    if (found == nullptr) {
      found = std::make_shared<const kernels::PackedConvolution>(make());
    }
    return found;
  }

  /// The depthwise weights of `key`.
  template <class Make>
  std::shared_ptr<const kernels::PackedDepthwise> depthwise(const Key& key, Make&& make) {
    auto& found = depthwises_[key];
    if (found == nullptr) {
      found = std::make_shared<const kernels::PackedDepthwise>(make());
    }
    return found;
  }

 private:
  std::map<Key, std::shared_ptr<const kernels::PackedConvolution>> convolutions_;
  std::map<Key, std::shared_ptr<const kernels::PackedDepthwise>> depthwises_;
};

namespace detail {

/// Turns a graph into a plan.
class Planner {
 public:
  Planner(Graph graph, const kernels::KernelTable& kernels, PackCache& packs)
      : plan_(std::make_unique<Plan>()), kernels_(kernels), packs_(packs) {
    plan_->graph = std::move(graph);
    plan_->kernels = kernels_.name;
    plan_->in_bf16 = kernels_.round != nullptr;
    simplify(plan_->graph, kernels_.width);
  }

  std::unique_ptr<Plan> make() {
    roots_ = find_roots(
        graph(), [this](const Node& alias) { return feeds_linear_layers(alias); },
        "flattened pixels that go elsewhere than into linear layers");
    if (roots_[graph().output] == graph().input) {
      throw NotCapturable("the model returns its input");
    }
    pairs_ = find_pairs(graph(), [](const Node& pointwise) {
      return pointwise.stride == std::array<int64_t, 2>{1, 1};
    });
    imports_ = find_imports(graph(), roots_);
    make_buffers();
    make_steps();
    place_buffers();
    for (std::size_t value = 0; value < graph().values.size(); ++value) {
      const auto root = roots_[value];
      plan_->buffer_of.push_back(buffers_[root]);
    }
    if (plan_->buffer_of[graph().output] != nullptr) {
      plan_->output_sizes = graph().values[graph().output].sizes;
    }
    plan_->root_of = roots_;
    drop_captured(graph());
    return std::move(plan_);
  }

 private:
  Graph& graph() { return plan_->graph; }

  // An alias that puts several pixels into one row is ours only before linear layers, which take
  // the pixels as a window.
  bool feeds_linear_layers(const Node& alias) {
    const std::size_t output = alias.outputs[0];
    std::size_t linear = 0;
    for (const auto& user : graph().nodes) {
      linear += !user.removed && user.kind == NodeKind::convolution && user.inputs[0] == output &&
                        !(user.residual && user.inputs[1] == output)
                    ? 1
                    : 0;
    }
    return linear == graph().values[output].uses;
  }

  bool is_ours(std::size_t index) {
    const auto& node = graph().nodes[index];
    return !node.removed && node.kind != NodeKind::other && node.kind != NodeKind::alias;
  }

  Buffer& buffer(std::size_t value) {
    auto& found = buffers_[roots_[value]];
    if (found == nullptr) {
      const auto& sizes = graph().values[roots_[value]].sizes;
      auto& made = plan_->buffers.emplace_back();
      made.channels = sizes[1];
      made.height = sizes.size() == 4 ? sizes[2] : 1;
      made.width = sizes.size() == 4 ? sizes[3] : 1;
      found = &made;
    }
    return *found;
  }

  void make_buffers() {
    auto& g = graph();
    buffers_.assign(g.values.size(), nullptr);
    for (std::size_t i = 0; i < g.nodes.size(); ++i) {
      if (!is_ours(i) || pairs_.joined[i]) {
        continue;
      }
      const auto& node = g.nodes[i];
      buffer(node.outputs[0]);
      if (imports_[i]) {
        continue;
      }
      const std::size_t partner = pairs_.partner[i];
      buffer(partner == no_node ? node.inputs[0] : g.nodes[partner].inputs[0]);
      for (std::size_t at = 1; at < node.inputs.size(); ++at) {
        buffer(node.inputs[at]);
      }
    }
    for (std::size_t i = 0; i < g.nodes.size(); ++i) {
      if (is_ours(i) && !pairs_.joined[i] && g.nodes[i].kind == NodeKind::convolution &&
          !g.nodes[i].is_depthwise()) {
        window(g.nodes[i]);
        widen(g.nodes[i]);
      }
    }
    choose_planar();
    for (auto& made : plan_->buffers) {
      made.lay_out(kernels_.width);
    }
  }

  // A linear layer behind flattened pixels is a convolution with one window.
  void window(Node& node) {
    const Buffer& in = buffer(node.inputs[0]);
    if (graph().values[node.inputs[0]].sizes.size() == 2 && in.height * in.width > 1) {
      node.weight = node.weight.view({node.weight.size(0), in.channels, in.height, in.width});
      node.kernel = {in.height, in.width};
    }
  }

  // Zeros around the input, as far as windows reach.
  void widen(const Node& node) {
    Buffer& in = buffer(node.inputs[0]);
    const Buffer& out = buffer(node.outputs[0]);
    const std::array<int64_t, 2> sizes{in.height, in.width};
    const std::array<int64_t, 2> results{out.height, out.width};
    for (std::size_t d = 0; d < 2; ++d) {
      const int64_t reach = (results[d] - 1) * node.stride[d] +
                            (node.kernel[d] - 1) * node.dilation[d] + 1 - node.padding[d];
      in.border[d] = std::max(in.border[d], node.padding[d]);
      in.border[d + 2] = std::max(in.border[d + 2], reach - sizes[d]);
    }
  }

  // Few input channels stay images of their own: the first convolution reads them so.
  void choose_planar() {
    auto& g = graph();
    constexpr int64_t few = 4;
    std::vector<bool> refused(g.values.size(), false);
    refused[roots_[g.output]] = true;
    for (std::size_t i = 0; i < g.nodes.size(); ++i) {
      const auto& node = g.nodes[i];
      if (node.removed || node.kind == NodeKind::alias) {
        continue;
      }
      for (std::size_t at = 0; at < node.inputs.size(); ++at) {
        const bool convolved = node.kind == NodeKind::convolution && at == 0 &&
                               !(node.is_depthwise() && pairs_.partner[i] == no_node);
        if (!convolved && !imports_[i]) {
          refused[roots_[node.inputs[at]]] = true;
        }
      }
    }
    const auto choose = [&](std::size_t value) {
      auto* found = buffers_[roots_[value]];
      if (found != nullptr && !refused[roots_[value]] && found->channels <= few) {
        found->planar = true;
        // The last pair of a window of odd width reads a pixel more.
        found->border[3] += plan_->in_bf16 ? 1 : 0;
      }
    };
    choose(g.input);
    for (std::size_t i = 0; i < g.nodes.size(); ++i) {
      if (imports_[i]) {
        choose(g.nodes[i].outputs[0]);
      }
    }
  }

  void add(std::unique_ptr<Step> step, std::size_t node, const std::vector<std::size_t>& values) {
    plan_->scratch_floats = std::max(plan_->scratch_floats, (step->scratch() + 15) / 16 * 16);
    for (const std::size_t value : values) {
      touch(value);
    }
    plan_->entries.push_back({std::move(step), node});
  }

  // Notes that the next entry uses `value`'s buffer.
  void touch(std::size_t value) {
    const Buffer* found = buffers_[roots_[value]];
    if (found == nullptr) {
      return;
    }
    const std::size_t now = plan_->entries.size();
    const auto at = lives_.try_emplace(found, std::pair(now, now)).first;
    at->second.second = now;
  }

  void make_steps() {
    auto& g = graph();
    if (buffers_[g.input] != nullptr) {
      add(std::make_unique<ImportStep>(*buffers_[g.input], AlignedFloats(), AlignedFloats()),
          no_node, {g.input});
    }
    for (std::size_t i = 0; i < g.nodes.size(); ++i) {
      const auto& node = g.nodes[i];
      if (node.removed || pairs_.joined[i] || node.kind == NodeKind::alias) {
        continue;
      }
      if (node.kind == NodeKind::other) {
        for (const std::size_t value : node.inputs) {
          touch(value);
        }
        for (const std::size_t value : node.outputs) {
          touch(value);
        }
        plan_->entries.push_back({nullptr, i});
        ++plan_->operators;
      } else {
        make_step(i);
      }
    }
    touch(g.output);
  }

  void make_step(std::size_t index) {
    const auto& node = graph().nodes[index];
    const Buffer& output = *buffers_[roots_[node.outputs[0]]];
    std::vector<std::size_t> used = node.inputs;
    used.push_back(node.outputs[0]);
    if (imports_[index]) {
      add(std::make_unique<ImportStep>(output, kernels::pack_channels(node.scale, kernels_.width),
                                       kernels::pack_channels(node.bias, kernels_.width)),
          index, {node.outputs[0]});
      return;
    }
    const Buffer* residual = node.residual ? buffers_[roots_[node.inputs.back()]] : nullptr;
    if (node.is_depthwise()) {
      add_depthwise(index, output, residual, used);
      return;
    }
    const Buffer& input = *buffers_[roots_[node.inputs[0]]];
    switch (node.kind) {
      case NodeKind::convolution:
        add(std::make_unique<ConvolutionStep>(kernels_, node, input, residual, output,
                                              pack(node, input, most_vectors())),
            index, used);
        break;
      case NodeKind::pool:
        add(std::make_unique<PoolStep>(kernels_, node, input, output), index, used);
        break;
      case NodeKind::gate:
        add(std::make_unique<PointwiseStep>(kernels_, node, input, residual,
                                            buffers_[roots_[node.inputs[1]]], output,
                                            AlignedFloats(), AlignedFloats()),
            index, used);
        break;
      case NodeKind::add:
        add(std::make_unique<PointwiseStep>(kernels_, node, input, buffers_[roots_[node.inputs[1]]],
                                            nullptr, output, AlignedFloats(), AlignedFloats()),
            index, used);
        break;
      default:
        add(std::make_unique<PointwiseStep>(
                kernels_, node, input, residual, nullptr, output,
                node.scale.defined() ? kernels::pack_channels(node.scale, kernels_.width)
                                     : AlignedFloats(),
                node.bias.defined() ? kernels::pack_channels(node.bias, kernels_.width)
                                    : AlignedFloats()),
            index, used);
        break;
    }
  }

  void add_depthwise(std::size_t index, const Buffer& output, const Buffer* residual,
                     std::vector<std::size_t> used) {
    const auto& node = graph().nodes[index];
    const Node* pointwise =
        pairs_.partner[index] == no_node ? nullptr : &graph().nodes[pairs_.partner[index]];
    const std::size_t from = pointwise == nullptr ? node.inputs[0] : pointwise->inputs[0];
    used.push_back(from);
    const Buffer& input = *buffers_[roots_[from]];
    // Rows between the two layers, beside the rows that are read and written: in the first-level
    // cache where vectors are wide, else where three vectors of wide images find room.
    const bool wide = kernels_.registers >= 32 && kernels_.round == nullptr;
    const int64_t row_bytes = (wide ? 28 : 64) * int64_t{1024};
    const auto blocking = DepthwiseStep::choose(pointwise, node, input, output, kernels_.width,
                                                most_vectors(), row_bytes);
    auto weights = packs_.depthwise({node.origin, node.weight.sizes().vec(), 0, 0}, [&] {
      return kernels::pack_depthwise(node.weight, node.bias, kernels_.width);
    });
    add(std::make_unique<DepthwiseStep>(
            kernels_, pointwise, node, input, residual, output,
            pointwise == nullptr ? nullptr : pack(*pointwise, input, blocking.vectors),
            std::move(weights), blocking),
        index, used);
  }

  // Vectors of sums that still leave registers for enough pixels.
  int64_t most_vectors() const { return kernels_.registers >= 32 ? 4 : 3; }

  std::shared_ptr<const kernels::PackedConvolution> pack(const Node& node, const Buffer& input,
                                                         int64_t most) {
    return packs_.convolution(
        {node.origin, node.weight.sizes().vec(), input.planar ? 1 : 0, most}, [&] {
          return kernels::pack_convolution(
              node.weight, node.bias,
              input.planar ? kernels::WindowOrder::planar : kernels::WindowOrder::channels_last,
              kernels_.width, most, in_pairs(node, input));
        });
  }

  // Whether `node` is computed in bf16. Planes have pairs in windows of several adjacent pixels.
  bool in_pairs(const Node& node, const Buffer& input) const {
    return kernels_.round != nullptr &&
           (!input.planar || (node.kernel[1] > 1 && node.dilation[1] == 1));
  }

  void place_buffers() {
    ArenaPlanner arena;
    for (auto& made : plan_->buffers) {
      const auto found = lives_.find(&made);
      if (found != lives_.end()) {
        made.offset = arena.place(made.floats, found->second.first, found->second.second);
      }
    }
    plan_->arena_floats = arena.size();
  }

  std::unique_ptr<Plan> plan_;
  const kernels::KernelTable& kernels_;
  PackCache& packs_;
  std::vector<std::size_t> roots_;
  Pairs pairs_;
  std::vector<bool> imports_;
  std::vector<Buffer*> buffers_;
  std::map<const Buffer*, std::pair<std::size_t, std::size_t>> lives_;
};

}  // namespace detail

/// A plan for `graph` that runs on `kernels`; its weights are kept in `packs`.
inline std::unique_ptr<Plan> make_plan(Graph graph, const kernels::KernelTable& kernels,
                                       PackCache& packs) {
  return detail::Planner(std::move(graph), kernels, packs).make();
}

}  // namespace bsconv::infer
