// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/autograd/block.hpp>
#include <bsconv/gpu/geometry.hpp>
#include <bsconv/gpu/runtime.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <ios>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

/// \file
/// The sizes and settings that training kernels are compiled for.

namespace bsconv::gpu {

/// How many parts of `part` make up `whole`.
inline int64_t parts_of(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

/// The kernel `function`, which sums up `rows` rows of `kinds` times `columns` numbers, with its
/// grid.
inline std::pair<KernelText, Grid> finish(std::string function, std::vector<std::string> arguments,
                                          Constants constants, int64_t columns, int64_t rows,
                                          int64_t kinds) {
  constexpr int64_t warp = 32;
  const int64_t width = warp / kinds;
  const int64_t height = std::min(rows, warp);
  constants.set("width", width).set("height", height).set("columns", columns).set("rows", rows);
  return {{std::move(function), std::move(arguments), std::move(constants), warp * height},
          {{parts_of(columns, width), 1, 1}, warp * height}};
}

/// Which parts a batch normalization has, and its numbers.
struct NormShape {
  /// Whether it has a weight.
  bool weight = false;
  /// Whether it has a bias.
  bool bias = false;
  /// Whether it keeps a running mean.
  bool running_mean = false;
  /// Whether it keeps a running variance.
  bool running_var = false;
  /// Whether it counts batches.
  bool batches = false;
  /// What is added to the variance.
  double eps = 1e-5;
  /// How much of the running statistics a step replaces.
  double momentum = 0.1;
};

/// `depthwise -> [norm -> activation(+ residual)]`, or `norm -> activation(+ residual)`, as
/// training kernels see it.
struct TailShape {
  /// Images of a batch.
  int64_t images = 1;
  /// Their channels.
  int64_t channels = 1;
  /// Rows and columns of the input.
  std::array<int64_t, 2> in{1, 1};
  /// Rows and columns of the output.
  std::array<int64_t, 2> out{1, 1};
  /// The depthwise convolution, if there is one.
  std::optional<bsconv::detail::DepthwiseGeometry> depthwise;
  /// Whether that has a bias.
  bool bias = false;
  /// The batch normalization, if there is one.
  std::optional<NormShape> norm;
  /// What follows it.
  kernels::Activation activation = kernels::Activation::identity;
  /// Whether something is added in front of the activation.
  bool residual = false;

  /// Taps of the depthwise kernel.
  int64_t taps() const { return depthwise->kernel[0] * depthwise->kernel[1]; }

  /// Whether the depthwise kernel's sums fit in registers and a tile in shared memory.
  bool fits() const {
    return pixels() < std::numeric_limits<int32_t>::max() / 2 &&
           (!depthwise || (taps() <= 25 && tile().has_value()));
  }

  /// Tells it from other shapes.
  std::string key() const {
    std::ostringstream text;
    const auto add = [&text](const auto&... values) { ((text << values << ' '), ...); };
    add(images, channels, in[0], in[1], out[0], out[1], bias, residual);
    add(static_cast<int64_t>(activation));
    if (depthwise) {
      for (const auto& pair :
           {depthwise->kernel, depthwise->stride, depthwise->padding, depthwise->dilation}) {
        add(pair[0], pair[1]);
      }
    }
    if (norm) {
      text << std::hexfloat;
      add("norm", norm->weight, norm->bias, norm->running_mean, norm->running_var, norm->batches,
          norm->eps, norm->momentum);
    }
    return text.str();
  }

  /// Pixels of the output, over all images.
  int64_t pixels() const { return images * out[0] * out[1]; }

  /// The kernels, in the order of `Step`.
  std::vector<std::pair<KernelText, Grid>> kernels() const {
    constexpr int64_t threads = 256;
    const auto place = place_of(threads, 32, 528, pixels());
    std::vector<std::pair<KernelText, Grid>> found(step_count);
    const auto add = [&](int step, std::string function, std::vector<std::string> arguments,
                         Constants constants, const Grid& grid) {
      found[static_cast<std::size_t>(step)] = {
          {std::move(function), std::move(arguments), std::move(constants), grid.threads}, grid};
    };
    if (depthwise) {
      add(depthwise_forward, "depthwise_forward",
          {"const T", "const float", "const float", "T", "float"}, pass(place), place.grid);
      const auto own = backward_place();
      auto constants = pass(own);
      const auto [height, width] = *tile();
      constants.set("tile_height", height).set("tile_width", width);
      add(depthwise_backward, "depthwise_backward",
          {"const T", "const T", "const float", "const float", "const T", "const float", "T",
           "float"},
          constants, own.grid);
      add_finish(found, finish_weights, "finish_weights", {"const float", "float"},
                 channels * taps(), own);
    } else {
      add(moments, "moments", {"const T", "float"}, pass(place), place.grid);
      add(normalize_backward, "normalize_backward",
          {"const T", "const T", "const float", "const float", "T"}, pass(place), place.grid);
    }
    if (norm) {
      add(normalize, "normalize", {"const T", "const float", "const T", "T"}, pass(place),
          place.grid);
      add(gradient_sums, "gradient_sums",
          {"const T", "const T", "const T", "const float", "T", "float"}, pass(place), place.grid);
      add_finish(
          found, finish_moments, "finish_moments",
          {"const float", "const float", "const float", "float", "float", "long long", "float"},
          channels, place);
      add_finish(found, finish_gradient_sums, "finish_gradient_sums",
                 {"const float", "const float", "float", "float", "float"}, channels, place);
    }
    return found;
  }

  /// The kernels by what they do; those that a tail has no use for have no text.
  enum Step {
    depthwise_forward,
    moments,
    finish_moments,
    normalize,
    gradient_sums,
    finish_gradient_sums,
    normalize_backward,
    depthwise_backward,
    finish_weights,
    step_count
  };

 private:
  // How threads are dealt out to quads of channels and pixels.
  struct PlaceShape {
    int64_t quads;
    int64_t lanes;
    Grid grid;
  };

  // With up to `threads` a block, `most_quads` of them side by side, and about `most_blocks`.
  PlaceShape place_of(int64_t threads, int64_t most_quads, int64_t most_blocks,
                      int64_t items) const {
    const int64_t quads = parts_of(channels, 4);
    const int64_t groups = parts_of(quads, most_quads);
    PlaceShape place{parts_of(quads, groups), 0, {}};
    place.lanes = threads / place.quads;
    const int64_t blocks = std::max<int64_t>(1, most_blocks / groups);
    place.grid = {{std::min(parts_of(items, place.lanes), blocks), parts_of(quads, place.quads), 1},
                  place.quads * place.lanes};
    return place;
  }

  PlaceShape backward_place() const {
    const auto [height, width] = *tile();
    const int64_t tiles = images * parts_of(in[0], height) * parts_of(in[1], width);
    auto place = place_of(taps() > 9 ? 128 : 256, backward_quads, 264, 1);
    place.grid.blocks[0] = std::min(tiles, std::max<int64_t>(1, 264 / place.grid.blocks[1]));
    return place;
  }

  // Input pixels of a tile of the backward pass, as many as fit in shared memory.
  std::optional<std::array<int64_t, 2>> tile() const {
    constexpr int64_t most_bytes = 40 * 1024;
    const int64_t quads = parts_of(channels, 4);
    const int64_t group = parts_of(quads, parts_of(quads, backward_quads)) * 4;
    const auto window = [&](int axis, int64_t size) {
      return (size - 1 + depthwise->reach(axis)) /
                 depthwise->stride[static_cast<std::size_t>(axis)] +
             1;
    };
    const auto balanced = [](int64_t whole, int64_t most) {
      return parts_of(whole, parts_of(whole, most));
    };
    for (int64_t width = std::min<int64_t>(in[1], 32); width >= 1; width /= 2) {
      const int64_t across = balanced(in[1], width);
      for (int64_t height = std::min<int64_t>(in[0], 16); height >= 1; --height) {
        const int64_t bytes =
            window(0, height) * window(1, across) * group * static_cast<int64_t>(sizeof(float));
        if (bytes <= most_bytes && (height >= 4 || height == in[0] || width == 1)) {
          return std::array<int64_t, 2>{balanced(in[0], height), across};
        }
      }
    }
    return std::nullopt;
  }

  Constants pass(const PlaceShape& place) const {
    Constants c;
    c.set("images", images).set("channels", channels).set("pixels", pixels());
    c.set("in_height", in[0]).set("in_width", in[1]);
    c.set("out_height", out[0]).set("out_width", out[1]);
    if (depthwise) {
      c.set("kernel_height", depthwise->kernel[0]).set("kernel_width", depthwise->kernel[1]);
      c.set("stride_y", depthwise->stride[0]).set("stride_x", depthwise->stride[1]);
      c.set("padding_y", depthwise->padding[0]).set("padding_x", depthwise->padding[1]);
      c.set("dilation_y", depthwise->dilation[0]).set("dilation_x", depthwise->dilation[1]);
    }
    c.set("bias", bias ? 1 : 0).set("norm", norm ? 1 : 0);
    c.set("residual", residual ? 1 : 0).set("activation", static_cast<int64_t>(activation));
    c.set("quads", place.quads).set("lanes", place.lanes).set("blocks", place.grid.blocks[0]);
    c.set("threads", place.grid.threads);
    return c;
  }

  // What adds up the sums of the blocks of `place`.
  void add_finish(std::vector<std::pair<KernelText, Grid>>& to, int step, std::string function,
                  std::vector<std::string> arguments, int64_t columns,
                  const PlaceShape& place) const {
    const int64_t rows = place.grid.blocks[0];
    Constants c;
    c.set("channels", channels).set("taps", depthwise ? taps() : 1);
    if (norm) {
      const auto count = static_cast<double>(pixels());
      c.set_real("share", 1.0 / count).set_real("unbiased", count / (count - 1.0));
      c.set("weight", norm->weight ? 1 : 0).set("bias", norm->bias ? 1 : 0);
      c.set("running_mean", norm->running_mean ? 1 : 0);
      c.set("running_var", norm->running_var ? 1 : 0).set("batches", norm->batches ? 1 : 0);
      c.set_real("eps", norm->eps).set_real("momentum", norm->momentum);
      // How the pixels were dealt out to the blocks.
      c.set("pixels", pixels()).set("blocks", rows).set("lanes", place.lanes);
    }
    to[static_cast<std::size_t>(step)] = finish(std::move(function), std::move(arguments), c,
                                                columns, rows, step == finish_weights ? 1 : 2);
  }

  static constexpr int64_t backward_quads = 16;
};

}  // namespace bsconv::gpu
