// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>
#include <torch/arg.h>
#include <torch/types.h>
#include <bsconv/export/batch_check.hpp>
#include <bsconv/export/onnx_builder.hpp>
#include <bsconv/export/onnx_model.hpp>
#include <bsconv/export/onnx_operators.hpp>
#include <bsconv/export/onnx_writer.hpp>
#include <bsconv/infer/capture.hpp>
#include <bsconv/infer/fold_affine.hpp>
#include <bsconv/nn/any_layer.hpp>
#include <bsconv/nn/walk.hpp>
#include <bsconv/util/rng_guard.hpp>
#include <bsconv/util/text.hpp>
#include <bsconv/version.hpp>
#include <bsconv/weights/atomic_file.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

/// \file
/// Models as ONNX files.

namespace bsconv {

/// Options of `export_onnx`.
struct OnnxExportOptions {
  /// Texts by name.
  using Metadata = std::vector<std::pair<std::string, std::string>>;

  /// The version of ONNX's operator set, from 17 to 21. Default: 17
  TORCH_ARG(int64_t, opset) = 17;
  /// Whether the file takes any batch size, or only the example's. Default: true
  TORCH_ARG(bool, dynamic_batch) = true;
  /// Whether batch normalizations are folded into the convolutions beside them. Default: true
  TORCH_ARG(bool, fold_batch_norms) = true;
  /// The name of the input. Default: "input"
  TORCH_ARG(std::string, input_name) = "input";
  /// The name of the output. Default: "output"
  TORCH_ARG(std::string, output_name) = "output";
  /// The name of the model in the file. Default: "model"
  TORCH_ARG(std::string, model_name) = "model";
  /// The names of the classes, kept as the metadata `class_names`, a name a line. Default: none
  TORCH_ARG(std::vector<std::string>, class_names);
  /// More metadata. Default: none
  TORCH_ARG(Metadata, metadata);
};

namespace onnx {

namespace detail {

/// How a model is called.
using Forward = std::function<torch::Tensor(const torch::Tensor&)>;

inline void check_export(const torch::nn::Module& module, const torch::Tensor& example,
                         const OnnxExportOptions& options) {
  TORCH_CHECK_VALUE(options.opset() >= 17 && options.opset() <= 21,
                    "export_onnx: opset must be from 17 to 21, got ", options.opset());
  TORCH_CHECK_VALUE(!options.input_name().empty() && !options.output_name().empty() &&
                        options.input_name() != options.output_name(),
                    "export_onnx: input and output need two different names, got '",
                    options.input_name(), "' and '", options.output_name(), "'");
  TORCH_CHECK_VALUE(example.defined() && example.scalar_type() == torch::kFloat &&
                        example.device().is_cpu() && example.dim() > 0 && example.numel() > 0,
                    "export_onnx: the example input must be a float tensor [N, ...] on the CPU, "
                    "got ",
                    example.defined() ? c10::str(c10::toString(example.scalar_type()), " ",
                                                 example.sizes(), " on ", example.device().str())
                                      : std::string("an undefined tensor"));
  TORCH_CHECK_VALUE(!options.model_name().empty(), "export_onnx: the model needs a name");
  std::set<std::string> keys;
  if (!options.class_names().empty()) {
    keys.insert("class_names");
  }
  for (const auto& item : options.metadata()) {
    TORCH_CHECK_VALUE(keys.insert(item.first).second, "export_onnx: the metadata has '", item.first,
                      "' twice");
  }
  for (const auto& name : options.class_names()) {
    TORCH_CHECK_VALUE(name.find('\n') == std::string::npos, "export_onnx: the class name '", name,
                      "' has a line break");
  }
  for_each_module(module, [](const torch::nn::Module& part, const std::string& path) {
    TORCH_CHECK(!part.is_training(),
                "export_onnx: ", path.empty() ? std::string("the model") : "'" + path + "'",
                " is in training mode; call eval() first");
  });
}

inline infer::Captured capture(const Forward& forward, const torch::Tensor& input) {
  try {
    return infer::capture(forward, input);
  } catch (const infer::NotCapturable& error) {
    TORCH_CHECK(false, "export_onnx: the model can't be written down as operators: ", error.what());
  }
}

inline bool is_batch_norm(const infer::Node& node) {
  return !node.removed && node.kind == infer::NodeKind::affine &&
         plain_name(node.source) == "batch_norm";
}

inline void fold_batch_norms(infer::Graph& graph) {
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    auto& node = graph.nodes[i];
    if (is_batch_norm(node)) {
      const auto* producer = graph.sole_producer(node.inputs[0]);
      if (producer != nullptr && producer->kind == infer::NodeKind::convolution) {
        infer::fold_affine_back(graph, i);
      }
    } else if (!node.removed && node.kind == infer::NodeKind::convolution) {
      const auto* producer = graph.sole_producer(node.inputs[0]);
      if (producer != nullptr && is_batch_norm(*producer)) {
        infer::fold_affine_forward(graph, node);
      }
    }
  }
}

inline std::vector<std::vector<bool>> sizes_by_batch(const Forward& forward,
                                                     const torch::Tensor& example,
                                                     const infer::Graph& graph) {
  const auto larger = torch::cat({example, example.narrow(0, 0, 1)});
  infer::Captured captured;
  try {
    captured = capture(forward, larger);
  } catch (const c10::Error& error) {
    TORCH_CHECK(false, "export_onnx: the model does not take ", larger.size(0),
                " images as it takes ", example.size(0),
                "; use dynamic_batch(false). It says: ", error.what_without_backtrace());
  }
  return varying_sizes(graph, captured.graph);
}

}  // namespace detail

/// What `export_onnx` writes, as plain data.
inline Model make_model(const torch::nn::Module& module, const detail::Forward& forward,
                        const torch::Tensor& example, const OnnxExportOptions& options = {}) {
  detail::check_export(module, example, options);
  const bsconv::RngGuard rng;
  auto graph = detail::capture(forward, example).graph;
  auto varies = options.dynamic_batch() ? detail::sizes_by_batch(forward, example, graph)
                                        : fixed_sizes(graph);
  if (options.fold_batch_norms()) {
    detail::fold_batch_norms(graph);
  }
  Builder builder(graph, std::move(varies), module, options.opset(), options.input_name());
  builder.reserve(options.output_name());
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    if (!graph.nodes[i].removed) {
      builder.begin(graph.nodes[i], i);
      write_operator(builder);
    }
  }
  builder.finish(options.output_name());
  Model model = std::move(builder.model);
  // Which version of the format came with which operator sets.
  model.ir_version = options.opset() >= 21 ? 10 : options.opset() >= 19 ? 9 : 8;
  model.producer = "bsconv";
  model.producer_version = version;
  model.graph_name = options.model_name();
  model.metadata = options.metadata();
  if (!options.class_names().empty()) {
    model.metadata.emplace_back("class_names", bsconv::detail::join(options.class_names(), "\n"));
  }
  return model;
}

}  // namespace onnx

/// Writes `model` to `path` as an ONNX file that any ONNX runtime runs; returns what it wrote.
///
/// The model may be of any class, a holder, a `std::shared_ptr` or an `AnyModule`: it is run on
/// `example`, a float tensor `[N, …]` on the CPU, and the operators that ran are written down. It
/// must be in evaluation mode and stays as it is. The file takes inputs of the example's sizes, in
/// batches of any size (a second run with one image more shows which sizes depend on it). Weights
/// have their state-dict names.
///
/// Throws `c10::Error` for an operator without a counterpart (with its place in the model and its
/// shapes), or if what the model does depends on numbers that it computes, or on the batch size.
/// The file appears whole or not at all.
///
/// Example:
/// ```
/// model->eval();
/// bsconv::export_onnx(model, torch::zeros({1, 3, 32, 32}), "model.onnx");
/// ```
inline onnx::Model export_onnx(AnyLayer model, const torch::Tensor& example,
                               const std::filesystem::path& path,
                               const OnnxExportOptions& options = {}) {
  auto made = onnx::make_model(
      *model.ptr(), [&](const torch::Tensor& input) { return model.forward(input); }, example,
      options);
  weights::write_text_file(path, onnx::to_bytes(made));
  return made;
}

}  // namespace bsconv
