// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <torch/types.h>
#include <nlohmann/json.hpp>

#include <bsconv/train/checkpoint_json.hpp>
#include <bsconv/train/checkpoint_state.hpp>
#include <bsconv/util/json_value.hpp>
#include <bsconv/weights/safetensors.hpp>
#include <bsconv/weights/state_dict.hpp>
#include <bsconv/weights/weight_format.hpp>

namespace bsconv::train {

namespace detail {

inline constexpr int64_t checkpoint_version = 1;
inline constexpr std::string_view checkpoint_format = "bsconv-checkpoint";

/// The tensors of a checkpoint by the first part of their names in its file.
template <class AnyCheckpoint>
auto tensor_groups(AnyCheckpoint& checkpoint) {
  using Group = std::conditional_t<std::is_const_v<AnyCheckpoint>, const weights::StateDict*,
                                   weights::StateDict*>;
  return std::array<std::pair<const char*, Group>, 6>{{{"model", &checkpoint.model},
                                                       {"momentum", &checkpoint.momentum},
                                                       {"adamw", &checkpoint.adamw},
                                                       {"ema", &checkpoint.ema},
                                                       {"scaler", &checkpoint.scaler},
                                                       {"generator", &checkpoint.generators}}};
}

/// Throws `c10::Error` with the first text that is not UTF-8, as a file system's names may be:
/// JSON can't hold it.
inline void check_texts(const RunInfo& info) {
  const auto check = [](const char* what, const std::string& text) {
    TORCH_CHECK(bsconv::detail::is_utf8(nlohmann::json(text)), what, " '", text,
                "' is not UTF-8, so no checkpoint can hold it");
  };
  check("the architecture", info.architecture);
  check("the data set", info.dataset);
  for (const auto& name : info.class_names) {
    check("the class", name);
  }
  for (const auto& [name, value] : info.settings) {
    check("the setting", name);
    check(name.c_str(), value);
  }
}

/// Whether the file at `path` is one that Python's `torch.save` writes.
inline bool is_pytorch_file(const std::filesystem::path& path) {
  try {
    return weights::weight_format(path) == weights::WeightFormat::pth;
  } catch (const c10::Error&) {
    return false;
  }
}

}  // namespace detail

/// Writes a checkpoint, complete or not at all, as a safetensors file: tensors named
/// `model/NAME`, `momentum/NAME`, `adamw/MOMENT/NAME`, `ema/NAME`, `scaler/NAME` and
/// `generator/DEVICE`, and as metadata `format`, `version` and
/// `state`, a JSON object with the rest. Throws `c10::Error` with the path and the reason, or with
/// the text of `checkpoint.info` that is not UTF-8.
inline void save_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint) {
  detail::check_texts(checkpoint.info);
  weights::StateDict all;
  for (const auto& group : detail::tensor_groups(checkpoint)) {
    for (const auto& item : *group.second) {
      all.insert(group.first + ("/" + item.key()), item.value());
    }
  }
  weights::save_safetensors(path, all,
                            {{"format", std::string(detail::checkpoint_format)},
                             {"version", std::to_string(detail::checkpoint_version)},
                             {"state", detail::to_json(checkpoint).dump()}});
}

/// Whether the safetensors file with this `metadata` is one that `save_checkpoint` wrote.
inline bool is_checkpoint(const std::map<std::string, std::string>& metadata) {
  const auto format = metadata.find("format");
  return format != metadata.end() && format->second == detail::checkpoint_format;
}

/// Reads what `save_checkpoint` wrote. Throws `c10::Error` with the path if the file is damaged,
/// is no checkpoint, or is of another version.
inline Checkpoint load_checkpoint(const std::filesystem::path& path) {
  const std::string origin = "checkpoint '" + path.native() + "'";
  TORCH_CHECK(!detail::is_pytorch_file(path), origin,
              " is a PyTorch weight file, not a checkpoint");
  auto file = weights::load_safetensors(path);
  TORCH_CHECK(is_checkpoint(file.metadata), origin,
              " is a safetensors file, but not a bsconv checkpoint");
  TORCH_CHECK(file.metadata["version"] == std::to_string(detail::checkpoint_version), origin,
              " has version '", file.metadata["version"], "'; this program reads version ",
              detail::checkpoint_version);
  Checkpoint checkpoint;
  try {
    detail::from_json(nlohmann::json::parse(file.metadata["state"]), checkpoint);
    checkpoint.options.check();
  } catch (const nlohmann::json::exception& error) {
    TORCH_CHECK(false, origin, " is damaged: ", error.what());
  } catch (const c10::Error& error) {
    TORCH_CHECK(false, origin, " is damaged: ", error.what_without_backtrace());
  }
  TORCH_CHECK(checkpoint.epoch >= 0 && checkpoint.step >= 0 &&
                  checkpoint.history.size() == static_cast<std::size_t>(checkpoint.epoch),
              origin, " is damaged: epoch ", checkpoint.epoch, ", step ", checkpoint.step, ", ",
              checkpoint.history.size(), " epochs of history");
  for (auto& item : file.tensors) {
    const auto slash = item.key().find('/');
    std::string known;
    weights::StateDict* part = nullptr;
    for (const auto& group : detail::tensor_groups(checkpoint)) {
      known += known.empty() ? "" : ", ";
      known += group.first;
      known += "/…";
      if (slash != std::string::npos && item.key().compare(0, slash, group.first) == 0) {
        part = group.second;
      }
    }
    TORCH_CHECK(part != nullptr, origin, " has a tensor '", item.key(), "'; known are ", known);
    part->insert(item.key().substr(slash + 1), std::move(item.value()));
  }
  return checkpoint;
}

}  // namespace bsconv::train
