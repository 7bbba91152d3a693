// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>
#include <torch/types.h>
#include <bsconv/export/onnx_fields.hpp>
#include <bsconv/export/onnx_model.hpp>
#include <bsconv/weights/mapped_file.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <protozero/pbf_reader.hpp>

/// \file
/// Models from ONNX files.

namespace bsconv::onnx {

namespace detail {

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

// The number of an element type; 0, which stands for none, if it is out of range.
inline int32_t type_of(protozero::pbf_reader& in) {
  const int64_t number = integer_of(in);
  return number < 0 || number > std::numeric_limits<int32_t>::max() ? 0
                                                                    : static_cast<int32_t>(number);
}

inline float float_of(protozero::pbf_reader& in) {
  expect_type(in, protozero::pbf_wire_type::fixed32);
  return in.get_float();
}

// Numbers of a repeated field, which come one by one or packed.
inline void read_integers(protozero::pbf_reader& in, std::vector<int64_t>& list) {
  if (in.wire_type() == protozero::pbf_wire_type::length_delimited) {
    for (const int64_t item : in.get_packed_int64()) {
      list.push_back(item);
    }
  } else {
    list.push_back(integer_of(in));
  }
}

// Name and value; none if the value is of another kind than those of `Attribute`.
inline std::optional<std::pair<std::string, Attribute>> read_attribute(protozero::pbf_reader in) {
  namespace field = attribute_field;
  std::string name;
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
        read_integers(in, list);
        break;
      case field::type:
        kind = integer_of(in);
        break;
      default:
        in.skip();
    }
  }
  switch (kind) {
    case field::type_float:
      return std::pair(std::move(name), Attribute(number));
    case field::type_int:
      return std::pair(std::move(name), Attribute(integer));
    case field::type_string:
      return std::pair(std::move(name), Attribute(std::move(text)));
    case field::type_ints:
      return std::pair(std::move(name), Attribute(std::move(list)));
    default:
      return std::nullopt;
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
      case node_field::attribute:
        if (auto attribute = read_attribute(message_of(in))) {
          node.attributes[attribute->first] = std::move(attribute->second);
        }
        break;
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
        read_integers(in, item.sizes);
        break;
      case tensor_field::data_type:
        item.type = type_of(in);
        break;
      case tensor_field::name:
        item.name = text_of(in);
        break;
      case tensor_field::raw_data:
        raw = bytes_of(in);
        break;
      default:
        in.skip();
    }
  }
  const auto type = element_type(item.type);
  if (!type) {
    return item;
  }
  // Sizes come from the file: their product may overflow, that of strides too where one is zero.
  uint64_t bytes = c10::elementSize(*type);
  bool empty = false;
  for (const int64_t size : item.sizes) {
    if (size < 0 ||
        (size > 0 && bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) /
                                 static_cast<uint64_t>(size))) {
      return item;
    }
    bytes *= static_cast<uint64_t>(std::max<int64_t>(size, 1));
    empty = empty || size == 0;
  }
  if ((empty ? 0 : bytes) == raw.size()) {
    item.data = torch::empty(item.sizes, *type);
    if (!raw.empty()) {
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
      // One of the two: the last one counts.
      if (dim.tag() == value_field::dim_value) {
        dimension = {std::max<int64_t>(integer_of(dim), -1), ""};
      } else if (dim.tag() == value_field::dim_param) {
        dimension = {-1, text_of(dim)};
      } else {
        dim.skip();
      }
    }
    value.sizes.push_back(dimension);
  }
}

inline ValueInfo read_value(protozero::pbf_reader in) {
  ValueInfo value;
  value.ranked = false;
  while (in.next()) {
    if (in.tag() == value_field::name) {
      value.name = text_of(in);
    } else if (in.tag() == value_field::type) {
      auto type = message_of(in);
      while (type.next(value_field::tensor_type)) {
        auto tensor = message_of(type);
        while (tensor.next()) {
          if (tensor.tag() == value_field::elem_type) {
            value.type = type_of(tensor);
          } else if (tensor.tag() == value_field::shape) {
            read_shape(message_of(tensor), value);
            value.ranked = true;
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

// The version of the default operator set; other sets are left out.
inline void read_opset(protozero::pbf_reader in, Model& model) {
  std::string domain;
  int64_t version = 0;
  while (in.next()) {
    if (in.tag() == opset_field::domain) {
      domain = text_of(in);
    } else if (in.tag() == opset_field::version) {
      version = integer_of(in);
    } else {
      in.skip();
    }
  }
  if (domain.empty() || domain == "ai.onnx") {
    model.opset = version;
  }
}

inline std::pair<std::string, std::string> read_pair(protozero::pbf_reader in) {
  std::pair<std::string, std::string> pair;
  while (in.next()) {
    if (in.tag() == pair_field::key) {
      pair.first = text_of(in);
    } else if (in.tag() == pair_field::value) {
      pair.second = text_of(in);
    } else {
      in.skip();
    }
  }
  return pair;
}

}  // namespace detail

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
        case field::opset_import:
          detail::read_opset(detail::message_of(in), model);
          break;
        case field::metadata_props:
          model.metadata.push_back(detail::read_pair(detail::message_of(in)));
          break;
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
