// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <torch/types.h>

#include <bsconv/data/archive.hpp>
#include <bsconv/data/cifar.hpp>
#include <bsconv/data/class_names.hpp>
#include <bsconv/data/dataset.hpp>

// This header needs libarchive, so it is not part of <bsconv/data.hpp>.

namespace bsconv::data {

namespace detail {

inline ImageDataset load_cifar_archive(const std::filesystem::path& path, const CifarLayout& layout,
                                       Split split) {
  const auto& files = split == Split::train ? layout.train_files : layout.test_files;
  const int64_t records =
      split == Split::train ? layout.train_records_per_file : layout.test_records_per_file;
  const auto file_name = [](const std::string& member) {
    return std::filesystem::path(member).filename().native();
  };
  const auto label_bytes = static_cast<int64_t>(layout.label_counts.size());
  const auto largest = static_cast<uint64_t>(records * (label_bytes + cifar_image_bytes));
  auto members = read_archive(path, largest, [&](const std::string& member) {
    const auto name = file_name(member);
    return name == layout.names_file || std::find(files.begin(), files.end(), name) != files.end();
  });
  const auto find = [&](const std::string& name) {
    return std::find_if(members.begin(), members.end(),
                        [&](const auto& member) { return file_name(member.first) == name; });
  };
  const auto stream_of = [](const std::vector<uint8_t>& bytes) {
    return std::istringstream(std::string(bytes.begin(), bytes.end()));
  };

  const int64_t total = records * static_cast<int64_t>(files.size());
  auto images = torch::empty({total, 3, 32, 32}, torch::kByte);
  auto labels = torch::empty({total}, torch::kLong);
  int64_t first = 0;
  for (const auto& file : files) {
    const auto member = find(file);
    TORCH_CHECK(member != members.end(), layout.name, ": ", archive_name(path), " has no member '",
                file, "'");
    const auto name = path.native() + "/" + member->first;
    check_cifar_size(member->second.size(), records, label_bytes, layout.name, name);
    auto stream = stream_of(member->second);
    read_cifar_records(stream, name, layout.name, records, layout.label_counts,
                       images.data_ptr<uint8_t>() + first * cifar_image_bytes,
                       labels.data_ptr<int64_t>() + first);
    member->second = {};
    first += records;
  }
  auto names = numbered_class_names(layout.label_counts.back());
  if (const auto member = find(layout.names_file); member != members.end()) {
    auto stream = stream_of(member->second);
    names = parse_class_names(stream, path.native() + "/" + member->first, layout.name,
                              layout.label_counts.back());
  }
  return {std::move(images), std::move(labels), std::move(names)};
}

/// From the unpacked files where there are any, otherwise from the archive `root`, or in `root`.
inline ImageDataset open_cifar(const std::filesystem::path& root, const CifarLayout& layout,
                               Split split) {
  std::error_code error;
  if (std::filesystem::is_regular_file(root, error)) {
    return load_cifar_archive(root, layout, split);
  }
  const auto& files = split == Split::train ? layout.train_files : layout.test_files;
  const bool unpacked = std::filesystem::exists(root / files.front(), error) ||
                        std::filesystem::exists(root / layout.directory / files.front(), error);
  const auto archive = root / layout.archive;
  return !unpacked && std::filesystem::exists(archive, error)
             ? load_cifar_archive(archive, layout, split)
             : load_cifar(root, layout, split);
}

}  // namespace detail

/// CIFAR-10 as `load_cifar10` reads it, or, where nothing is unpacked, in place from the official
/// archive `cifar-10-binary.tar.gz`; `root` is its directory or the archive itself.
inline ImageDataset open_cifar10(const std::filesystem::path& root, Split split) {
  return detail::open_cifar(root, detail::cifar10_layout(), split);
}

/// CIFAR-100 as `load_cifar100` reads it, or, where nothing is unpacked, in place from the official
/// archive `cifar-100-binary.tar.gz`; `root` is its directory or the archive itself.
inline ImageDataset open_cifar100(const std::filesystem::path& root, Split split) {
  return detail::open_cifar(root, detail::cifar100_layout(), split);
}

}  // namespace bsconv::data
