// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>

#include <c10/util/Exception.h>

namespace bsconv::data {

/// Which of `count` equal parts of every batch a source yields, for training on several processes.
struct Shard {
  /// From 0.
  int64_t index = 0;
  /// How many parts there are; 1: batches are whole.
  int64_t count = 1;

  /// Throws `c10::ValueError` unless `index` is one of `count`.
  void check() const {
    TORCH_CHECK_VALUE(count > 0 && index >= 0 && index < count, "shard ", index, " of ", count,
                      " does not exist; the first is 0, and there must be at least one");
  }
  /// The first of `records` records that belongs to this shard; `end` is the next one's.
  int64_t begin(int64_t records) const { return records * index / count; }
  /// One behind the last.
  int64_t end(int64_t records) const { return records * (index + 1) / count; }
  /// Whether both are equal.
  bool operator==(const Shard&) const = default;
};

}  // namespace bsconv::data
