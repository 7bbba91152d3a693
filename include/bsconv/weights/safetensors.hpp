// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <torch/types.h>
#include <nlohmann/json.hpp>

#include <bsconv/weights/atomic_file.hpp>
#include <bsconv/weights/mapped_file.hpp>
#include <bsconv/weights/safetensors_header.hpp>
#include <bsconv/weights/state_dict.hpp>

namespace bsconv::weights {

/// What a safetensors file holds.
struct Safetensors {
  /// The tensors, on the CPU, in the order of the file's header.
  StateDict tensors;
  /// The file's free text.
  std::map<std::string, std::string> metadata;
};

namespace detail {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "safetensors files are little-endian; this reader copies them as they are");

inline std::string_view safetensors_type_name(torch::ScalarType type, const std::string& name) {
  for (const auto& known : safetensors_types) {
    if (known.type == type) {
      return known.name;
    }
  }
  TORCH_CHECK(false, "safetensors has no dtype for tensor '", name, "' of ", c10::toString(type));
}

inline void check_bool_bytes(const torch::Tensor& tensor, const std::string& name,
                             const std::string& origin) {
  const auto* byte = static_cast<const unsigned char*>(tensor.const_data_ptr());
  const auto* last = byte + tensor.numel();
  TORCH_CHECK(std::all_of(byte, last, [](unsigned char value) { return value <= 1; }), origin,
              ": '", name, "' is BOOL but has bytes other than 0 and 1");
}

}  // namespace detail

/// Writes `tensors` and `metadata` to `path` in the safetensors format, complete or not at all
/// (`AtomicFile`). Tensors on other devices are copied to the CPU one at a time; views are written
/// as their values. Throws `c10::Error` for an undefined tensor, for a dtype the format lacks, for
/// text that is not UTF-8, and for what the file system refuses, with the path and its reason.
/// Format: https://huggingface.co/docs/safetensors
inline void save_safetensors(const std::filesystem::path& path, const StateDict& tensors,
                             const std::map<std::string, std::string>& metadata = {}) {
  std::vector<const StateDict::Item*> by_alignment;
  by_alignment.reserve(tensors.size());
  for (const auto& item : tensors) {
    TORCH_CHECK(item.value().defined(), "tensor '", item.key(), "' is undefined");
    TORCH_CHECK(item.key() != "__metadata__", "a tensor cannot be named '__metadata__'");
    by_alignment.push_back(&item);
  }
  // Large elements first: every tensor is then aligned for its type in the mapped file.
  std::stable_sort(by_alignment.begin(), by_alignment.end(), [](const auto* a, const auto* b) {
    return a->value().element_size() > b->value().element_size();
  });
  std::map<std::string_view, std::array<uint64_t, 2>> offsets;
  uint64_t next = 0;
  for (const auto* item : by_alignment) {
    const auto bytes = static_cast<uint64_t>(item->value().numel()) *
                       static_cast<uint64_t>(item->value().element_size());
    offsets[item->key()] = {next, next + bytes};
    next += bytes;
  }

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) {
    header["__metadata__"] = metadata;
  }
  for (const auto& item : tensors) {
    header[item.key()] = {
        {"dtype", detail::safetensors_type_name(item.value().scalar_type(), item.key())},
        {"shape", item.value().sizes().vec()},
        {"data_offsets", offsets[item.key()]}};
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    TORCH_CHECK(false, "cannot write '", path.native(), "': a name or metadata is not UTF-8");
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  TORCH_CHECK(text.size() <= detail::safetensors_max_header, "cannot write '", path.native(),
              "': its header would have ", text.size(), " bytes; safetensors allows ",
              detail::safetensors_max_header);

  AtomicFile file(path);
  const uint64_t length = text.size();
  file.write(&length, sizeof(length));
  file.write(text);
  for (const auto* item : by_alignment) {
    const auto values =
        item->value().detach().to(torch::kCPU).contiguous().resolve_conj().resolve_neg();
    file.write(values.const_data_ptr(), values.nbytes());
  }
  file.commit();
}

/// Reads a safetensors file. Everything is checked before it is used: the header's length against
/// the file's, its JSON and that no name occurs twice, every shape, size and offset, that the
/// tensors fill the file without overlap, gap or trailing bytes.
///
/// The tensors are views of the mapped file (`MappedFile`), read when they are used, or copies
/// where they don't lie at a multiple of their elements' size. Throws `c10::Error` with the path
/// and what is wrong.
inline Safetensors load_safetensors(const std::filesystem::path& path) {
  const std::string origin = "safetensors file '" + path.native() + "'";
  const auto file = MappedFile::open(path, origin);
  const uint64_t file_size = file->size();
  uint64_t length = 0;
  TORCH_CHECK(file_size >= sizeof(length), origin, " has ", file_size,
              " bytes, too few for the header's length");
  std::memcpy(&length, file->data(), sizeof(length));
  TORCH_CHECK(length <= detail::safetensors_max_header, origin, ": the header's length is ", length,
              " bytes; at most ", detail::safetensors_max_header, " are allowed");
  TORCH_CHECK(length <= file_size - sizeof(length), origin, ": the header's length is ", length,
              " bytes, but only ", file_size - sizeof(length), " follow");
  auto header = detail::parse_safetensors_header(file->text().substr(sizeof(length), length),
                                                 file_size - sizeof(length) - length, origin);

  Safetensors result;
  result.metadata = std::move(header.metadata);
  result.tensors.reserve(header.entries.size());
  for (auto& entry : header.entries) {
    auto tensor =
        view_of_file(file, sizeof(length) + length + entry.begin, entry.shape, entry.type);
    if (entry.type == torch::kBool) {
      detail::check_bool_bytes(tensor, entry.name, origin);
    }
    result.tensors.insert(std::move(entry.name), std::move(tensor));
  }
  return result;
}

}  // namespace bsconv::weights
