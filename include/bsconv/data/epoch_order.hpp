// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>

#include <ATen/CPUGeneratorImpl.h>
#include <torch/types.h>

#include <bsconv/data/shard.hpp>
#include <bsconv/util/split_mix.hpp>

namespace bsconv::data::detail {

/// What random numbers are drawn for.
enum class Draw : uint64_t {
  /// The order of an epoch.
  order,
  /// What is done to a batch as a whole.
  batch,
  /// What one of several processes does to its part of a batch.
  shard,
  /// What is done to an image.
  image,
};

/// One well-mixed seed (by SplitMix64) of what is drawn for number `index` of `epoch`.
inline uint64_t mix_seed(uint64_t seed, Draw draw, int64_t epoch, int64_t index) {
  uint64_t mixed = 0;
  // Each is mixed before the next one comes in: seeds and epochs that are near have nothing in
  // common.
  for (const uint64_t value : {static_cast<uint64_t>(draw), seed, static_cast<uint64_t>(epoch),
                               static_cast<uint64_t>(index)}) {
    mixed = bsconv::detail::split_mix((mixed ^ value) + bsconv::detail::split_mix_step);
  }
  return mixed;
}

/// The generator of what is drawn for batch `index` of `epoch`.
inline torch::Generator batch_generator(uint64_t seed, int64_t epoch, int64_t index) {
  return at::make_generator<at::CPUGeneratorImpl>(mix_seed(seed, Draw::batch, epoch, index));
}

/// Which of `size` records each batch of each epoch holds. Used by several threads at once.
class EpochOrder {
 public:
  /// Throws if the batch size is not positive, has less than a record for every shard, or no batch
  /// is left. A last batch with less than a record for every shard is left out.
  EpochOrder(int64_t size, int64_t batch_size, bool shuffle, bool drop_last, uint64_t seed,
             Shard shard = {})
      : size_(size), batch_size_(batch_size), shuffle_(shuffle), seed_(seed), shard_(shard) {
    shard.check();
    TORCH_CHECK(batch_size > 0, "batch_size must be positive, got ", batch_size);
    TORCH_CHECK(batch_size >= shard.count, "a batch of ", batch_size, " has no image for each of ",
                shard.count, " processes");
    num_batches_ = size / batch_size;
    if (!drop_last && size % batch_size >= shard.count) {
      ++num_batches_;
    }
    TORCH_CHECK(num_batches_ > 0, "a data set of ", size, " images gives no batch of ", batch_size);
  }

  int64_t num_batches() const { return num_batches_; }

  /// Those of all shards.
  int64_t num_examples() const { return std::min(size_, num_batches_ * batch_size_); }

  /// Records in batch `index`, those of all shards.
  int64_t batch_size(int64_t index) const {
    TORCH_CHECK(index >= 0 && index < num_batches_, "batch ", index,
                " is out of range; an epoch has batches 0 to ", num_batches_ - 1);
    return std::min(batch_size_, size_ - index * batch_size_);
  }

  /// The records of this shard of batch `index` of `epoch`, int64 [N].
  torch::Tensor records(int64_t epoch, int64_t index) const {
    TORCH_CHECK(epoch >= 0, "epoch must not be negative, got ", epoch);
    const int64_t records = batch_size(index);
    const int64_t first = index * batch_size_ + shard_.begin(records);
    const int64_t last = index * batch_size_ + shard_.end(records);
    return shuffle_ ? order(epoch).slice(0, first, last) : torch::arange(first, last);
  }

  /// What `Batch::share` is for batch `index`.
  double share(int64_t index) const {
    const int64_t records = batch_size(index);
    return static_cast<double>((shard_.end(records) - shard_.begin(records)) * shard_.count) /
           static_cast<double>(records);
  }

  /// The generator of what this shard alone draws for batch `index` of `epoch`; that of the batch
  /// where there is one shard.
  torch::Generator shard_generator(int64_t epoch, int64_t index) const {
    return shard_.count == 1 ? batch_generator(seed_, epoch, index)
                             : at::make_generator<at::CPUGeneratorImpl>(mix_seed(
                                   seed_, Draw::shard, epoch, index * shard_.count + shard_.index));
  }

 private:
  torch::Tensor order(int64_t epoch) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (epoch != order_epoch_) {
      auto generator =
          at::make_generator<at::CPUGeneratorImpl>(mix_seed(seed_, Draw::order, epoch, 0));
      order_ = torch::randperm(size_, generator, torch::kLong);
      order_epoch_ = epoch;
    }
    return order_;
  }

  int64_t size_;
  int64_t batch_size_;
  bool shuffle_;
  uint64_t seed_;
  Shard shard_;
  int64_t num_batches_ = 0;
  mutable std::mutex mutex_;
  mutable torch::Tensor order_;
  mutable int64_t order_epoch_ = -1;
};

}  // namespace bsconv::data::detail
