// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <utility>

#include <ATen/CPUGeneratorImpl.h>
#include <torch/arg.h>
#include <torch/types.h>

#include <bsconv/data/augment.hpp>
#include <bsconv/data/batch_source.hpp>
#include <bsconv/data/dataset.hpp>

namespace bsconv::data {

namespace detail {

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

}  // namespace detail

/// Options of `DataLoader`.
struct LoaderOptions {
  /// Images in a batch; the last batch of an epoch holds what is left. Default: 128.
  TORCH_ARG(int64_t, batch_size) = 128;
  /// Whether each epoch has its own random order. Default: no.
  TORCH_ARG(bool, shuffle) = false;
  /// Whether a last batch smaller than `batch_size` is left out. Default: no.
  TORCH_ARG(bool, drop_last) = false;
  /// Where order and augmentation start from. Default: 0.
  TORCH_ARG(uint64_t, seed) = 0;
  /// Where the batches lie. Default: the CPU.
  TORCH_ARG(torch::Device, device) = torch::kCPU;
  /// What is done at random to each batch while it is still uint8. Default: nothing.
  TORCH_ARG(Augmentation, augmentation) = nullptr;
};

/// Batches of an in-memory data set: shuffled, augmented, on the training device, scaled to 0..1.
///
/// The order of an epoch follows from the seed and the epoch, the augmentation of a batch from the
/// seed, the epoch and the batch's index.
class DataLoader : public BatchSource {
 public:
  /// Shares the data set's memory. Throws if the batch size is not positive or no batch is left.
  explicit DataLoader(ImageDataset dataset, LoaderOptions options = {})
      : dataset_(std::move(dataset)), options_(std::move(options)) {
    TORCH_CHECK(options_.batch_size() > 0, "batch_size must be positive, got ",
                options_.batch_size());
    TORCH_CHECK(num_batches() > 0, "a data set of ", dataset_.size(), " images gives no batch of ",
                options_.batch_size());
  }

  int64_t num_batches() const override {
    const int64_t round_up = options_.drop_last() ? 0 : options_.batch_size() - 1;
    return (dataset_.size() + round_up) / options_.batch_size();
  }

  int64_t num_examples() const override {
    return std::min(dataset_.size(), num_batches() * options_.batch_size());
  }

  Batch get(int64_t epoch, int64_t index) const override {
    TORCH_CHECK(epoch >= 0, "epoch must not be negative, got ", epoch);
    TORCH_CHECK(index >= 0 && index < num_batches(), "batch ", index,
                " is out of range; an epoch has batches 0 to ", num_batches() - 1);
    const int64_t first = index * options_.batch_size();
    const int64_t last = std::min(first + options_.batch_size(), dataset_.size());
    torch::Tensor images;
    torch::Tensor labels;
    if (options_.shuffle()) {
      const auto chosen = order(epoch).slice(0, first, last);
      images = dataset_.images().index_select(0, chosen);
      labels = dataset_.labels().index_select(0, chosen);
    } else {
      images = dataset_.images().slice(0, first, last);
      labels = dataset_.labels().slice(0, first, last);
    }
    images = images.to(options_.device());
    if (options_.augmentation()) {
      auto generator = at::make_generator<at::CPUGeneratorImpl>(detail::mix_seed(
          options_.seed(), static_cast<uint64_t>(epoch), static_cast<uint64_t>(index) + 1));
      images = options_.augmentation()(images, generator);
    }
    return {images.to(torch::kFloat).div_(255), labels.to(options_.device())};
  }

  /// The data set the batches come from.
  const ImageDataset& dataset() const noexcept { return dataset_; }
  /// The options it was made with.
  const LoaderOptions& options() const noexcept { return options_; }

 private:
  torch::Tensor order(int64_t epoch) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (epoch != order_epoch_) {
      auto generator = at::make_generator<at::CPUGeneratorImpl>(
          detail::mix_seed(options_.seed(), static_cast<uint64_t>(epoch), 0));
      order_ = torch::randperm(dataset_.size(), generator, torch::kLong);
      order_epoch_ = epoch;
    }
    return order_;
  }

  ImageDataset dataset_;
  LoaderOptions options_;
  mutable std::mutex mutex_;
  mutable torch::Tensor order_;
  mutable int64_t order_epoch_ = -1;
};

}  // namespace bsconv::data
