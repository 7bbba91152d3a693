// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/export/onnx_builder.hpp>
#include <bsconv/export/onnx_elementwise.hpp>
#include <bsconv/export/onnx_layers.hpp>
#include <bsconv/export/onnx_shapes.hpp>

#include <functional>
#include <map>
#include <string>
#include <vector>

/// \file
/// Which operator of LibTorch is written how.

namespace bsconv::onnx {

namespace detail {

/// How operators are written, by their name without namespace and final underscore.
inline const std::map<std::string, std::function<void(Builder&)>>& writers() {
  static const auto* table = [] {
    auto* made = new std::map<std::string, std::function<void(Builder&)>>;
    const auto add = [made](const std::vector<std::string>& names, auto writer) {
      for (const auto& name : names) {
        made->emplace(name, writer);
      }
    };
    const auto add_type = [&](const std::string& name, const std::string& type, auto writer) {
      made->emplace(name, [type, writer](Builder& to) { writer(to, type); });
    };
    add({"conv1d", "conv2d", "conv3d"}, write_convolution);
    add({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}, write_transposed_convolution);
    add({"addmm"}, write_addmm);
    add({"linear"}, write_linear);
    add({"matmul", "mm", "bmm"}, write_matmul);
    add({"batch_norm"}, write_batch_norm);
    add({"layer_norm"}, write_layer_norm);
    add({"group_norm"}, write_group_norm);
    add({"max_pool1d", "max_pool2d", "max_pool3d"}, write_max_pool);
    add({"avg_pool1d", "avg_pool2d", "avg_pool3d"}, write_average_pool);
    add({"adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}, write_adaptive_pool);
    for (const auto& [name, type] :
         std::map<std::string, std::string>{{"relu", "Relu"},
                                            {"sigmoid", "Sigmoid"},
                                            {"tanh", "Tanh"},
                                            {"hardswish", "HardSwish"},
                                            {"exp", "Exp"},
                                            {"log", "Log"},
                                            {"sqrt", "Sqrt"},
                                            {"abs", "Abs"},
                                            {"neg", "Neg"},
                                            {"erf", "Erf"},
                                            {"floor", "Floor"},
                                            {"ceil", "Ceil"},
                                            {"reciprocal", "Reciprocal"}}) {
      add_type(name, type, write_unary);
    }
    for (const auto& [name, type] : std::map<std::string, std::string>{{"add", "Add"},
                                                                       {"sub", "Sub"},
                                                                       {"mul", "Mul"},
                                                                       {"div", "Div"},
                                                                       {"pow", "Pow"},
                                                                       {"maximum", "Max"},
                                                                       {"minimum", "Min"}}) {
      add_type(name, type, write_binary);
    }
    for (const auto& [name, type] : std::map<std::string, std::string>{{"mean", "ReduceMean"},
                                                                       {"sum", "ReduceSum"},
                                                                       {"amax", "ReduceMax"},
                                                                       {"amin", "ReduceMin"}}) {
      add_type(name, type, write_reduction);
    }
    add_type("softmax", "Softmax", write_softmax);
    add_type("log_softmax", "LogSoftmax", write_softmax);
    add({"hardsigmoid"}, write_hardsigmoid);
    add({"silu"}, write_silu);
    add({"mish"}, write_mish);
    add({"gelu"}, write_gelu);
    add({"elu"}, write_elu);
    add({"leaky_relu"}, write_leaky_relu);
    add({"softplus"}, write_softplus);
    add({"prelu"}, write_prelu);
    add({"relu6", "hardtanh", "clamp", "clamp_min", "clamp_max"}, write_clip);
    add({"square"}, write_square);
    add({"rsqrt"}, write_rsqrt);
    add({"dropout", "feature_dropout", "alpha_dropout", "contiguous", "detach", "alias", "clone"},
        write_nothing);
    add({"to", "_to_copy", "type_as"}, write_cast);
    add({"view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"},
        write_reshape);
    add({"permute", "transpose", "t"}, write_transpose);
    add({"cat", "concat", "stack"}, write_cat);
    add({"slice", "narrow"}, write_slice);
    add({"select"}, write_select);
    add({"split", "split_with_sizes", "chunk"}, write_split);
    add({"pad", "_pad_enum", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d",
         "replication_pad1d", "replication_pad2d"},
        write_pad);
    add({"upsample_nearest2d", "upsample_bilinear2d"}, write_upsample);
    add({"pixel_shuffle"}, write_pixel_shuffle);
    // Never destroyed: another static object may export.
    return made;
  }();
  return *table;
}

}  // namespace detail

/// Writes the operator that `to` has begun. Refuses one that is not known.
inline void write_operator(Builder& to) {
  const auto found = detail::writers().find(to.name());
  if (found == detail::writers().end() || to.node().source.rfind("aten::", 0) != 0) {
    to.refuse("has no counterpart in ONNX that export_onnx knows");
  }
  found->second(to);
}

}  // namespace bsconv::onnx
