// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/infer/capture.hpp>
#include <bsconv/infer/graph.hpp>
#include <bsconv/infer/step.hpp>
#include <bsconv/infer/structure.hpp>
#include <bsconv/kernels/arguments.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <set>
#include <utility>
#include <vector>

namespace bsconv::infer::detail {

/// Which values of a graph have an image in memory of a CPU plan, and how it lies there.
class Layout {
 public:
  /// Works it out for `graph`, whose nodes that are linear layers over several pixels become
  /// convolutions. Makes the images in `buffers`. Throws `NotCapturable` if there is no such plan.
  Layout(Graph& graph, const kernels::KernelTable& kernels, std::deque<Buffer>& buffers)
      : graph_(graph), kernels_(kernels), store_(buffers) {
    roots_ = find_roots(
        graph_, [this](const Node& alias) { return feeds_linear_layers(alias); },
        "flattened pixels that go elsewhere than into linear layers");
    if (roots_[graph_.output] == graph_.input) {
      throw NotCapturable("the model returns its input");
    }
    pairs_ = find_pairs(graph_, [](const Node& pointwise) {
      return pointwise.stride == std::array<int64_t, 2>{1, 1};
    });
    imports_ = find_imports(graph_, roots_);
    make_buffers();
  }

  /// The value whose numbers a value has; itself unless an alias made it.
  const std::vector<std::size_t>& roots() const { return roots_; }
  /// Which nodes run together.
  const Pairs& pairs() const { return pairs_; }
  /// Whether a node is done while the input is brought in.
  const std::vector<bool>& imports() const { return imports_; }
  /// The image of `value`; null if it has none.
  Buffer* buffer(std::size_t value) const { return buffers_[roots_[value]]; }

  /// Whether `node`, which reads `input`, is computed in bf16. Planes have pairs in windows of
  /// several adjacent pixels.
  bool in_pairs(const Node& node, const Buffer& input) const {
    return kernels_.round != nullptr &&
           (!input.planar || (node.kernel[1] > 1 && node.dilation[1] == 1));
  }

 private:
  // An alias that puts several pixels into one row is ours only before linear layers, which take
  // the pixels as a window. A dropout that is off may stand between.
  bool feeds_linear_layers(const Node& alias) const {
    const std::size_t output = alias.outputs[0];
    std::size_t fitting = 0;
    for (const auto& user : graph_.nodes) {
      if (user.removed || user.inputs.empty() || user.inputs[0] != output) {
        continue;
      }
      const bool is_linear =
          user.kind == NodeKind::convolution && !(user.residual && user.inputs[1] == output);
      const bool passes_on = user.kind == NodeKind::alias &&
                             graph_.values[user.outputs[0]].sizes == graph_.values[output].sizes &&
                             feeds_linear_layers(user);
      fitting += is_linear || passes_on ? 1 : 0;
    }
    return fitting == graph_.values[output].uses;
  }

  bool is_ours(std::size_t index) const {
    const auto& node = graph_.nodes[index];
    return !node.removed && node.kind != NodeKind::other && node.kind != NodeKind::alias;
  }

  // The buffer of `value`, made if there is none.
  Buffer& made(std::size_t value) {
    auto& found = buffers_[roots_[value]];
    if (found == nullptr) {
      const auto& sizes = graph_.values[roots_[value]].sizes;
      auto& fresh = store_.emplace_back();
      fresh.channels = sizes[1];
      fresh.height = sizes.size() == 4 ? sizes[2] : 1;
      fresh.width = sizes.size() == 4 ? sizes[3] : 1;
      found = &fresh;
    }
    return *found;
  }

  void make_buffers() {
    buffers_.assign(graph_.values.size(), nullptr);
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (!is_ours(i) || pairs_.joined[i]) {
        continue;
      }
      const auto& node = graph_.nodes[i];
      made(node.outputs[0]);
      if (imports_[i]) {
        continue;
      }
      const std::size_t partner = pairs_.partner[i];
      made(partner == no_node ? node.inputs[0] : graph_.nodes[partner].inputs[0]);
      for (std::size_t at = 1; at < node.inputs.size(); ++at) {
        made(node.inputs[at]);
      }
    }
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (is_ours(i) && !pairs_.joined[i] && graph_.nodes[i].kind == NodeKind::convolution &&
          !graph_.nodes[i].is_depthwise()) {
        window(graph_.nodes[i]);
        widen(graph_.nodes[i]);
      }
    }
    choose_planar();
    choose_formats();
    for (auto& buffer : store_) {
      buffer.lay_out(kernels_.width);
    }
  }

  // A linear layer behind flattened pixels is a convolution with one window.
  void window(Node& node) {
    const Buffer& in = made(node.inputs[0]);
    if (graph_.values[node.inputs[0]].sizes.size() == 2 && in.height * in.width > 1) {
      node.weight = node.weight.view({node.weight.size(0), in.channels, in.height, in.width});
      node.kernel = {in.height, in.width};
    }
  }

  // Zeros around the input, as far as windows reach.
  void widen(const Node& node) {
    Buffer& in = made(node.inputs[0]);
    const Buffer& out = made(node.outputs[0]);
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
    constexpr int64_t few = 4;
    std::vector<bool> refused(graph_.values.size(), false);
    refused[roots_[graph_.output]] = true;
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      const auto& node = graph_.nodes[i];
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
      auto* found = buffer(value);
      if (found != nullptr && !refused[roots_[value]] && found->channels <= few) {
        found->planar = true;
        // The last pair of a window of odd width reads a pixel more.
        found->border[3] += kernels_.round != nullptr ? 1 : 0;
      }
    };
    choose(graph_.input);
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (imports_[i]) {
        choose(graph_.nodes[i].outputs[0]);
      }
    }
  }

  // Images that convolutions read in bf16 are written so by the steps that can; in floats only if
  // others read them too, or if sums are added up in them.
  void choose_formats() {
    if (kernels_.round == nullptr) {
      return;
    }
    std::set<const Buffer*> rounded;
    std::set<const Buffer*> floats{buffer(graph_.output)};
    std::set<const Buffer*> writable;
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      const auto& node = graph_.nodes[i];
      if (node.removed || node.kind == NodeKind::alias) {
        continue;
      }
      const bool convolves = node.kind == NodeKind::convolution &&
                             !(node.is_depthwise() && !pairs_.joined[i]) && !imports_[i];
      for (std::size_t at = 0; at < node.inputs.size(); ++at) {
        const auto* read = buffer(node.inputs[at]);
        if (read != nullptr && !(pairs_.partner[i] != no_node && at == 0)) {
          (at == 0 && convolves && in_pairs(node, *read) ? rounded : floats).insert(read);
        }
      }
      for (const std::size_t output : node.outputs) {
        const auto* written = buffer(output);
        if (is_ours(i) && !imports_[i] && node.kind != NodeKind::pool) {
          writable.insert(written);
        }
        if (convolves && !node.is_pointwise()) {
          floats.insert(written);
        }
      }
    }
    for (auto& buffer : store_) {
      buffer.in_bf16 = rounded.count(&buffer) != 0 && writable.count(&buffer) != 0;
      buffer.in_floats = !buffer.in_bf16 || floats.count(&buffer) != 0;
    }
  }

  Graph& graph_;
  const kernels::KernelTable& kernels_;
  std::deque<Buffer>& store_;
  std::vector<std::size_t> roots_;
  Pairs pairs_;
  std::vector<bool> imports_;
  std::vector<Buffer*> buffers_;
};

}  // namespace bsconv::infer::detail
