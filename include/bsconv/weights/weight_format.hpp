// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>
#include <bsconv/weights/mapped_file.hpp>
#include <bsconv/weights/zip_reader.hpp>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>

namespace bsconv::weights {

/// The formats of weight files.
enum class WeightFormat {
  /// https://huggingface.co/docs/safetensors
  safetensors,
  /// What Python's `torch.save` writes.
  pth,
};

/// The name of a format: "safetensors" or "pth".
inline const char* name_of(WeightFormat format) {
  return format == WeightFormat::safetensors ? "safetensors" : "pth";
}

/// The format of the file at `path`, by its content. Throws `c10::Error` if it is neither.
inline WeightFormat weight_format(const std::filesystem::path& path) {
  const std::string origin = "weight file '" + path.native() + "'";
  const auto file = MappedFile::open(path, origin);
  const auto text = file->text();
  // The length of a safetensors header may begin like a pickle, whose ninth byte is never '{'.
  uint64_t header = 0;
  if (text.size() > sizeof(header) && text[sizeof(header)] == '{') {
    std::memcpy(&header, text.data(), sizeof(header));
  }
  if (header > 0 && !detail::ZipReader::recognizes(text)) {
    return WeightFormat::safetensors;
  }
  TORCH_CHECK(detail::ZipReader::recognizes(text) || (text.size() > 2 && text[0] == '\x80'), origin,
              " is neither a safetensors file nor one that torch.save writes");
  return WeightFormat::pth;
}

}  // namespace bsconv::weights
