// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/pimpl.h>
#include <bsconv/nn/graft.hpp>
#include <bsconv/nn/walk.hpp>
#include <bsconv/replace/components.hpp>
#include <bsconv/util/csv_cell.hpp>
#include <bsconv/util/shape_text.hpp>
#include <bsconv/util/svg.hpp>
#include <bsconv/util/text.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

namespace bsconv {

/// What one convolution's filters look like.
struct LayerAnalysis {
  /// Where the convolution stands in the model.
  std::string path;
  /// The shape of its weight, `[out, in, height, width]`.
  std::vector<int64_t> shape;
  /// For each filter, the share of its squared norm along its first principal component, 0 to 1.
  std::vector<double> explained;
  /// The share of the squared norm of all filters that one blueprint each has.
  double explained_variance = 0.0;

  /// The share that as many filters are above as below.
  double median() const {
    auto sorted = explained;
    std::sort(sorted.begin(), sorted.end());
    const std::size_t half = sorted.size() / 2;
    return sorted.size() % 2 == 1 ? sorted[half] : 0.5 * (sorted[half - 1] + sorted[half]);
  }
  /// The least share.
  double least() const { return *std::min_element(explained.begin(), explained.end()); }
};

/// How well blueprints describe the filters of a model (Haase and Amthor, CVPR 2020, section 3.1
/// and figure 2): it tells in advance what a replacement costs.
struct KernelAnalysis {
  /// The convolutions with kernels larger than 1x1 and one group, in tree order.
  std::vector<LayerAnalysis> layers;

  /// The table as text.
  std::string to_table() const {
    std::size_t longest = 6;
    for (const auto& layer : layers) {
      longest = std::max(longest, layer.path.size());
    }
    std::ostringstream text;
    const auto line = [&](const std::string& path, const std::string& shape,
                          const std::array<std::string, 3>& cells) {
      text << path << std::string(longest + 2 - path.size(), ' ') << shape
           << std::string(shape.size() < 20 ? 20 - shape.size() : 1, ' ');
      for (const auto& cell : cells) {
        text << std::string(cell.size() < 10 ? 10 - cell.size() : 1, ' ') << cell;
      }
      text << '\n';
    };
    line("layer", "weight", {"explained", "median", "least"});
    for (const auto& layer : layers) {
      line(layer.path, detail::shape_text(layer.shape),
           {percent(layer.explained_variance), percent(layer.median()), percent(layer.least())});
    }
    return text.str();
  }

  /// One line a filter: `layer,filter,explained`.
  std::string to_csv() const {
    std::ostringstream text;
    text << "layer,filter,explained\n";
    for (const auto& layer : layers) {
      for (std::size_t filter = 0; filter < layer.explained.size(); ++filter) {
        text << detail::csv_cell(layer.path) << ',' << filter << ',' << layer.explained[filter]
             << '\n';
      }
    }
    return text.str();
  }

  /// Histograms of the filters' shares, of all layers and of each, as an SVG image.
  std::string to_svg() const {
    std::vector<double> all;
    for (const auto& layer : layers) {
      all.insert(all.end(), layer.explained.begin(), layer.explained.end());
    }
    std::vector<svg::Plot> plots = {histogram("all layers", all)};
    for (const auto& layer : layers) {
      plots.push_back(histogram(layer.path.empty() ? "(model)" : layer.path, layer.explained));
    }
    return svg::grid(plots, 4);
  }

 private:
  static svg::Plot histogram(const std::string& title, const std::vector<double>& shares) {
    constexpr std::size_t bins = 20;
    std::vector<double> edges;
    for (std::size_t edge = 0; edge <= bins; ++edge) {
      edges.push_back(100.0 * static_cast<double>(edge) / bins);
    }
    std::vector<double> counts(bins, 0.0);
    for (const double share : shares) {
      counts[std::min(bins - 1, static_cast<std::size_t>(share * bins))] += 1.0;
    }
    svg::Plot plot(title, "variance in the first component / %", "filters");
    plot.bars("", edges, counts).x_range(0.0, 100.0).size(320, 220);
    return plot;
  }

  static std::string percent(double share) { return detail::fixed(100.0 * share, 1) + " %"; }
};

/// Analyzes the filters of every convolution of `model` with one group and a kernel larger than
/// 1x1.
inline KernelAnalysis analyze_kernels(const torch::nn::Module& model) {
  KernelAnalysis analysis;
  for_each_module(model, [&](const torch::nn::Module& module, const std::string& path) {
    const auto* conv = dynamic_cast<const torch::nn::Conv2dImpl*>(&module);
    if (conv == nullptr || grafted_substitute(module) != nullptr || conv->options.groups() != 1 ||
        conv->weight.size(2) * conv->weight.size(3) == 1) {
      return;
    }
    const auto components = kernel_components(conv->weight);
    const auto shares = components.explained.contiguous();
    const auto* first = shares.const_data_ptr<double>();
    analysis.layers.push_back({path, conv->weight.sizes().vec(),
                               std::vector<double>(first, first + shares.numel()),
                               components.explained_variance()});
  });
  return analysis;
}

/// The same for a module holder.
template <class Contained>
KernelAnalysis analyze_kernels(const torch::nn::ModuleHolder<Contained>& model) {
  return analyze_kernels(*model);
}

}  // namespace bsconv
