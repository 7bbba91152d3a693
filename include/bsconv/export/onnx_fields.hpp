// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>

#include <protozero/types.hpp>

/// \file
/// The messages of `onnx.proto3` in ONNX files: the numbers of their fields.

namespace bsconv::onnx::detail {

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

}  // namespace bsconv::onnx::detail
