// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
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

/// A dtype and what PyTorch calls it.
struct PickleDtype {
  torch::ScalarType dtype;
  /// Of `torch.`, such as "float32".
  std::string_view name;
  /// The type of its storages in files; that of dtypes which lie in storages of bytes is
  /// `untyped_storage`.
  std::string_view storage;
};

/// The type of storages of bytes that hold any dtype.
inline constexpr std::string_view untyped_storage = "UntypedStorage";

/// The dtypes that files may hold.
inline constexpr std::array<PickleDtype, 20> pickle_dtypes = {{
    {torch::kFloat, "float32", "FloatStorage"},
    {torch::kDouble, "float64", "DoubleStorage"},
    {torch::kHalf, "float16", "HalfStorage"},
    {torch::kBFloat16, "bfloat16", "BFloat16Storage"},
    {torch::kLong, "int64", "LongStorage"},
    {torch::kInt, "int32", "IntStorage"},
    {torch::kShort, "int16", "ShortStorage"},
    {torch::kChar, "int8", "CharStorage"},
    {torch::kByte, "uint8", "ByteStorage"},
    {torch::kBool, "bool", "BoolStorage"},
    {torch::kComplexFloat, "complex64", "ComplexFloatStorage"},
    {torch::kComplexDouble, "complex128", "ComplexDoubleStorage"},
    {torch::kUInt16, "uint16", untyped_storage},
    {torch::kUInt32, "uint32", untyped_storage},
    {torch::kUInt64, "uint64", untyped_storage},
    {torch::kFloat8_e4m3fn, "float8_e4m3fn", untyped_storage},
    {torch::kFloat8_e5m2, "float8_e5m2", untyped_storage},
    {torch::kFloat8_e4m3fnuz, "float8_e4m3fnuz", untyped_storage},
    {torch::kFloat8_e5m2fnuz, "float8_e5m2fnuz", untyped_storage},
    {torch::kFloat8_e8m0fnu, "float8_e8m0fnu", untyped_storage},
}};

/// The row of `pickle_dtypes` whose `field` is `value`; null if there is none.
template <class Value>
const PickleDtype* find_pickle_dtype(Value PickleDtype::*field, const Value& value) {
  const auto* found = std::find_if(pickle_dtypes.begin(), pickle_dtypes.end(),
                                   [&](const auto& row) { return row.*field == value; });
  return found == pickle_dtypes.end() ? nullptr : found;
}

/// The dtype of the elements of PyTorch's storage type `name`, such as "FloatStorage"; bytes for
/// `untyped_storage`.
inline std::optional<torch::ScalarType> storage_dtype(std::string_view name) {
  if (name == untyped_storage) {
    return torch::kByte;
  }
  const auto* found = find_pickle_dtype(&PickleDtype::storage, name);
  if (found == nullptr) {
    return std::nullopt;
  }
  return found->dtype;
}

}  // namespace bsconv::weights::detail
