// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>

#include <bsconv/data/batch_source.hpp>
#include <bsconv/data/shard.hpp>

namespace bsconv::data {

/// The batches of another source that fall to one of several processes: whole ones, in turn. What a
/// test goes through, where each image counts once.
class EveryNthBatch : public BatchSource {
 public:
  /// `source` must outlive this object.
  EveryNthBatch(const BatchSource& source, Shard shard) : source_(source), shard_(shard) {
    shard.check();
  }

  /// May be 0.
  int64_t num_batches() const override {
    return (source_.num_batches() - shard_.index + shard_.count - 1) / shard_.count;
  }

  /// Those of all processes.
  int64_t num_examples() const override { return source_.num_examples(); }

  torch::Device device() const override { return source_.device(); }

  Batch get(int64_t epoch, int64_t index) const override {
    return source_.get(epoch, index * shard_.count + shard_.index);
  }

 private:
  const BatchSource& source_;
  Shard shard_;
};

}  // namespace bsconv::data
