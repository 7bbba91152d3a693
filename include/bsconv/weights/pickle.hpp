// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bsconv::weights::detail {

/// What a pickled value is.
enum class PickleKind {
  none,
  boolean,
  integer,
  number,
  text,
  bytes,
  list,
  tuple,
  dictionary,
  /// A name such as "torch.FloatStorage".
  global,
  /// A run of elements that a file holds.
  storage,
  /// A view of a storage.
  tensor,
  /// The end of a part of the stack.
  mark,
};

/// A pickled value; others are referred to by their number in `Pickle::values`.
struct PickleValue {
  PickleKind kind = PickleKind::none;
  /// Boolean and integer.
  int64_t integer = 0;
  /// Number.
  double number = 0.0;
  /// Text, bytes, the global's name, or the storage's key.
  std::string text;
  /// Elements; keys and values in turn; the tensor's storage.
  std::vector<std::size_t> items;
  /// Storage: its dtype, and its elements in `integer`. Tensor: its dtype, which may be any over a
  /// storage of bytes.
  torch::ScalarType dtype = torch::kFloat;
  /// Tensor: the offset is in `integer`.
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
  /// Tensor: its elements stand for their conjugates, or for their negatives.
  bool conjugated = false;
  bool negated = false;
};

/// A pickle as plain values.
struct Pickle {
  std::vector<PickleValue> values;
  std::size_t root = 0;
  /// The bytes that the pickle took.
  std::size_t size = 0;

  const PickleValue& operator[](std::size_t index) const { return values[index]; }
};

/// Dtypes by name.
template <std::size_t size>
using DtypeNames = std::array<std::pair<std::string_view, torch::ScalarType>, size>;

/// The dtype that `names` calls `name`, if any.
template <std::size_t size>
std::optional<torch::ScalarType> find_dtype(const DtypeNames<size>& names, std::string_view name) {
  for (const auto& [known, dtype] : names) {
    if (known == name) {
      return dtype;
    }
  }
  return std::nullopt;
}

/// The dtype of PyTorch's storage type `name`, such as "FloatStorage".
inline std::optional<torch::ScalarType> storage_dtype(std::string_view name) {
  static constexpr DtypeNames<13> known = {{
      {"FloatStorage", torch::kFloat},
      {"DoubleStorage", torch::kDouble},
      {"HalfStorage", torch::kHalf},
      {"BFloat16Storage", torch::kBFloat16},
      {"LongStorage", torch::kLong},
      {"IntStorage", torch::kInt},
      {"ShortStorage", torch::kShort},
      {"CharStorage", torch::kChar},
      {"ByteStorage", torch::kByte},
      {"BoolStorage", torch::kBool},
      {"ComplexFloatStorage", torch::kComplexFloat},
      {"ComplexDoubleStorage", torch::kComplexDouble},
      {"UntypedStorage", torch::kByte},
  }};
  return find_dtype(known, name);
}

/// The dtypes that have no storage type, and stand in files as their names over storages of bytes.
inline constexpr DtypeNames<8> untyped_dtypes = {{
    {"uint16", torch::kUInt16},
    {"uint32", torch::kUInt32},
    {"uint64", torch::kUInt64},
    {"float8_e4m3fn", torch::kFloat8_e4m3fn},
    {"float8_e5m2", torch::kFloat8_e5m2},
    {"float8_e4m3fnuz", torch::kFloat8_e4m3fnuz},
    {"float8_e5m2fnuz", torch::kFloat8_e5m2fnuz},
    {"float8_e8m0fnu", torch::kFloat8_e8m0fnu},
}};

}  // namespace bsconv::weights::detail
