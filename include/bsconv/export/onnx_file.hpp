// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>
#include <torch/types.h>
#include <bsconv/export/onnx_model.hpp>
#include <bsconv/weights/mapped_file.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>

/// \file
/// ONNX files as bytes: the protocol-buffer messages of `onnx.proto3`.

namespace bsconv::onnx {

namespace detail {

// The numbers of the messages' fields.
namespace model_field {
enum : protozero::pbf_tag_type {
  ir_version = 1,
  producer_name = 2,
  producer_version = 3,
  graph = 7,
  opset_import = 8,
  metadata_props = 14
};
}
namespace graph_field {
enum : protozero::pbf_tag_type { node = 1, name = 2, initializer = 5, input = 11, output = 12 };
}
namespace node_field {
enum : protozero::pbf_tag_type { input = 1, output = 2, name = 3, op_type = 4, attribute = 5 };
}
namespace attribute_field {
enum : protozero::pbf_tag_type { name = 1, f = 2, i = 3, s = 4, ints = 8, type = 20 };
enum Type : int32_t { type_float = 1, type_int = 2, type_string = 3, type_ints = 7 };
}  // namespace attribute_field
namespace tensor_field {
enum : protozero::pbf_tag_type { dims = 1, data_type = 2, name = 8, raw_data = 9 };
}
namespace value_field {
enum : protozero::pbf_tag_type { name = 1, type = 2 };
// Of the messages below.
enum : protozero::pbf_tag_type { tensor_type = 1 };
enum : protozero::pbf_tag_type { elem_type = 1, shape = 2 };
enum : protozero::pbf_tag_type { dim = 1 };
enum : protozero::pbf_tag_type { dim_value = 1, dim_param = 2 };
}  // namespace value_field
namespace pair_field {
enum : protozero::pbf_tag_type { key = 1, value = 2 };
}
namespace opset_field {
enum : protozero::pbf_tag_type { domain = 1, version = 2 };
}

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

inline void write_value(protozero::pbf_writer& graph, protozero::pbf_tag_type field,
                        const ValueInfo& value) {
  protozero::pbf_writer out(graph, field);
  out.add_string(value_field::name, value.name);
  protozero::pbf_writer type(out, value_field::type);
  protozero::pbf_writer tensor(type, value_field::tensor_type);
  tensor.add_int32(value_field::elem_type, value.type);
  protozero::pbf_writer shape(tensor, value_field::shape);
  for (const auto& dimension : value.sizes) {
    protozero::pbf_writer dim(shape, value_field::dim);
    if (!dimension.name.empty()) {
      dim.add_string(value_field::dim_param, dimension.name);
    } else if (dimension.size >= 0) {
      dim.add_int64(value_field::dim_value, dimension.size);
    }
  }
}

// Fields by value. Protozero leaves it to its callers to look at the type first.
inline void expect_type(const protozero::pbf_reader& in, protozero::pbf_wire_type type) {
  if (in.wire_type() != type) {
    throw protozero::unknown_pbf_wire_type_exception{};
  }
}

inline std::string_view bytes_of(protozero::pbf_reader& in) {
  expect_type(in, protozero::pbf_wire_type::length_delimited);
  const auto view = in.get_view();
  return {view.data(), view.size()};
}

inline std::string text_of(protozero::pbf_reader& in) { return std::string(bytes_of(in)); }

inline protozero::pbf_reader message_of(protozero::pbf_reader& in) {
  const auto bytes = bytes_of(in);
  return {bytes.data(), bytes.size()};
}

inline int64_t integer_of(protozero::pbf_reader& in) {
  expect_type(in, protozero::pbf_wire_type::varint);
  return in.get_int64();
}

inline float float_of(protozero::pbf_reader& in) {
  expect_type(in, protozero::pbf_wire_type::fixed32);
  return in.get_float();
}

inline Attribute read_attribute(protozero::pbf_reader in, std::string& name, bool& known) {
  namespace field = attribute_field;
  int64_t kind = 0;
  float number = 0;
  int64_t integer = 0;
  std::string text;
  std::vector<int64_t> list;
  while (in.next()) {
    switch (in.tag()) {
      case field::name:
        name = text_of(in);
        break;
      case field::f:
        number = float_of(in);
        break;
      case field::i:
        integer = integer_of(in);
        break;
      case field::s:
        text = text_of(in);
        break;
      case field::ints:
        if (in.wire_type() == protozero::pbf_wire_type::length_delimited) {
          for (const int64_t item : in.get_packed_int64()) {
            list.push_back(item);
          }
        } else {
          list.push_back(integer_of(in));
        }
        break;
      case field::type:
        kind = integer_of(in);
        break;
      default:
        in.skip();
    }
  }
  known = true;
  switch (kind) {
    case field::type_float:
      return number;
    case field::type_int:
      return integer;
    case field::type_string:
      return text;
    case field::type_ints:
      return list;
    default:
      known = false;
      return integer;
  }
}

inline Node read_node(protozero::pbf_reader in) {
  Node node;
  while (in.next()) {
    switch (in.tag()) {
      case node_field::input:
        node.inputs.push_back(text_of(in));
        break;
      case node_field::output:
        node.outputs.push_back(text_of(in));
        break;
      case node_field::name:
        node.name = text_of(in);
        break;
      case node_field::op_type:
        node.type = text_of(in);
        break;
      case node_field::attribute: {
        std::string name;
        bool known = false;
        const auto value = read_attribute(message_of(in), name, known);
        if (known) {
          node.attributes[name] = value;
        }
        break;
      }
      default:
        in.skip();
    }
  }
  return node;
}

inline Initializer read_initializer(protozero::pbf_reader in) {
  Initializer item;
  std::string_view raw;
  while (in.next()) {
    switch (in.tag()) {
      case tensor_field::dims:
        if (in.wire_type() == protozero::pbf_wire_type::length_delimited) {
          for (const int64_t size : in.get_packed_int64()) {
            item.sizes.push_back(size);
          }
        } else {
          item.sizes.push_back(integer_of(in));
        }
        break;
      case tensor_field::data_type:
        item.type = static_cast<int32_t>(integer_of(in));
        break;
      case tensor_field::name:
        item.name = text_of(in);
        break;
      case tensor_field::raw_data: {
        raw = bytes_of(in);
        break;
      }
      default:
        in.skip();
    }
  }
  const auto type = element_type(item.type);
  if (!type) {
    return item;
  }
  // Sizes come from the file: their product may overflow.
  uint64_t bytes = c10::elementSize(*type);
  for (const int64_t size : item.sizes) {
    if (size < 0 ||
        (size > 0 && bytes > std::numeric_limits<uint64_t>::max() / static_cast<uint64_t>(size))) {
      return item;
    }
    bytes *= static_cast<uint64_t>(size);
  }
  if (bytes == raw.size()) {
    item.data = torch::empty(item.sizes, *type);
    if (bytes > 0) {
      std::memcpy(item.data.data_ptr(), raw.data(), raw.size());
    }
  }
  return item;
}

inline void read_shape(protozero::pbf_reader in, ValueInfo& value) {
  while (in.next(value_field::dim)) {
    auto dim = message_of(in);
    Dimension dimension;
    while (dim.next()) {
      if (dim.tag() == value_field::dim_value) {
        dimension.size = integer_of(dim);
      } else if (dim.tag() == value_field::dim_param) {
        dimension.name = text_of(dim);
      } else {
        dim.skip();
      }
    }
    value.sizes.push_back(dimension);
  }
}

inline ValueInfo read_value(protozero::pbf_reader in) {
  ValueInfo value;
  while (in.next()) {
    if (in.tag() == value_field::name) {
      value.name = text_of(in);
    } else if (in.tag() == value_field::type) {
      auto type = message_of(in);
      while (type.next(value_field::tensor_type)) {
        auto tensor = message_of(type);
        while (tensor.next()) {
          if (tensor.tag() == value_field::elem_type) {
            value.type = static_cast<int32_t>(integer_of(tensor));
          } else if (tensor.tag() == value_field::shape) {
            read_shape(message_of(tensor), value);
          } else {
            tensor.skip();
          }
        }
      }
    } else {
      in.skip();
    }
  }
  return value;
}

inline void read_graph(protozero::pbf_reader in, Model& model) {
  while (in.next()) {
    switch (in.tag()) {
      case graph_field::node:
        model.nodes.push_back(read_node(message_of(in)));
        break;
      case graph_field::name:
        model.graph_name = text_of(in);
        break;
      case graph_field::initializer:
        model.initializers.push_back(read_initializer(message_of(in)));
        break;
      case graph_field::input:
        model.inputs.push_back(read_value(message_of(in)));
        break;
      case graph_field::output:
        model.outputs.push_back(read_value(message_of(in)));
        break;
      default:
        in.skip();
    }
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

/// What the bytes of an ONNX file say. Subgraphs, other operator sets than the default one and
/// numbers that are not kept as raw bytes are left out. Throws `c10::Error`, beginning with
/// `origin`, if the bytes are no ONNX model.
inline Model from_bytes(std::string_view bytes, const std::string& origin = "ONNX") {
  namespace field = detail::model_field;
  Model model;
  bool has_graph = false;
  try {
    protozero::pbf_reader in(bytes.data(), bytes.size());
    while (in.next()) {
      switch (in.tag()) {
        case field::ir_version:
          model.ir_version = detail::integer_of(in);
          break;
        case field::producer_name:
          model.producer = detail::text_of(in);
          break;
        case field::producer_version:
          model.producer_version = detail::text_of(in);
          break;
        case field::graph:
          detail::read_graph(detail::message_of(in), model);
          has_graph = true;
          break;
        case field::opset_import: {
          auto opset = detail::message_of(in);
          std::string domain;
          int64_t version = 0;
          while (opset.next()) {
            if (opset.tag() == detail::opset_field::domain) {
              domain = detail::text_of(opset);
            } else if (opset.tag() == detail::opset_field::version) {
              version = detail::integer_of(opset);
            } else {
              opset.skip();
            }
          }
          model.opset = domain.empty() || domain == "ai.onnx" ? version : model.opset;
          break;
        }
        case field::metadata_props: {
          auto pair = detail::message_of(in);
          std::string key;
          std::string value;
          while (pair.next()) {
            if (pair.tag() == detail::pair_field::key) {
              key = detail::text_of(pair);
            } else if (pair.tag() == detail::pair_field::value) {
              value = detail::text_of(pair);
            } else {
              pair.skip();
            }
          }
          model.metadata.emplace_back(key, value);
          break;
        }
        default:
          in.skip();
      }
    }
  } catch (const protozero::exception& error) {
    TORCH_CHECK(false, origin, ": no ONNX model: ", error.what());
  }
  TORCH_CHECK(has_graph, origin, ": no ONNX model: there is no graph");
  return model;
}

/// What the ONNX file at `path` says; see `from_bytes`.
inline Model load_onnx(const std::filesystem::path& path) {
  std::string origin = "ONNX file '";
  origin += path.native() + "'";
  return from_bytes(weights::MappedFile::open(path, origin)->text(), origin);
}

}  // namespace bsconv::onnx
