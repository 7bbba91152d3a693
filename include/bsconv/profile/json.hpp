// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// A profile as JSON; needs nlohmann/json (CMake component `json`).

#include <bsconv/profile/profile.hpp>

#include <nlohmann/json.hpp>
#include <string>

namespace bsconv {

/// The profile as one JSON object: `model` (the name given), `params`, `flops`,
/// `activation_bytes`, `peak_activation_bytes`, `convention`, `modules` (a list with a row a
/// module, costs with all below it), `uncounted`, and `seconds` if it was timed.
inline nlohmann::ordered_json to_json(const Profile& profile, const std::string& name) {
  const bool timed = profile.total().seconds > 0.0;
  nlohmann::ordered_json object;
  object["model"] = name;
  object["params"] = profile.parameters();
  object["flops"] = profile.flops();
  object["activation_bytes"] = profile.total().activation_bytes;
  object["peak_activation_bytes"] = profile.peak_activation_bytes;
  object["convention"] = profile.convention == Convention::reference ? "reference" : "complete";
  if (timed) {
    object["seconds"] = profile.total().seconds;
  }
  auto modules = nlohmann::ordered_json::array();
  for (const auto& row : profile.rows) {
    nlohmann::ordered_json module;
    module["name"] = row.path;
    module["type"] = row.type;
    module["info"] = row.info;
    module["in_shape"] = row.input_shape;
    module["out_shape"] = row.output_shape;
    module["params"] = row.total.parameters;
    module["flops"] = row.total.flops;
    module["own_flops"] = row.own.flops;
    module["activation_bytes"] = row.total.activation_bytes;
    if (timed) {
      module["seconds"] = row.total.seconds;
    }
    modules.push_back(std::move(module));
  }
  object["modules"] = std::move(modules);
  object["uncounted"] = profile.uncounted;
  return object;
}

}  // namespace bsconv
