// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>
#include <bsconv/weights/pth.hpp>
#include <bsconv/weights/pth_writer.hpp>
#include <bsconv/weights/safetensors.hpp>
#include <bsconv/weights/state_dict.hpp>
#include <bsconv/weights/weight_format.hpp>

#include <filesystem>
#include <map>
#include <string>
#include <utility>

/// \file
/// Weight files of any format.

namespace bsconv::weights {

/// What a weight file holds.
struct WeightFile {
  /// The format it was in.
  WeightFormat format = WeightFormat::safetensors;
  /// The tensors, on the CPU, as views of the mapped file.
  StateDict tensors;
  /// The free text of a safetensors file.
  std::map<std::string, std::string> metadata;
};

/// Reads the weight file at `path`, whatever its name. `options` tell where the tensors of a
/// checkpoint are. Throws `c10::Error` with the path and what is wrong.
inline WeightFile load_weights(const std::filesystem::path& path, const PthOptions& options = {}) {
  WeightFile file;
  file.format = weight_format(path);
  if (file.format == WeightFormat::pth) {
    file.tensors = load_pth(path, options);
  } else {
    auto loaded = load_safetensors(path);
    file.tensors = std::move(loaded.tensors);
    file.metadata = std::move(loaded.metadata);
  }
  return file;
}

/// The format that `path`'s ending stands for: `.safetensors`, or `.pth`, `.pt` and `.bin`. Throws
/// `c10::ValueError` for another.
inline WeightFormat format_of_name(const std::filesystem::path& path) {
  const auto extension = path.extension().native();
  if (extension == ".safetensors") {
    return WeightFormat::safetensors;
  }
  TORCH_CHECK_VALUE(extension == ".pth" || extension == ".pt" || extension == ".bin", "'",
                    path.native(), "': the name must end in .safetensors, .pth, .pt or .bin");
  return WeightFormat::pth;
}

/// Writes `state` to `path` in the format that the name stands for; `metadata` only where the
/// format has a place for it.
inline void save_weights(const std::filesystem::path& path, const StateDict& state,
                         const std::map<std::string, std::string>& metadata = {}) {
  if (format_of_name(path) == WeightFormat::safetensors) {
    save_safetensors(path, state, metadata);
  } else {
    save_pth(path, state);
  }
}

}  // namespace bsconv::weights
