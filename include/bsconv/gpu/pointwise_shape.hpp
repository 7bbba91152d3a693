// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/gpu/geometry.hpp>
#include <bsconv/gpu/runtime.hpp>
#include <bsconv/gpu/training_shape.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::gpu {

/// A pointwise convolution without a bias as training kernels see it.
struct PointwiseShape {
  /// Pixels of all images.
  int64_t pixels = 1;
  /// Channels of the input.
  int64_t in = 1;
  /// Channels of the output.
  int64_t out = 1;

  /// The kernels by what they do.
  enum Step {
    /// The output.
    forward,
    /// The gradient of the input.
    by_input,
    /// The gradient of the weights, by block, and if `makes_both()` that of the input.
    by_weight,
    /// Its sum.
    finish_weight,
    step_count
  };

  /// Whether kernels without matrix units can be worth it.
  bool fits() const { return in * out <= 256 * 256; }

  /// Whether one kernel makes both gradients, which reads that of the output only once.
  bool makes_both() const { return in <= 64 && out <= 64; }

  /// Tells it from other shapes.
  std::string key() const {
    return "pointwise " + std::to_string(pixels) + " " + std::to_string(in) + " " +
           std::to_string(out) + " ";
  }

  /// The kernels, in the order of `Step`.
  std::vector<std::pair<KernelText, Grid>> kernels() const {
    std::vector<std::pair<KernelText, Grid>> found(step_count);
    found[forward] = product(in, out, false);
    found[by_input] = product(out, in, true);
    const int64_t rows = side(out);
    const int64_t columns = side(in);
    const int64_t tiles = rows / 4 * (columns / 4);
    const int64_t lanes = std::max<int64_t>(1, 256 / tiles);
    // Pixels that are in shared memory at once, as many for each lane.
    const int64_t chunk =
        std::clamp<int64_t>(6144 / (rows + columns) / lanes, 1, std::max<int64_t>(1, 256 / lanes)) *
        lanes;
    Grid grid;
    grid.blocks = {std::min<int64_t>(parts_of(pixels, chunk), 264), parts_of(out, rows),
                   parts_of(in, columns)};
    grid.threads = tiles * lanes;
    Constants c;
    c.set("pixels", pixels).set("in", in).set("out", out);
    c.set("tile_out", rows).set("tile_in", columns).set("chunk", chunk);
    c.set("quads", tiles).set("lanes", lanes).set("threads", grid.threads);
    c.set("blocks", grid.blocks[0]).set("with_input", makes_both() ? 1 : 0);
    found[by_weight] = {{"pointwise_backward",
                         {"const T", "const T", "const float", "T", "float"},
                         c,
                         grid.threads},
                        grid};
    Constants sum;
    sum.set("channels", in * out).set("taps", 1);
    found[finish_weight] =
        finish("finish_weights", {"const float", "float"}, sum, in * out, grid.blocks[0], 1);
    return found;
  }

 private:
  // Channels of a block, four by four.
  static int64_t side(int64_t channels) {
    return 4 * parts_of(parts_of(channels, 4), parts_of(channels, 64));
  }

  std::pair<KernelText, Grid> product(int64_t from, int64_t to, bool transposed) const {
    const int64_t group = side(to);
    const int64_t tile = std::min<int64_t>(256, 256 * 16 / group / 4 * 4);
    const int64_t threads = 256;
    Constants c;
    c.set("pixels", pixels).set("in", from).set("out", to).set("tile", tile).set("group", group);
    c.set("depth", std::min<int64_t>(4 * parts_of(from, 4), 32)).set("threads", threads);
    c.set("transposed", transposed ? 1 : 0);
    return {{"pointwise", {"const T", "const float", "T"}, c, threads},
            {{parts_of(pixels, tile), parts_of(to, group), 1}, threads}};
  }
};

}  // namespace bsconv::gpu
