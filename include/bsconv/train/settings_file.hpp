// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <toml++/toml.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <ostream>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>
#include <nlohmann/json.hpp>

#include <bsconv/train/settings.hpp>

/// \file
/// Settings of a training in TOML files: one key a setting, without tables.

namespace bsconv::train {

/// A setting that someone gave.
struct GivenSetting {
  /// Its name, such as "learning_rate".
  std::string name;
  /// Its value as `set_setting` takes it.
  std::string text;
  /// Where it was given, for messages: "'run.toml', line 3".
  std::string origin;
};

namespace detail {

/// The text of a TOML value for `set_setting`; throws `c10::ValueError` if it can be none.
inline std::string setting_text(const toml::node& node) {
  if (const auto* text = node.as_string()) {
    return text->get();
  }
  if (const auto* number = node.as_integer()) {
    return std::to_string(number->get());
  }
  if (const auto* number = node.as_floating_point()) {
    return value_text(number->get());
  }
  if (const auto* flag = node.as_boolean()) {
    return value_text(flag->get());
  }
  const auto* list = node.as_array();
  TORCH_CHECK_VALUE(list != nullptr, "is neither a number, true or false, a text nor a list");
  std::string text;
  for (const auto& entry : *list) {
    TORCH_CHECK_VALUE(entry.is_integer(), "is a list of other things than whole numbers");
    text += text.empty() ? "" : ",";
    text += std::to_string(entry.as_integer()->get());
  }
  return text;
}

}  // namespace detail

/// The settings of the TOML file at `path`, in the order of its lines. `known` are the valid names.
/// Throws `c10::ValueError` with the file and the line if it can't be read, is a directory or no
/// TOML, or has a key that is not known, whose nearest valid name it gives.
inline std::vector<GivenSetting> read_settings_file(const std::filesystem::path& path,
                                                    const std::vector<std::string>& known) {
  std::error_code error;
  TORCH_CHECK_VALUE(!std::filesystem::is_directory(path, error), "settings file '", path.native(),
                    "' is a directory");
  toml::table table;
  try {
    table = toml::parse_file(path.native());
  } catch (const toml::parse_error& problem) {
    const auto line = problem.source().begin.line;
    TORCH_CHECK_VALUE(false, "settings file '", path.native(), "'",
                      line > 0 ? c10::str(", line ", line) : "", ": ", problem.description());
  }
  std::vector<std::pair<uint32_t, GivenSetting>> found;
  for (const auto& [key, node] : table) {
    const auto line = key.source().begin.line;
    GivenSetting given;
    given.name = key.str();
    given.origin = c10::str("settings file '", path.native(), "', line ", line);
    try {
      check_setting_name(given.name, known);
      given.text = detail::setting_text(node);
    } catch (const c10::ValueError& error) {
      TORCH_CHECK_VALUE(false, given.origin, ": ", given.name, ": ",
                        error.what_without_backtrace());
    }
    found.emplace_back(line, std::move(given));
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<GivenSetting> result;
  result.reserve(found.size());
  for (auto& item : found) {
    result.push_back(std::move(item.second));
  }
  return result;
}

/// Writes the line of one setting, which `read_settings_file` reads.
template <class Value>
void write_setting(std::ostream& out, std::string_view name, const Value& value) {
  out << name << " = ";
  if constexpr (std::is_same_v<Value, bool>) {
    out << (value ? "true" : "false");
  } else if constexpr (std::is_same_v<Value, uint64_t>) {
    // TOML's whole numbers end at 2^63 - 1.
    const bool fits = value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    out << (fits ? "" : "\"") << value << (fits ? "" : "\"");
  } else if constexpr (std::is_integral_v<Value>) {
    out << value;
  } else if constexpr (std::is_floating_point_v<Value>) {
    const auto text = detail::value_text(value);
    out << text << (text.find_first_of(".en") == std::string::npos ? ".0" : "");
  } else if constexpr (std::is_same_v<Value, std::vector<int64_t>>) {
    out << '[' << detail::value_text(value) << ']';
  } else if constexpr (std::is_enum_v<Value>) {
    out << '"' << to_string(value) << '"';
  } else {
    const std::string text = value;
    try {
      // A text of JSON is one of TOML.
      out << nlohmann::json(text).dump();
    } catch (const nlohmann::json::type_error&) {
      TORCH_CHECK_VALUE(false, name, ": '", text, "' is not UTF-8, which a settings file must be");
    }
  }
  out << '\n';
}

/// Writes the lines of all settings of `options`.
inline void write_settings(std::ostream& out, const TrainOptions& options) {
  visit_settings(options, [&out](const char* name, const auto& value, const char*) {
    write_setting(out, name, value);
  });
}

}  // namespace bsconv::train
