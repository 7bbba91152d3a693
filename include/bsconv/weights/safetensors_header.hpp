// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <torch/types.h>
#include <nlohmann/json.hpp>

namespace bsconv::weights::detail {

/// A safetensors dtype: its name in the file and LibTorch's type.
struct SafetensorsType {
  std::string_view name;
  torch::ScalarType type;
};

inline constexpr std::array<SafetensorsType, 19> safetensors_types = {{
    {"F64", torch::kDouble},
    {"C64", torch::kComplexFloat},
    {"F32", torch::kFloat},
    {"F16", torch::kHalf},
    {"BF16", torch::kBFloat16},
    {"F8_E4M3", torch::kFloat8_e4m3fn},
    {"F8_E5M2", torch::kFloat8_e5m2},
    {"F8_E4M3FNUZ", torch::kFloat8_e4m3fnuz},
    {"F8_E5M2FNUZ", torch::kFloat8_e5m2fnuz},
    {"F8_E8M0", torch::kFloat8_e8m0fnu},
    {"I64", torch::kLong},
    {"I32", torch::kInt},
    {"I16", torch::kShort},
    {"I8", torch::kChar},
    {"U64", torch::kUInt64},
    {"U32", torch::kUInt32},
    {"U16", torch::kUInt16},
    {"U8", torch::kByte},
    {"BOOL", torch::kBool},
}};

/// The longest header the format allows, in bytes.
inline constexpr uint64_t safetensors_max_header = 100'000'000;

/// One tensor's row of the header.
struct SafetensorsEntry {
  std::string name;
  torch::ScalarType type = torch::kFloat;
  std::vector<int64_t> shape;
  /// First byte and byte after the last, counted from the end of the header.
  uint64_t begin = 0;
  uint64_t end = 0;
};

/// The header of a file.
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;
};

/// Reads the header's JSON event by event, so that nothing but the one allowed structure is ever
/// built: {"__metadata__": {string: string}, NAME: {"dtype": …, "shape": […],
/// "data_offsets": [begin, end]}, …}. Every handler returns false, with a reason in `error`, to
/// refuse the file.
class SafetensorsHeaderReader {
 public:
  SafetensorsHeader header;
  std::string error;

  // Some writers leave out metadata this way.
  bool null() { return (state_ == State::top && name_ == "__metadata__") || refuse("null"); }
  bool boolean(bool) { return refuse("a boolean"); }
  bool number_float(double, const std::string& text) { return refuse("the number " + text); }
  bool binary(nlohmann::json::binary_t&) { return refuse("binary data"); }

  bool number_integer(int64_t value) { return refuse("the number " + std::to_string(value)); }

  bool number_unsigned(uint64_t value) {
    if (state_ != State::shape && state_ != State::offsets) {
      return refuse("the number " + std::to_string(value));
    }
    if (state_ == State::shape &&
        value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return fail("a dimension of " + std::to_string(value) + where());
    }
    if (numbers_.size() >= 1024) {
      return fail("more than 1024 numbers in one list" + where());
    }
    numbers_.push_back(value);
    return true;
  }

  bool string(std::string& value) {
    if (state_ == State::metadata) {
      header.metadata[key_] = std::move(value);
      return true;
    }
    if (state_ == State::entry && key_ == "dtype") {
      for (const auto& known : safetensors_types) {
        if (known.name == value) {
          entry_.type = known.type;
          return true;
        }
      }
      std::string valid;
      for (const auto& known : safetensors_types) {
        valid += (valid.empty() ? "" : ", ") + std::string(known.name);
      }
      return fail("unknown dtype '" + value + "'" + where() + "; known are " + valid);
    }
    return refuse("the string '" + value + "'");
  }

  bool start_object(std::size_t) {
    if (state_ == State::start) {
      state_ = State::top;
      return true;
    }
    if (state_ == State::top) {
      inner_keys_.clear();
      state_ = State::entry;
      if (name_ == "__metadata__") {
        state_ = State::metadata;
      } else {
        entry_ = SafetensorsEntry{};
        entry_.name = name_;
      }
      return true;
    }
    return refuse("an object");
  }

  bool key(std::string& key) {
    const bool top = state_ == State::top;
    if (!(top ? names_ : inner_keys_).insert(key).second) {
      return fail("the name '" + key + "' occurs twice" + (top ? "" : where()));
    }
    (top ? name_ : key_) = key;
    if (state_ == State::entry && key != "dtype" && key != "shape" && key != "data_offsets") {
      return fail("unknown field '" + key + "'" + where());
    }
    return true;
  }

  bool end_object() {
    if (state_ == State::top) {
      state_ = State::done;
      return true;
    }
    if (state_ == State::entry) {
      if (inner_keys_.size() != 3) {
        return fail("dtype, shape or data_offsets is missing" + where());
      }
      header.entries.push_back(std::move(entry_));
    }
    state_ = State::top;
    return true;
  }

