// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/gpu/runtime.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ios>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

/// \file
/// The sizes that kernels are compiled for.

namespace bsconv::gpu {

/// What a kernel is called and its constants, as `kernel_source` wants them.
class Constants {
 public:
  /// Adds a constant.
  Constants& set(const char* name, int64_t value) {
    text_ +=
        std::string("  static constexpr long long ") + name + " = " + std::to_string(value) + ";\n";
    return *this;
  }

  /// Adds a constant that is no whole number.
  Constants& set_real(const char* name, double value) {
    std::ostringstream text;
    text << std::hexfloat << value;
    text_ += std::string("  static constexpr double ") + name + " = " + text.str() + ";\n";
    return *this;
  }

  /// The constants as text, which tells one kernel from another.
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

/// The name of `type` in `kernel_source`. Throws `c10::ValueError` for one that it doesn't have.
inline std::string element_name(torch::ScalarType type) {
  switch (type) {
    case torch::kFloat:
      return "float";
    case torch::kHalf:
      return "half_t";
    case torch::kBFloat16:
      return "bf16_t";
    default:
      TORCH_CHECK_VALUE(false, "dtype must be float32, float16 or bfloat16, got ", type);
  }
}

/// A kernel before it is compiled.
struct KernelText {
  /// The function of `kernel_source`: "convolve", "map", …
  std::string function;
  /// The types of its arguments, `T` for the elements.
  std::vector<std::string> arguments;
  /// Its constants.
  Constants constants;
  /// Threads in a block, for the compiler's choice of registers.
  int64_t threads = 128;

  /// Its definition as `name`, for elements called `element`.
  std::string define(const std::string& name, const std::string& element) const {
    std::string parameters;
    std::string values;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      std::string type = arguments[i];
      if (const auto at = type.find('T'); at != std::string::npos) {
        type.replace(at, 1, element);
      }
      const std::string argument = "a" + std::to_string(i);
      parameters += (i == 0 ? "" : ", ") + type + "* " + argument;
      values += (i == 0 ? "" : ", ") + argument;
    }
    return "struct " + name + "_sizes {\n" + constants.text() +
           "};\nextern \"C\" __global__ void " + "__launch_bounds__(" + std::to_string(threads) +
           ") " + name + "(" + parameters + ") {\n  " + function + "<" + element + ", " + name +
           "_sizes>(" + values + ");\n}\n";
  }
};

/// How a convolution kernel divides its work.
struct Tile {
  /// Rows and pixels in a row of output that a block makes.
  int64_t height = 8;
  /// Pixels in a row.
  int64_t width = 8;
  /// Output channels that a block makes, a multiple of 4.
  int64_t group = 32;
  /// Input channels that are in shared memory at once, a multiple of 4.
  int64_t depth = 16;
  /// Threads in a block.
  int64_t threads = 128;
};

/// A pointwise convolution, a depthwise one, or the second behind the first.
struct ConvolutionShape {
  /// Images.
  int64_t images = 1;
  /// Channels of the input and of the output.
  int64_t in_channels = 1;
  /// Channels of the output.
  int64_t channels = 1;
  /// The input's rows and pixels in a row.
  int64_t in_height = 1;
  /// Pixels in a row of the input.
  int64_t in_width = 1;
  /// The same between both parts.
  int64_t middle_height = 1;
  /// Pixels in a row between both parts.
  int64_t middle_width = 1;
  /// The same of the output.
  int64_t out_height = 1;
  /// Pixels in a row of the output.
  int64_t out_width = 1;
  /// Whether there is a pointwise part, and its stride.
  bool pointwise = false;
  /// The pointwise part's stride down and across.
  std::array<int64_t, 2> pointwise_stride{1, 1};
  /// The activation between both parts.
  int64_t between = 0;
  /// Whether there is a depthwise part, and its geometry; without one that of a single pixel.
  bool depthwise = false;
  /// Height and width of the depthwise kernel.
  std::array<int64_t, 2> kernel{1, 1};
  /// Its stride.
  std::array<int64_t, 2> stride{1, 1};
  /// Its padding above and to the left.
  std::array<int64_t, 2> padding{0, 0};
  /// Its dilation.
  std::array<int64_t, 2> dilation{1, 1};
  /// The epilogue.
  int64_t before = 0;
  /// The last activation.
  int64_t after = 0;
  /// Whether another image is added between both activations.
  bool residual = false;

