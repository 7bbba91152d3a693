// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>

#include <ATen/CPUGeneratorImpl.h>
#include <torch/types.h>

namespace bsconv::data::detail {

/// One well-mixed seed from three numbers (SplitMix64, Steele et al., OOPSLA 2014).
inline uint64_t mix_seed(uint64_t seed, uint64_t first, uint64_t second) {
  for (const uint64_t value : {first, second}) {
    seed = (seed ^ value) + 0x9e3779b97f4a7c15U;
    seed = (seed ^ (seed >> 30U)) * 0xbf58476d1ce4e5b9U;
    seed = (seed ^ (seed >> 27U)) * 0x94d049bb133111ebU;
    seed ^= seed >> 31U;
  }
  return seed;
}

/// The generator of what is drawn for batch `index` of `epoch`.
inline torch::Generator batch_generator(uint64_t seed, int64_t epoch, int64_t index) {
  return at::make_generator<at::CPUGeneratorImpl>(
      mix_seed(seed, static_cast<uint64_t>(epoch), static_cast<uint64_t>(index) + 1));
}

/// Which of `size` records each batch of each epoch holds. Used by several threads at once.
class EpochOrder {
 public:
  /// Throws if the batch size is not positive or no batch is left.
  EpochOrder(int64_t size, int64_t batch_size, bool shuffle, bool drop_last, uint64_t seed)
      : size_(size),
        batch_size_(batch_size),
        shuffle_(shuffle),
        drop_last_(drop_last),
        seed_(seed) {
    TORCH_CHECK(batch_size > 0, "batch_size must be positive, got ", batch_size);
    TORCH_CHECK(num_batches() > 0, "a data set of ", size, " images gives no batch of ",
                batch_size);
  }

  int64_t num_batches() const { return (size_ + (drop_last_ ? 0 : batch_size_ - 1)) / batch_size_; }

  int64_t num_examples() const { return std::min(size_, num_batches() * batch_size_); }

  /// The records of batch `index` of `epoch`, int64 [N].
  torch::Tensor records(int64_t epoch, int64_t index) const {
    TORCH_CHECK(epoch >= 0, "epoch must not be negative, got ", epoch);
    TORCH_CHECK(index >= 0 && index < num_batches(), "batch ", index,
                " is out of range; an epoch has batches 0 to ", num_batches() - 1);
    const int64_t first = index * batch_size_;
    const int64_t last = std::min(first + batch_size_, size_);
    return shuffle_ ? order(epoch).slice(0, first, last) : torch::arange(first, last);
  }

 private:
  torch::Tensor order(int64_t epoch) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (epoch != order_epoch_) {
      auto generator = at::make_generator<at::CPUGeneratorImpl>(
          mix_seed(seed_, static_cast<uint64_t>(epoch), 0));
      order_ = torch::randperm(size_, generator, torch::kLong);
      order_epoch_ = epoch;
    }
    return order_;
  }

  int64_t size_;
  int64_t batch_size_;
  bool shuffle_;
  bool drop_last_;
  uint64_t seed_;
  mutable std::mutex mutex_;
  mutable torch::Tensor order_;
  mutable int64_t order_epoch_ = -1;
};

}  // namespace bsconv::data::detail
