// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/infer/convolution_step.hpp>
#include <bsconv/infer/depthwise_step.hpp>
#include <bsconv/infer/graph.hpp>
#include <bsconv/infer/import_step.hpp>
#include <bsconv/infer/layout.hpp>
#include <bsconv/infer/plan.hpp>
#include <bsconv/infer/pointwise_step.hpp>
#include <bsconv/infer/pool_step.hpp>
#include <bsconv/infer/run_operator.hpp>
#include <bsconv/infer/simplify.hpp>
#include <bsconv/kernels/pack.hpp>
#include <bsconv/kernels/table.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace bsconv::infer {

/// Packed weights that the plans of a model share, as long as one of them lives.
class PackCache {
 public:
  /// What tells one pack from another.
  using Key = std::tuple<std::vector<int64_t>, std::vector<int64_t>, int64_t, int64_t>;

  /// The convolution weights of `key`; `make` makes them where they are missing.
  template <class Make>
  std::shared_ptr<const kernels::PackedConvolution> convolution(const Key& key, Make&& make) {
    return get(convolutions_, key, std::forward<Make>(make));
  }

  /// The depthwise weights of `key`.
  template <class Make>
  std::shared_ptr<const kernels::PackedDepthwise> depthwise(const Key& key, Make&& make) {
    return get(depthwises_, key, std::forward<Make>(make));
  }

 private:
  template <class Packed>
  using Packs = std::map<Key, std::weak_ptr<const Packed>>;

  template <class Packed, class Make>
  static std::shared_ptr<const Packed> get(Packs<Packed>& packs, const Key& key, Make&& make) {
    if (auto found = packs[key].lock()) {
      return found;
    }
    std::erase_if(packs, [](const auto& entry) { return entry.second.expired(); });
    auto made = std::make_shared<const Packed>(make());
    packs[key] = made;
    return made;
  }

