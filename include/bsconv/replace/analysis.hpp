// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/modules/conv.h>
#include <torch/nn/pimpl.h>
#include <bsconv/nn/graft.hpp>
#include <bsconv/nn/walk.hpp>
#include <bsconv/replace/components.hpp>
#include <bsconv/util/text.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <sstream>
#include <string>
#include <utility>
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
      line(layer.path, shape_text(layer.shape),
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
        text << layer.path << ',' << filter << ',' << layer.explained[filter] << '\n';
      }
    }
    return text.str();
  }

  /// A histogram of all filters' shares, as an SVG image.
  std::string to_svg() const {
    constexpr std::size_t bins = 20;
    std::array<std::size_t, bins> counts{};
    for (const auto& layer : layers) {
      for (const double share : layer.explained) {
        ++counts[std::min(bins - 1, static_cast<std::size_t>(share * bins))];
      }
    }
    const std::size_t most =
        std::max<std::size_t>(1, *std::max_element(counts.begin(), counts.end()));
    constexpr double width = 24.0;
    constexpr double height = 200.0;
    std::ostringstream svg;
    svg << R"(<svg xmlns="http://www.w3.org/2000/svg" width="540" height="270" font-family="sans-serif")"
        << R"( font-size="12">)" << '\n';
    for (std::size_t bin = 0; bin < bins; ++bin) {
      const double bar = height * static_cast<double>(counts[bin]) / static_cast<double>(most);
      const double x = 40.0 + width * static_cast<double>(bin);
      svg << R"(<rect x=")" << x << R"(" y=")" << 20.0 + height - bar << R"(" width=")"
          << width - 2.0 << R"(" height=")" << bar << R"(" fill="#4878a8"><title>)" << counts[bin]
          << " filters</title></rect>\n";
    }
    for (int tick = 0; tick <= 100; tick += 20) {
      svg << R"(<text x=")" << 40.0 + width * bins * tick / 100.0
          << R"(" y="238" text-anchor="middle">)" << tick << " %</text>\n";
    }
    svg << R"(<text x="280" y="260" text-anchor="middle">variance of a filter that its first principal )"
        << "component explains</text>\n<text x=\"36\" y=\"26\" text-anchor=\"end\">" << most
        << "</text>\n</svg>\n";
    return svg.str();
  }

 private:
  static std::string percent(double share) { return detail::fixed(100.0 * share, 1) + " %"; }

  static std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text;
    for (const int64_t size : shape) {
      text += (text.empty() ? "" : "x");
      text += std::to_string(size);
    }
    return text;
  }
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
