// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/kernels/aligned.hpp>

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace bsconv::infer {

using kernels::AlignedFloats;

/// Places blocks of memory that are needed at different times above each other.
class ArenaPlanner {
 public:
  /// Places `floats` that are in use from step `first` to step `last`, both included; returns the
  /// offset.
  std::size_t place(std::size_t floats, std::size_t first, std::size_t last) {
    constexpr std::size_t line = 16;
    const std::size_t needed = (floats + line - 1) / line * line;
    std::vector<std::pair<std::size_t, std::size_t>> taken;
    for (const auto& block : blocks_) {
      if (block.first <= last && first <= block.last) {
        taken.emplace_back(block.offset, block.offset + block.floats);
      }
    }
    std::sort(taken.begin(), taken.end());
    std::size_t offset = 0;
    for (const auto& [begin, end] : taken) {
      if (begin >= offset + needed) {
        break;
      }
      offset = std::max(offset, end);
    }
    blocks_.push_back({offset, needed, first, last});
    size_ = std::max(size_, offset + needed);
    return offset;
  }

  /// The floats that all blocks need together.
  std::size_t size() const { return size_; }

 private:
  struct Block {
    std::size_t offset;
    std::size_t floats;
    std::size_t first;
    std::size_t last;
  };
  std::vector<Block> blocks_;
  std::size_t size_ = 0;
};

}  // namespace bsconv::infer
