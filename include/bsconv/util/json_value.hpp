// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>

#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include <nlohmann/json.hpp>

namespace bsconv::detail {

/// Whether all texts in `json` are UTF-8: else it can't be written.
template <class Json>
bool is_utf8(const Json& json) {
  try {
    (void)json.dump();
    return true;
  } catch (const typename Json::type_error&) {
    return false;
  }
}

/// What `json` says, as a `Value`. Throws `c10::Error` if it is no integer where one is wanted, or
/// one out of range, which nlohmann::json would round or wrap, and `nlohmann::json::exception` if
/// it is of another type.
template <class Value>
Value json_value(const nlohmann::json& json) {
  if constexpr (std::is_same_v<Value, std::vector<int64_t>>) {
    std::vector<int64_t> values;
    for (const auto& item : json.get<std::vector<nlohmann::json>>()) {
      values.push_back(json_value<int64_t>(item));
    }
    return values;
  } else if constexpr (std::is_integral_v<Value> && !std::is_same_v<Value, bool>) {
    static_assert(sizeof(Value) == sizeof(uint64_t));
    constexpr auto most = static_cast<uint64_t>(std::numeric_limits<Value>::max());
    const bool fits = json.is_number_unsigned()
                          ? json.get<uint64_t>() <= most
                          : json.is_number_integer() && std::is_signed_v<Value>;
    TORCH_CHECK(fits, "an integer of 64 bits", std::is_signed_v<Value> ? "" : " without a sign",
                " is expected, not ", json.is_number() ? json.dump() : json.type_name());
    return json.get<Value>();
  } else {
    return json.get<Value>();
  }
}

}  // namespace bsconv::detail
