// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <utility>

namespace bsconv::weights::detail {

/// The entries of a zip archive whose entries are stored, not compressed, as PyTorch writes them.
///
/// Nothing is copied: entries are views of the archive. Everything is checked against the bytes at
/// hand, so that a damaged or hostile archive ends in `c10::Error` that starts with `origin`.
/// Format: APPNOTE.TXT 6.3, with zip64.
class ZipReader {
 public:
  ZipReader(std::string_view bytes, std::string origin)
      : bytes_(bytes), origin_(std::move(origin)) {
    read_directory(find_directory());
  }

  /// The bytes of the entry `name`, or null.
  const std::string_view* find(const std::string& name) const {
    const auto found = entries_.find(name);
    return found == entries_.end() ? nullptr : &found->second;
  }

  /// All entries by name.
  const std::map<std::string, std::string_view>& entries() const { return entries_; }

  /// Whether `bytes` begin like a zip archive.
  static bool recognizes(std::string_view bytes) { return bytes.substr(0, 4) == "PK\x03\x04"; }

 private:
  struct Directory {
    uint64_t count = 0;
    uint64_t offset = 0;
    uint64_t size = 0;
  };

  [[noreturn]] void refuse(const std::string& why) const {
    TORCH_CHECK(false, origin_, ": not a valid zip archive: ", why);
  }

  // A little-endian number of `Number`'s size at `offset`.
  template <class Number>
  uint64_t number(uint64_t offset) const {
    if (offset > bytes_.size() || bytes_.size() - offset < sizeof(Number)) {
      refuse("it ends within a record");
    }
    Number value = 0;
    std::memcpy(&value, bytes_.data() + offset, sizeof(Number));
    return value;
  }

  Directory find_directory() const {
    constexpr std::size_t end_size = 22;
    constexpr std::size_t longest_comment = 65535;
    if (bytes_.size() < end_size) {
      refuse("it has " + std::to_string(bytes_.size()) + " bytes");
    }
    const std::size_t first = bytes_.size() - std::min(bytes_.size(), end_size + longest_comment);
    for (std::size_t at = bytes_.size() - end_size;; --at) {
      if (bytes_.compare(at, 4, "PK\x05\x06") == 0 &&
          at + end_size + number<uint16_t>(at + 20) == bytes_.size()) {
        return read_end(at);
      }
      if (at == first) {
        break;
      }
    }
    refuse("it has no end record; it may be cut off");
  }

  Directory read_end(std::size_t at) const {
    Directory directory{number<uint16_t>(at + 10), number<uint32_t>(at + 16),
                        number<uint32_t>(at + 12)};
    if (directory.count == 0xFFFF || directory.offset == 0xFFFFFFFF ||
        directory.size == 0xFFFFFFFF) {
      // The zip64 locator stands before the end record and points to the larger one.
      if (at < 20 || bytes_.compare(at - 20, 4, std::string_view("PK\x06\x07", 4)) != 0) {
        refuse("its zip64 locator is missing");
      }
      const uint64_t large = number<uint64_t>(at - 20 + 8);
      if (large > bytes_.size() ||
          bytes_.compare(large, 4, std::string_view("PK\x06\x06", 4)) != 0) {
        refuse("its zip64 end record is missing");
      }
      directory = {number<uint64_t>(large + 32), number<uint64_t>(large + 48),
                   number<uint64_t>(large + 40)};
    }
    if (directory.offset > at || directory.size > at - directory.offset) {
      refuse("its directory lies outside of it");
    }
    return directory;
  }

  void read_directory(const Directory& directory) {
    constexpr uint64_t header_size = 46;
    const uint64_t end = directory.offset + directory.size;
    uint64_t at = directory.offset;
    uint64_t total = 0;
    for (uint64_t i = 0; i < directory.count; ++i) {
      if (end - at < header_size || bytes_.compare(at, 4, "PK\x01\x02") != 0) {
        refuse("its directory is damaged");
      }
      const uint64_t name_size = number<uint16_t>(at + 28);
      const uint64_t extra_size = number<uint16_t>(at + 30);
      const uint64_t comment_size = number<uint16_t>(at + 32);
      if (end - at - header_size < name_size + extra_size + comment_size) {
        refuse("its directory is damaged");
      }
      std::string name(bytes_.substr(at + header_size, name_size));
      if ((number<uint16_t>(at + 8) & 1U) != 0) {
        refuse("'" + name + "' is encrypted");
      }
      if (number<uint16_t>(at + 10) != 0) {
        refuse("'" + name + "' is compressed; PyTorch stores its entries");
      }
      uint64_t packed = number<uint32_t>(at + 20);
      uint64_t size = number<uint32_t>(at + 24);
      uint64_t offset = number<uint32_t>(at + 42);
      read_extra(at + header_size + name_size, extra_size, size, packed, offset);
      if (packed != size) {
        refuse("'" + name + "' is stored with two sizes");
      }
      const auto data = entry_data(name, offset, size, directory.offset);
      // With the header in front of the data.
      total += static_cast<uint64_t>(data.data() - bytes_.data()) + size - offset;
      if (total > directory.offset) {
        refuse("its entries overlap");
      }
      if (!entries_.emplace(name, data).second) {
        refuse("'" + name + "' occurs twice");
      }
      at += header_size + name_size + extra_size + comment_size;
    }
    if (at != end) {
      refuse("its directory has another size than its end record says");
    }
  }

  // Sizes and offsets that need 64 bits.
  void read_extra(uint64_t at, uint64_t left, uint64_t& size, uint64_t& packed,
                  uint64_t& offset) const {
    while (left >= 4) {
      const uint64_t id = number<uint16_t>(at);
      const uint64_t length = number<uint16_t>(at + 2);
      if (length > left - 4) {
        refuse("its directory is damaged");
      }
      if (id == 1) {
        uint64_t next = at + 4;
        for (uint64_t* value : {&size, &packed, &offset}) {
          if (*value == 0xFFFFFFFF) {
            if (next + 8 > at + 4 + length) {
              refuse("its zip64 sizes are missing");
            }
            *value = number<uint64_t>(next);
            next += 8;
          }
        }
      }
      at += 4 + length;
      left -= 4 + length;
    }
  }

  std::string_view entry_data(const std::string& name, uint64_t offset, uint64_t size,
                              uint64_t end) const {
    constexpr uint64_t header_size = 30;
    if (offset > end || end - offset < header_size ||
        bytes_.compare(offset, 4, "PK\x03\x04") != 0) {
      refuse("'" + name + "' is not where its directory says");
    }
    const uint64_t skip =
        header_size + number<uint16_t>(offset + 26) + number<uint16_t>(offset + 28);
    if (end - offset < skip || end - offset - skip < size) {
      refuse("'" + name + "' reaches beyond the archive");
    }
    return bytes_.substr(offset + skip, size);
  }

  std::string_view bytes_;
  std::string origin_;
  std::map<std::string, std::string_view> entries_;
};

}  // namespace bsconv::weights::detail
