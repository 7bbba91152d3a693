// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>
#include <torch/types.h>
#include <bsconv/export/onnx_fields.hpp>
#include <bsconv/export/onnx_model.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include <protozero/pbf_writer.hpp>

/// \file
/// ONNX files from models.

namespace bsconv::onnx {

namespace detail {

inline void write_attribute(protozero::pbf_writer& node, const std::string& name,
                            const Attribute& value) {
  namespace field = attribute_field;
  protozero::pbf_writer out(node, node_field::attribute);
  out.add_string(field::name, name);
  std::visit(
      [&](const auto& item) {
        using Item = std::decay_t<decltype(item)>;
        if constexpr (std::is_same_v<Item, float>) {
          out.add_float(field::f, item);
          out.add_enum(field::type, field::type_float);
        } else if constexpr (std::is_same_v<Item, int64_t>) {
          out.add_int64(field::i, item);
          out.add_enum(field::type, field::type_int);
        } else if constexpr (std::is_same_v<Item, std::string>) {
          out.add_bytes(field::s, item);
          out.add_enum(field::type, field::type_string);
        } else {
          for (const int64_t number : item) {
            out.add_int64(field::ints, number);
          }
          out.add_enum(field::type, field::type_ints);
        }
      },
      value);
}

inline void write_node(protozero::pbf_writer& graph, const Node& node) {
  protozero::pbf_writer out(graph, graph_field::node);
  for (const auto& name : node.inputs) {
    out.add_string(node_field::input, name);
  }
  for (const auto& name : node.outputs) {
    out.add_string(node_field::output, name);
  }
  out.add_string(node_field::name, node.name);
  out.add_string(node_field::op_type, node.type);
  for (const auto& [name, value] : node.attributes) {
    write_attribute(out, name, value);
  }
}

inline void write_initializer(protozero::pbf_writer& graph, const Initializer& item) {
  protozero::pbf_writer out(graph, graph_field::initializer);
  out.add_packed_int64(tensor_field::dims, item.sizes.begin(), item.sizes.end());
  out.add_int32(tensor_field::data_type, item.type);
  out.add_string(tensor_field::name, item.name);
  const auto data = item.data.cpu().contiguous();
  out.add_bytes(tensor_field::raw_data, static_cast<const char*>(data.const_data_ptr()),
                data.nbytes());
}

// Messages that a writer closes without content are left out, but a dimension that says nothing is
// one, and no dimensions are a scalar's.
inline std::string shape_message(const std::vector<Dimension>& sizes) {
  std::string text;
  protozero::pbf_writer shape(text);
  for (const auto& dimension : sizes) {
    std::string content;
    protozero::pbf_writer dim(content);
    if (!dimension.name.empty()) {
      dim.add_string(value_field::dim_param, dimension.name);
    } else if (dimension.size >= 0) {
      dim.add_int64(value_field::dim_value, dimension.size);
    }
    shape.add_message(value_field::dim, content);
  }
  return text;
}

inline void write_value(protozero::pbf_writer& graph, protozero::pbf_tag_type field,
                        const ValueInfo& value) {
  protozero::pbf_writer out(graph, field);
  out.add_string(value_field::name, value.name);
  if (value.type == 0 && !value.ranked) {
    return;
  }
  protozero::pbf_writer type(out, value_field::type);
  protozero::pbf_writer tensor(type, value_field::tensor_type);
  tensor.add_int32(value_field::elem_type, value.type);
  if (value.ranked) {
    tensor.add_message(value_field::shape, shape_message(value.sizes));
  }
}

}  // namespace detail

/// The bytes of an ONNX file that says `model`. Throws if they would be more than the 2 GiB that a
/// protocol-buffer message may have.
inline std::string to_bytes(const Model& model) {
  namespace field = detail::model_field;
  uint64_t bytes = 0;
  for (const auto& item : model.initializers) {
    bytes += item.data.nbytes();
  }
  // What is left is for the graph.
  constexpr uint64_t most = (uint64_t{1} << 31) - (uint64_t{1} << 24);
  TORCH_CHECK(bytes < most, "ONNX: the model has ", bytes,
              " bytes of weights; a file of one part holds less than 2 GiB");
  std::string text;
  text.reserve(bytes + (std::size_t{1} << 16));
  protozero::pbf_writer out(text);
  out.add_int64(field::ir_version, model.ir_version);
  out.add_string(field::producer_name, model.producer);
  out.add_string(field::producer_version, model.producer_version);
  {
    protozero::pbf_writer graph(out, field::graph);
    for (const auto& node : model.nodes) {
      detail::write_node(graph, node);
    }
    graph.add_string(detail::graph_field::name, model.graph_name);
    for (const auto& item : model.initializers) {
      detail::write_initializer(graph, item);
    }
    for (const auto& value : model.inputs) {
      detail::write_value(graph, detail::graph_field::input, value);
    }
    for (const auto& value : model.outputs) {
      detail::write_value(graph, detail::graph_field::output, value);
    }
  }
  {
    protozero::pbf_writer opset(out, field::opset_import);
    opset.add_string(detail::opset_field::domain, "");
    opset.add_int64(detail::opset_field::version, model.opset);
  }
  for (const auto& [name, value] : model.metadata) {
    protozero::pbf_writer pair(out, field::metadata_props);
    pair.add_string(detail::pair_field::key, name);
    pair.add_string(detail::pair_field::value, value);
  }
  return text;
}

}  // namespace bsconv::onnx