  Packs<kernels::PackedConvolution> convolutions_;
  Packs<kernels::PackedDepthwise> depthwises_;
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
    layout_ = std::make_unique<Layout>(plan_->graph, kernels_, plan_->buffers);
  }

  std::unique_ptr<Plan> make() {
    make_steps();
    place_buffers();
    for (std::size_t value = 0; value < graph().values.size(); ++value) {
      plan_->buffer_of.push_back(layout_->buffer(value));
    }
    if (plan_->buffer_of[graph().output] != nullptr) {
      plan_->output_sizes = graph().values[graph().output].sizes;
    }
    plan_->root_of = layout_->roots();
    find_dead_values();
    drop_captured(graph());
    return std::move(plan_);
  }

 private:
  Graph& graph() { return plan_->graph; }

  void add(std::unique_ptr<Step> step, std::size_t node, const std::vector<std::size_t>& values) {
    plan_->scratch_floats = std::max(plan_->scratch_floats, (step->scratch() + 15) / 16 * 16);
    for (const std::size_t value : values) {
      touch(value);
    }
    plan_->entries.push_back({std::move(step), node});
  }

  // Notes that the next entry uses `value`'s buffer.
  void touch(std::size_t value) {
    const Buffer* found = layout_->buffer(value);
    if (found == nullptr) {
      return;
    }
    const std::size_t now = plan_->entries.size();
    const auto at = lives_.try_emplace(found, std::pair(now, now)).first;
    at->second.second = now;
  }

  void make_steps() {
    auto& g = graph();
    if (const auto* input = layout_->buffer(g.input)) {
      add(std::make_unique<ImportStep>(*input, AlignedFloats(), AlignedFloats()), no_node,
          {g.input});
    }
    for (std::size_t i = 0; i < g.nodes.size(); ++i) {
      const auto& node = g.nodes[i];
      if (node.removed || layout_->pairs().joined[i] || node.kind == NodeKind::alias) {
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
    const Buffer& output = *layout_->buffer(node.outputs[0]);
    std::vector<std::size_t> used = node.inputs;
    used.push_back(node.outputs[0]);
    if (layout_->imports()[index]) {
      add(std::make_unique<ImportStep>(output, kernels::pack_channels(node.scale, kernels_.width),
                                       kernels::pack_channels(node.bias, kernels_.width)),
          index, {node.outputs[0]});
      return;
    }
    const Buffer* residual = node.residual ? layout_->buffer(node.inputs.back()) : nullptr;
    if (node.is_depthwise()) {
      add_depthwise(index, output, residual, used);
      return;
    }
    const Buffer& input = *layout_->buffer(node.inputs[0]);
    switch (node.kind) {
      case NodeKind::convolution:
        add(std::make_unique<ConvolutionStep>(kernels_, node, input, residual, output,
                                              pack(node, input, most_vectors(node))),
            index, used);
        break;
      case NodeKind::pool:
        add(std::make_unique<PoolStep>(kernels_, node, input, output), index, used);
        break;
      case NodeKind::gate:
        add(std::make_unique<PointwiseStep>(kernels_, node, input, residual,
                                            layout_->buffer(node.inputs[1]), output,
                                            AlignedFloats(), AlignedFloats()),
            index, used);
        break;
      case NodeKind::add:
        add(std::make_unique<PointwiseStep>(kernels_, node, input, layout_->buffer(node.inputs[1]),
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
    const std::size_t partner = layout_->pairs().partner[index];
    const Node* pointwise = partner == no_node ? nullptr : &graph().nodes[partner];
    const std::size_t from = pointwise == nullptr ? node.inputs[0] : pointwise->inputs[0];
    used.push_back(from);
    const Buffer& input = *layout_->buffer(from);
    // Rows between the two layers: in a corner of the second-level cache, where some rows of wide
    // images find room.
    constexpr int64_t row_bytes = int64_t{64} * 1024;
    const auto blocking =
        DepthwiseStep::choose(pointwise, node, input, output, kernels_.width,
                              most_vectors(pointwise == nullptr ? node : *pointwise), row_bytes);
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
  int64_t most_vectors(const Node& node) const {
    if (kernels_.registers < 32) {
      return 3;
    }
    return node.is_pointwise() && kernels::prefers_single_vectors(kernels_, node.weight.size(1))
               ? 1
               : 4;
  }

  std::shared_ptr<const kernels::PackedConvolution> pack(const Node& node, const Buffer& input,
                                                         int64_t most) {
    const bool in_pairs = layout_->in_pairs(node, input);
    const int64_t order = (input.planar ? 1 : 0) + (in_pairs ? 2 : 0);
    return packs_.convolution({node.origin, node.weight.sizes().vec(), order, most}, [&] {
      return kernels::pack_convolution(
          node.weight, node.bias,
          input.planar ? kernels::WindowOrder::planar : kernels::WindowOrder::channels_last,
          kernels_.width, most, in_pairs);
    });
  }

  // Tells each operator which tensors it reads, or makes, for the last time.
  void find_dead_values() {
    std::vector<bool> read_later(graph().values.size(), false);
    const auto& roots = plan_->root_of;
    read_later[graph().output] = read_later[roots[graph().output]] = true;
    for (auto entry = plan_->entries.rbegin(); entry != plan_->entries.rend(); ++entry) {
      if (entry->step != nullptr) {
        continue;
      }
      const auto& node = graph().nodes[entry->node];
      std::vector<std::size_t> used = node.outputs;
      for (const auto& place : node.values) {
        const auto value = static_cast<std::size_t>(place[2]);
        used.insert(used.end(), {value, roots[value]});
      }
      for (const std::size_t value : used) {
        if (!read_later[value]) {
          read_later[value] = true;
          entry->dead.push_back(value);
        }
      }
    }
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
  std::unique_ptr<Layout> layout_;
  std::map<const Buffer*, std::pair<std::size_t, std::size_t>> lives_;
};

}  // namespace detail

/// A plan for `graph` that runs on `kernels`; its weights are kept in `packs`.
inline std::unique_ptr<Plan> make_plan(Graph graph, const kernels::KernelTable& kernels,
                                       PackCache& packs) {
  return detail::Planner(std::move(graph), kernels, packs).make();
}

}  // namespace bsconv::infer