  bool start_array(std::size_t) {
    if (state_ == State::entry && (key_ == "shape" || key_ == "data_offsets")) {
      state_ = key_ == "shape" ? State::shape : State::offsets;
      numbers_.clear();
      return true;
    }
    return refuse("a list");
  }

  bool end_array() {
    if (state_ == State::shape) {
      entry_.shape.assign(numbers_.begin(), numbers_.end());
    } else {
      if (numbers_.size() != 2) {
        return fail("data_offsets has " + std::to_string(numbers_.size()) +
                    " numbers instead of 2" + where());
      }
      entry_.begin = numbers_[0];
      entry_.end = numbers_[1];
    }
    state_ = State::entry;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) {
    return fail("the header is not valid JSON at byte " + std::to_string(position));
  }

 private:
  enum class State { start, top, metadata, entry, shape, offsets, done };

  std::string where() const {
    return name_.empty() && names_.empty() ? std::string() : " in '" + name_ + "'";
  }

  bool refuse(const std::string& what) { return fail("unexpected " + what + where()); }

  bool fail(std::string reason) {
    error = std::move(reason);
    return false;
  }

  State state_ = State::start;
  std::string name_;
  std::string key_;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> inner_keys_;
  std::vector<uint64_t> numbers_;
  SafetensorsEntry entry_;
};

/// The bytes of a tensor, or nothing if their number does not fit 63 bits. A dimension of zero
/// does not hide an overflow of the others: LibTorch's strides would overflow too.
inline std::optional<uint64_t> checked_bytes(const std::vector<int64_t>& shape,
                                             torch::ScalarType type) {
  constexpr auto largest = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  uint64_t bytes = c10::elementSize(type);
  bool empty = false;
  for (const int64_t size : shape) {
    if (size == 0) {
      empty = true;
    } else if (bytes > largest / static_cast<uint64_t>(size)) {
      return std::nullopt;
    } else {
      bytes *= static_cast<uint64_t>(size);
    }
  }
  return empty ? 0 : bytes;
}

/// Parses and checks a header for a file with `data_bytes` bytes after it. Throws `c10::Error`
/// that starts with `origin`.
inline SafetensorsHeader parse_safetensors_header(std::string_view json, uint64_t data_bytes,
                                                  const std::string& origin) {
  // The parser takes a byte of zero for the end, and skips a mark of the byte order.
  TORCH_CHECK(json.find('\0') == std::string_view::npos && json.substr(0, 3) != "\xef\xbb\xbf",
              origin, ": the header is not valid JSON: it has a byte of zero or a byte order mark");
  SafetensorsHeaderReader reader;
  const bool parsed = nlohmann::json::sax_parse(json, &reader);
  TORCH_CHECK(parsed, origin, ": ",
              reader.error.empty() ? "the header is not valid JSON" : reader.error);
  auto& entries = reader.header.entries;
  for (const auto& entry : entries) {
    TORCH_CHECK(entry.begin <= entry.end && entry.end <= data_bytes, origin, ": '", entry.name,
                "' has data_offsets [", entry.begin, ", ", entry.end, "], outside the file's ",
                data_bytes, " bytes of data");
    const auto bytes = checked_bytes(entry.shape, entry.type);
    TORCH_CHECK(bytes.has_value(), origin, ": the size of '", entry.name, "', shape ",
                torch::IntArrayRef(entry.shape), ", overflows");
    TORCH_CHECK(*bytes == entry.end - entry.begin, origin, ": '", entry.name, "', ",
                c10::toString(entry.type), " ", torch::IntArrayRef(entry.shape), ", needs ", *bytes,
                " bytes, but its data_offsets span ", entry.end - entry.begin);
  }
  std::vector<const SafetensorsEntry*> by_offset;
  by_offset.reserve(entries.size());
  for (const auto& entry : entries) {
    by_offset.push_back(&entry);
  }
  std::sort(by_offset.begin(), by_offset.end(), [](const auto* left, const auto* right) {
    return std::pair(left->begin, left->end) < std::pair(right->begin, right->end);
  });
  uint64_t next = 0;
  for (const auto* entry : by_offset) {
    TORCH_CHECK(entry->begin == next, origin, ": '", entry->name, "' starts at byte ", entry->begin,
                " of the data, ", entry->begin < next ? "inside" : "after a gap to",
                " the tensor before it, which ends at ", next);
    next = entry->end;
  }
  TORCH_CHECK(next == data_bytes, origin, ": ", data_bytes - next, " bytes follow the last tensor");
  return std::move(reader.header);
}

}  // namespace bsconv::weights::detail
