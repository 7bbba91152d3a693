// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <c10/util/Exception.h>
#include <zlib.h>

// This header needs zlib, so it is not part of <bsconv/data.hpp>.

namespace bsconv::data::detail {

/// Goes through the structure of a MATLAB file before matio does, which takes memory for whatever
/// sizes a file claims. What passes has sizes that its bytes hold, and arrays of cells, texts and
/// real numbers only.
///
/// Format: "MAT-File Format", The MathWorks, chapter "Level 5 MAT-Files".
class MatlabCheck {
 public:
  /// Throws `c10::Error` that starts with `origin` if `file` is no such file.
  static void check(std::span<const uint8_t> file, const std::string& origin) {
    MatlabCheck(origin).check_file(file);
  }

 private:
  using Bytes = std::span<const uint8_t>;

  /// A type and its data.
  struct Element {
    uint32_t type = 0;
    Bytes data;
  };

  static constexpr std::size_t header_bytes = 128;
  static constexpr std::size_t largest_inflated = std::size_t{1} << 26U;
  static constexpr int deepest = 8;
  static constexpr uint32_t int32_type = 5;
  static constexpr uint32_t uint32_type = 6;
  static constexpr uint32_t matrix_type = 14;
  static constexpr uint32_t compressed_type = 15;
  static constexpr uint32_t cell_class = 1;
  static constexpr uint32_t char_class = 4;
  static constexpr uint32_t first_number_class = 6;
  static constexpr uint32_t last_number_class = 15;
  static constexpr uint32_t complex_flag = 0x800;

  explicit MatlabCheck(const std::string& origin) : origin_(origin) {}

  void check_file(Bytes file) const {
    require(file.size() >= header_bytes, "it ends within its header");
    require(file[124] == 0 && file[125] == 1 && file[126] == 'I' && file[127] == 'M',
            "it is of no supported version; 5 to 7.2, little-endian, are");
    Bytes rest = file.subspan(header_bytes);
    while (!rest.empty()) {
      const auto element = next(rest, /*padded=*/false);
      if (element.type == compressed_type) {
        const auto inflated = inflate_all(element.data);
        Bytes inside = inflated;
        const auto variable = next(inside, /*padded=*/true);
        require(inside.empty(), "a compressed variable has bytes behind it");
        check_matrix(variable, 0);
      } else {
        check_matrix(element, 0);
      }
    }
  }

  /// Takes the first element off `bytes`.
  Element next(Bytes& bytes, bool padded) const {
    require(bytes.size() >= 8, "it ends within an element");
    uint32_t type = 0;
    uint32_t size = 0;
    std::memcpy(&type, bytes.data(), sizeof(type));
    std::memcpy(&size, bytes.data() + sizeof(type), sizeof(size));
    if (type >> 16U != 0) {
      // Up to four bytes lie in the tag itself.
      size = type >> 16U;
      require(size <= 4, "a small element has more than 4 bytes");
      const Element element{type & 0xFFFFU, bytes.subspan(4, size)};
      bytes = bytes.subspan(8);
      return element;
    }
    require(size <= bytes.size() - 8, "an element ends behind the end");
    const Element element{type, bytes.subspan(8, size)};
    const std::size_t step = padded ? (std::size_t{size} + 7) / 8 * 8 : size;
    bytes = bytes.subspan(std::min(bytes.size(), 8 + step));
    return element;
  }

  void check_matrix(const Element& matrix, int depth) const {
    require(matrix.type == matrix_type, "it has an element that is no array");
    require(depth < deepest, "its cells lie too deep in each other");
    Bytes rest = matrix.data;
    const auto flags = next(rest, true);
    require(flags.type == uint32_type && flags.data.size() == 8, "an array has no flags");
    uint32_t word = 0;
    std::memcpy(&word, flags.data.data(), sizeof(word));
    const uint32_t array_class = word & 0xFFU;
    const auto dimensions = next(rest, true);
    require(dimensions.type == int32_type && dimensions.data.size() >= 8 &&
                dimensions.data.size() % 4 == 0,
            "an array has no dimensions");
    const auto name = next(rest, true);
    require(name.data.size() <= 63, "a name has more than 63 characters");
    const auto values = count(dimensions.data);
    if (array_class == cell_class) {
      require(values <= rest.size() / 8, "a cell array has fewer cells than it says");
      for (uint64_t i = 0; i < values; ++i) {
        check_matrix(next(rest, true), depth + 1);
      }
    } else {
      require(array_class == char_class ||
                  (array_class >= first_number_class && array_class <= last_number_class),
              "it has more than cells, texts and numbers");
      require((word & complex_flag) == 0, "it has complex numbers");
      const auto data = next(rest, true);
      require(values <= data.data.size(), "an array has fewer values than it says");
    }
    require(rest.empty(), "an array has bytes behind it");
  }

  uint64_t count(Bytes dimensions) const {
    uint64_t values = 1;
    for (std::size_t i = 0; i < dimensions.size(); i += 4) {
      int32_t size = 0;
      std::memcpy(&size, dimensions.data() + i, sizeof(size));
      require(size >= 0, "a dimension is negative");
      values *= static_cast<uint64_t>(size);
      require(values <= largest_inflated, "an array is too large");
    }
    return values;
  }

  std::vector<uint8_t> inflate_all(Bytes data) const {
    z_stream stream{};
    require(inflateInit(&stream) == Z_OK, "zlib cannot start");
    struct End {
      z_stream* stream;
      ~End() { inflateEnd(stream); }
    } const end{&stream};
    std::vector<uint8_t> result;
    std::array<uint8_t, 4096> block{};
    stream.next_in = const_cast<uint8_t*>(data.data());
    stream.avail_in = static_cast<uInt>(data.size());
    int status = Z_OK;
    while (status == Z_OK) {
      stream.next_out = block.data();
      stream.avail_out = static_cast<uInt>(block.size());
      status = inflate(&stream, Z_NO_FLUSH);
      require(status == Z_OK || status == Z_STREAM_END, "a compressed variable is damaged");
      result.insert(result.end(), block.begin(), block.end() - stream.avail_out);
      require(result.size() <= largest_inflated, "a compressed variable is too large");
    }
    return result;
  }

  void require(bool condition, const char* why) const {
    TORCH_CHECK(condition, origin_, " is damaged: ", why);
  }

  const std::string& origin_;
};

}  // namespace bsconv::data::detail
