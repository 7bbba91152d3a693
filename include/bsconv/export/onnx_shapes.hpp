// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/export/onnx_builder.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// \file
/// Operators that move, join and cut tensors as ONNX.

namespace bsconv::onnx::detail {

/// `dim` counted from the front.
inline int64_t axis_of(const c10::IValue& argument, std::size_t dims) {
  const int64_t dim = argument.toInt();
  return dim < 0 ? dim + static_cast<int64_t>(dims) : dim;
}

// The same numbers in the same shape.
inline void write_nothing(Builder& to) {
  if (to.name() == "dropout" || to.name() == "feature_dropout" || to.name() == "alpha_dropout") {
    if (to.argument(2).toBool()) {
      to.refuse("drops at random");
    }
  }
  to.give(to.input(0));
}

inline void write_cast(Builder& to) { to.give(to.input_in_result_type(0)); }

inline void write_reshape(Builder& to) {
  const auto from = to.sizes(0);
  const auto& sizes = to.result_sizes();
  const auto in = to.value(0);
  const auto varies_alike = [&] {
    for (std::size_t d = 0; in && d < sizes.size(); ++d) {
      if (to.varies(*in, d) != to.varies(to.result(), d)) {
        return false;
      }
    }
    return true;
  };
  if (from == sizes && varies_alike()) {
    to.give(to.input(0));
    return;
  }
  const bool rows = sizes.size() == 2 && from.size() > 1 && sizes[0] == from[0] &&
                    (!in || to.varies(*in, 0) == to.varies(to.result(), 0));
  if (rows) {
    to.give(to.add("Flatten", {to.input(0)}, {{"axis", int64_t{1}}}));
    return;
  }
  to.give(to.add("Reshape", {to.input(0), to.list(to.target_sizes(to.result()))}));
}

inline void write_transpose(Builder& to) {
  const std::size_t dims = to.sizes(0).size();
  std::vector<int64_t> order(dims);
  std::iota(order.begin(), order.end(), 0);
  if (to.name() == "permute") {
    order = to.argument(1).toIntVector();
    for (auto& dim : order) {
      dim += dim < 0 ? static_cast<int64_t>(dims) : 0;
    }
  } else if (to.name() == "t") {
    std::reverse(order.begin(), order.end());
  } else {
    std::swap(order[static_cast<std::size_t>(axis_of(to.argument(1), dims))],
              order[static_cast<std::size_t>(axis_of(to.argument(2), dims))]);
  }
  to.give(to.add("Transpose", {to.input(0)}, {{"perm", order}}));
}

inline void write_cat(Builder& to) {
  std::vector<std::string> inputs;
  const auto count = static_cast<int64_t>(to.argument(0).toTensorVector().size());
  for (int64_t at = 0; at < count; ++at) {
    inputs.push_back(to.input_in_result_type(0, at));
  }
  const auto axis = axis_of(to.argument(1), to.result_sizes().size());
  if (to.name() == "stack") {
    for (auto& input : inputs) {
      input = to.add("Unsqueeze", {input, to.list({axis})});
    }
  }
  to.give(to.add("Concat", inputs, {{"axis", axis}}));
}

inline std::string slice(Builder& to, const std::string& from, int64_t axis, int64_t start,
                         int64_t end, int64_t step = 1) {
  return to.add("Slice",
                {from, to.list({start}), to.list({end}), to.list({axis}), to.list({step})});
}

inline void write_slice(Builder& to) {
  const auto axis = axis_of(to.argument(1), to.sizes(0).size());
  if (to.name() == "narrow") {
    const int64_t start = to.argument(2).toInt();
    const int64_t end = start + to.argument(3).toInt();
    // Counted from the end, 0 would be the front.
    constexpr auto all = std::numeric_limits<int64_t>::max();
    to.give(slice(to, to.input(0), axis, start, start < 0 && end == 0 ? all : end));
    return;
  }
  const int64_t start = to.argument(2).isNone() ? 0 : to.argument(2).toInt();
  const int64_t end =
      to.argument(3).isNone() ? std::numeric_limits<int64_t>::max() : to.argument(3).toInt();
  to.give(slice(to, to.input(0), axis, start, end, to.argument(4).toInt()));
}

inline void write_select(Builder& to) {
  to.give(to.add("Gather",
                 {to.input(0), to.constant(torch::tensor(to.argument(2).toInt(), torch::kLong))},
                 {{"axis", axis_of(to.argument(1), to.sizes(0).size())}}));
}

// Pieces of the captured sizes.
inline void write_split(Builder& to) {
  const auto sizes = to.sizes(0);
  const bool by_dim = to.arguments() > 2;
  const auto axis = axis_of(by_dim ? to.argument(2) : c10::IValue(0), sizes.size());
  std::vector<int64_t> lengths;
  for (const std::size_t output : to.node().outputs) {
    if (to.varies(output, static_cast<std::size_t>(axis))) {
      to.refuse("splits the batch; use dynamic_batch(false)");
    }
    lengths.push_back(to.graph().values[output].sizes[static_cast<std::size_t>(axis)]);
  }
  const auto names =
      to.add_many("Split", {to.input(0), to.list(lengths)}, lengths.size(), {{"axis", axis}});
  for (std::size_t i = 0; i < names.size(); ++i) {
    to.give(names[i], i);
  }
}

// Copies of the edges across, dimension by dimension: older operator sets can't wrap.
inline std::string wrap(Builder& to, const std::vector<int64_t>& padding) {
  const auto sizes = to.sizes(0);
  std::string result = to.input(0);
  for (std::size_t i = 0; i < padding.size() / 2; ++i) {
    const auto d = sizes.size() - 1 - i;
    const auto axis = static_cast<int64_t>(d);
    const int64_t before = padding[2 * i];
    const int64_t after = padding[2 * i + 1];
    if (before < 0 || after < 0) {
      to.refuse("takes away by circular padding, for which there is no ONNX operator");
    }
    std::vector<std::string> parts;
    if (before > 0) {
      parts.push_back(slice(to, result, axis, sizes[d] - before, sizes[d]));
    }
    parts.push_back(result);
    if (after > 0) {
      parts.push_back(slice(to, result, axis, 0, after));
    }
    if (parts.size() > 1) {
      result = to.add("Concat", parts, {{"axis", axis}});
    }
  }
  return result;
}

inline void write_pad(Builder& to) {
  // LibTorch counts from the last dimension, a pair each.
  const auto padding = to.argument(1).toIntVector();
  const std::size_t dims = to.sizes(0).size();
  std::string mode = "constant";
  std::size_t value_at = 3;
  const auto& name = to.name();
  if (name == "pad") {
    mode = to.argument(2).toStringRef();
  } else if (name == "_pad_enum") {
    static const char* const modes[] = {"reflect", "replicate", "circular", "constant"};
    mode = modes[to.argument(2).toInt()];
  } else if (name == "constant_pad_nd") {
    value_at = 2;
  } else {
    mode = name.rfind("reflection", 0) == 0 ? "reflect" : "replicate";
  }
  if (mode == "circular") {
    to.give(wrap(to, padding));
    return;
  }
  std::vector<int64_t> pads(2 * dims, 0);
  for (std::size_t i = 0; i < padding.size() / 2; ++i) {
    pads[dims - 1 - i] = padding[2 * i];
    pads[2 * dims - 1 - i] = padding[2 * i + 1];
  }
  std::vector<std::string> inputs = {to.input(0), to.list(pads)};
  if (mode == "constant" && !to.argument(value_at).isNone()) {
    inputs.push_back(to.number(to.argument(value_at).toScalar().toDouble()));
  }
  to.give(to.add("Pad", inputs, {{"mode", mode == "replicate" ? "edge" : mode}}));
}

// The factor given for dimension `d`, in a list or as one of the arguments from `first` on; none if
// sizes were given.
inline std::optional<double> given_scale(const Builder& to, std::size_t first, std::size_t d) {
  const auto list = to.argument(first);
  if (list.isDoubleList()) {
    return list.toDoubleVector().at(d - 2);
  }
  const std::size_t at = first + d - 2;
  return at < to.arguments() && to.argument(at).isDouble()
             ? std::optional(to.argument(at).toDouble())
             : std::nullopt;
}

// With scales of which the rounded product is the size.
inline void write_upsample(Builder& to) {
  const bool linear = to.name().find("linear") != std::string::npos;
  const bool corners = linear && to.argument(2).toBool();
  const auto from = to.sizes(0);
  const auto& sizes = to.result_sizes();
  auto scales = torch::ones({static_cast<int64_t>(from.size())});
  for (std::size_t d = 2; d < from.size(); ++d) {
    if (!linear && sizes[d] % from[d] != 0) {
      to.refuse(
          "takes the nearest of pixels at fractions of a step, where runtimes round differently");
    }
    const auto in = static_cast<double>(from[d]);
    const auto out = static_cast<double>(sizes[d]);
    // LibTorch looks where the factor says, runtimes where the sizes say.
    const auto given = given_scale(to, linear ? 3 : 2, d);
    if (!corners && given && *given * in != out) {
      to.refuse(c10::str("scales ", from[d], " pixels by ", *given,
                         ", which is no whole number; give the size instead"));
    }
    auto scale = static_cast<float>(out / in);
    // Runtimes multiply in float or double.
    while (std::floor(in * static_cast<double>(scale)) < out) {
      scale = std::nextafter(scale, std::numeric_limits<float>::infinity());
    }
    scales[static_cast<int64_t>(d)] = scale;
  }
  const std::string where = corners ? "align_corners" : linear ? "half_pixel" : "asymmetric";
  to.give(to.add("Resize", {to.input(0), "", to.constant(scales)},
                 {{"mode", std::string(linear ? "linear" : "nearest")},
                  {"coordinate_transformation_mode", where},
                  {"nearest_mode", std::string("floor")}}));
}

inline void write_pixel_shuffle(Builder& to) {
  to.give(to.add("DepthToSpace", {to.input(0)},
                 {{"blocksize", to.argument(1).toInt()}, {"mode", std::string("CRD")}}));
}

}  // namespace bsconv::onnx::detail