  /// Rows and columns of pixels that a block needs for `tile`.
  std::array<int64_t, 2> window(const Tile& tile) const {
    return {(tile.height - 1) * stride[0] + (kernel[0] - 1) * dilation[0] + 1,
            (tile.width - 1) * stride[1] + (kernel[1] - 1) * dilation[1] + 1};
  }

  /// The text of its kernel with `tile`.
  KernelText text(const Tile& tile) const {
    Constants c;
    c.set("in_channels", in_channels).set("channels", channels);
    c.set("in_height", in_height).set("in_width", in_width);
    c.set("middle_height", middle_height).set("middle_width", middle_width);
    c.set("out_height", out_height).set("out_width", out_width);
    c.set("pointwise", pointwise ? 1 : 0).set("between", between);
    c.set("pointwise_stride_y", pointwise_stride[0]).set("pointwise_stride_x", pointwise_stride[1]);
    c.set("depthwise", depthwise ? 1 : 0);
    c.set("kernel_height", kernel[0]).set("kernel_width", kernel[1]);
    c.set("stride_y", stride[0]).set("stride_x", stride[1]);
    c.set("padding_y", padding[0]).set("padding_x", padding[1]);
    c.set("dilation_y", dilation[0]).set("dilation_x", dilation[1]);
    c.set("before", before).set("after", after).set("residual", residual ? 1 : 0);
    c.set("tile_height", tile.height).set("tile_width", tile.width);
    c.set("group", tile.group).set("depth", tile.depth).set("threads", tile.threads);
    return {"convolve",
            {"const T", "const float", "const float", "const float", "const float", "const T", "T"},
            c,
            tile.threads};
  }

  /// The blocks for `tile`.
  Grid grid(const Tile& tile) const {
    const auto parts = [](int64_t whole, int64_t part) { return (whole + part - 1) / part; };
    return {{parts(out_height, tile.height) * parts(out_width, tile.width),
             parts(channels, tile.group), images},
            tile.threads};
  }

  /// Bytes of shared memory that a block needs.
  int64_t shared_bytes(const Tile& tile) const {
    const auto [rows, columns] = window(tile);
    const int64_t strips = (rows * columns + 3) / 4;
    const int64_t line = (strips * 4 + 27) / 32 * 32 + 4;
    const int64_t floats =
        rows * columns * tile.group + (pointwise ? tile.depth * (line + tile.group) : 0);
    return floats * static_cast<int64_t>(sizeof(float));
  }

  /// Multiply-adds for all images.
  int64_t multiply_adds() const {
    return images * channels *
           ((pointwise ? in_channels * middle_height * middle_width : 0) +
            (depthwise ? kernel[0] * kernel[1] * out_height * out_width : 0));
  }

  /// The tiles worth trying: those that fit into shared memory and registers, from small ones with
  /// many blocks to large ones that compute less twice.
  std::vector<Tile> tiles() const {
    constexpr int64_t shared_limit = 48 * 1024;
    constexpr int64_t most_sums = 4;
    std::vector<Tile> found;
    const auto add = [&](int64_t height, int64_t width, int64_t group) {
      Tile tile;
      tile.height = std::min(height, out_height);
      tile.width = std::min(width, out_width);
      tile.group = std::min(group, (channels + 3) / 4 * 4);
      tile.depth = std::min<int64_t>(pointwise ? 16 : 4, (in_channels + 3) / 4 * 4);
      const auto [rows, columns] = window(tile);
      const int64_t items = (rows * columns + 3) / 4 * (tile.group / 4);
      tile.threads = items <= 64 ? 64 : items <= 256 ? 128 : 256;
      const bool known = std::any_of(found.begin(), found.end(), [&](const Tile& other) {
        return other.height == tile.height && other.width == tile.width &&
               other.group == tile.group;
      });
      if (!known && shared_bytes(tile) <= shared_limit && items <= most_sums * tile.threads) {
        found.push_back(tile);
      }
    };
    if (depthwise) {
      for (const int64_t group : {16, 32, 64}) {
        add(4, 4, group);
        add(4, 8, group);
        add(8, 8, group);
      }
      add(8, 16, 16);
    } else {
      for (const int64_t group : {16, 32, 64}) {
        add(1, 16, group);
        add(1, 64, group);
        add(4, 8, group);
      }
    }
    if (found.empty()) {
      add(1, 1, 4);
    }
    return found;
  }
};

}  // namespace bsconv::gpu
