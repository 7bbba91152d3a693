// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <typeinfo>
#include <utility>

#include <c10/util/Exception.h>
#include <torch/arg.h>
#include <torch/types.h>

#include <bsconv/data/augment.hpp>
#include <bsconv/data/batch_source.hpp>
#include <bsconv/data/dataset.hpp>
#include <bsconv/data/epoch_order.hpp>
#include <bsconv/data/mix.hpp>
#include <bsconv/data/shard.hpp>
#include <bsconv/data/windows.hpp>

namespace bsconv::data {

/// Options of `DataLoader` and `FileLoader`.
struct LoaderOptions {
  /// Images in a batch, those of all shards; the last batch of an epoch holds what is left.
  /// Default: 128.
  TORCH_ARG(int64_t, batch_size) = 128;
  /// Whether each epoch has its own random order. Default: no.
  TORCH_ARG(bool, shuffle) = false;
  /// Whether a last batch smaller than `batch_size` is left out. Default: no.
  TORCH_ARG(bool, drop_last) = false;
  /// The part of every batch to yield. All parts together are the batch that a single process would
  /// have, its random crops and flips included; what is drawn behind those differs. Default: all.
  TORCH_ARG(Shard, shard) = {};
  /// Where order and augmentation start from. Default: 0.
  TORCH_ARG(uint64_t, seed) = 0;
  /// Where the batches lie. Default: the CPU.
  TORCH_ARG(torch::Device, device) = torch::kCPU;
  /// What is done at random to each batch while it is still uint8. It must leave the images uint8:
  /// they are scaled to 0..1 behind it; `get` throws if it doesn't. Default: nothing.
  TORCH_ARG(Augmentation, augmentation) = {};
  /// What mixes the images and labels of each batch at the end. Default: nothing.
  TORCH_ARG(Mixing, mixing) = {};
  /// How the images lie in memory; `torch::MemoryFormat::ChannelsLast` is what most convolutions
  /// like best. Default: contiguous, [N, C, H, W].
  TORCH_ARG(torch::MemoryFormat, memory_format) = torch::MemoryFormat::Contiguous;
};

namespace detail {

/// What is left to do to uint8 images on the training device: augmentation, the scale from 0 to 1,
/// mixing. Throws if the augmentation makes images of another dtype, whose scale nobody knows.
inline Batch finish_batch(torch::Tensor images, const torch::Tensor& labels, int64_t num_classes,
                          const LoaderOptions& options, const Augmentation& augmentation,
                          torch::Generator& generator) {
  const auto dtype = images.scalar_type();
  images = augmentation(images, generator);
  TORCH_CHECK(images.scalar_type() == dtype, "the augmentation '", augmentation,
              "' makes images of ", images.scalar_type(), " from those of ", dtype,
              "; it must keep ", dtype, ", as images are scaled to 0..1 behind it");
  if (images.is_cpu() && images.scalar_type() == torch::kByte) {
    Windows whole;
    whole.size = {images.size(2), images.size(3)};
    images = copy_windows<float>(images.contiguous(), whole, options.memory_format());
  } else if (!images.is_floating_point()) {
    images =
        images.to(torch::kFloat, /*non_blocking=*/false, /*copy=*/false, options.memory_format())
            .div_(255);
  }
  return options.mixing()({images, labels.to(options.device())}, num_classes, generator);
}

}  // namespace detail

/// Batches of an in-memory data set: shuffled, augmented, on the training device, scaled to 0..1.
///
/// The order of an epoch follows from the seed and the epoch, the augmentation of a batch from the
/// seed, the epoch and the batch's index. A `RandomCrop` and a `RandomHorizontalFlip` at the
/// beginning run in one pass with the copying of the batch on the CPU.
class DataLoader : public BatchSource {
 public:
  /// Shares the data set's memory. Throws if the batch size is not positive or no batch is left.
  explicit DataLoader(ImageDataset dataset, LoaderOptions options = {})
      : dataset_(std::move(dataset)),
        options_(std::move(options)),
        order_(dataset_.size(), options_.batch_size(), options_.shuffle(), options_.drop_last(),
               options_.seed(), options_.shard()) {
    const auto& transforms = options_.augmentation().transforms();
    std::size_t next = 0;
    if (next < transforms.size()) {
      crop_ = exactly<RandomCrop>(transforms[next]);
      next += crop_ != nullptr ? 1 : 0;
    }
    if (next < transforms.size()) {
      flip_ = exactly<RandomHorizontalFlip>(transforms[next]);
      next += flip_ != nullptr ? 1 : 0;
    }
    rest_ = options_.augmentation().from(next);
  }

  int64_t num_batches() const override { return order_.num_batches(); }

  int64_t num_examples() const override { return order_.num_examples(); }

  Shard shard() const override { return options_.shard(); }

  torch::Device device() const override { return options_.device(); }

  Batch get(int64_t epoch, int64_t index) const override {
    detail::Windows windows;
    windows.source = order_.records(epoch, index);
    auto generator = detail::batch_generator(options_.seed(), epoch, index);
    const auto& images = dataset_.images();
    const auto labels = dataset_.labels().index_select(0, windows.source);
    const int64_t count = order_.batch_size(index);
    const auto& shard = options_.shard();
    const auto part = [&](const torch::Tensor& drawn) {
      return drawn.slice(0, shard.begin(count), shard.end(count));
    };
    windows.size = {images.size(2), images.size(3)};
    if (crop_ != nullptr) {
      const auto drawn = crop_->draw(count, images.size(2), images.size(3), generator);
      windows.size = drawn.size;
      windows.top = part(drawn.top);
      windows.left = part(drawn.left);
    }
    if (flip_ != nullptr) {
      windows.mirrored = part(flip_->draw(count, generator));
    }
    if (shard.count > 1) {
      generator = order_.shard_generator(epoch, index);
    }
    const bool direct = !rest_ && options_.device().is_cpu();
    auto batch = direct ? detail::copy_windows<float>(images, windows, options_.memory_format())
                        : detail::copy_windows<uint8_t>(images, windows).to(options_.device());
    auto finished = detail::finish_batch(std::move(batch), labels, dataset_.num_classes(), options_,
                                         rest_, generator);
    finished.share = order_.share(index);
    return finished;
  }

  /// The data set the batches come from.
  const ImageDataset& dataset() const noexcept { return dataset_; }
  /// The options it was made with.
  const LoaderOptions& options() const noexcept { return options_; }

 private:
  /// `transform` as a `Type`; null if it is another one, as a class derived from it is.
  template <class Type>
  static std::shared_ptr<const Type> exactly(const std::shared_ptr<const Transform>& transform) {
    const auto& object = *transform;
    return typeid(object) == typeid(Type) ? std::static_pointer_cast<const Type>(transform)
                                          : nullptr;
  }

  ImageDataset dataset_;
  LoaderOptions options_;
  detail::EpochOrder order_;
  /// The first transforms, which run while the batch is copied, and what follows them.
  std::shared_ptr<const RandomCrop> crop_;
  std::shared_ptr<const RandomHorizontalFlip> flip_;
  Augmentation rest_;
};

}  // namespace bsconv::data
