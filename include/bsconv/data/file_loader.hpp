// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <exception>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <torch/types.h>

#include <bsconv/data/batch_source.hpp>
#include <bsconv/data/dataset.hpp>
#include <bsconv/data/epoch_order.hpp>
#include <bsconv/data/file_dataset.hpp>
#include <bsconv/data/image_geometry.hpp>
#include <bsconv/data/loader.hpp>
#include <bsconv/data/prepared_image.hpp>
#include <bsconv/data/windows.hpp>

// This header needs libpng and libjpeg-turbo, so it is not part of <bsconv/data.hpp>.

namespace bsconv::data {

/// What becomes of an image that cannot be decoded.
enum class BrokenImages {
  /// An error that names it.
  stop,
  /// A warning that names it, once; the batch is smaller by one. If none is left, a shuffled epoch
  /// has its next readable image instead, another one an empty batch.
  skip,
};

/// Batches of image files that are read, decoded and brought to one size by whoever asks for them:
/// the workers of a `Prefetcher`, which keep few batches in memory.
///
/// The order of an epoch follows from the seed and the epoch, an image's geometry from the seed,
/// the epoch and the image, the rest of the augmentation from the seed, the epoch and the batch's
/// index: the number of workers changes nothing. Of a JPEG only the part that is wanted is decoded,
/// at the smallest scale that suffices.
class FileLoader : public BatchSource {
 public:
  /// Throws if the batch size is not positive or no batch is left.
  FileLoader(FileDataset dataset, ImageGeometry geometry, LoaderOptions options = {},
             BrokenImages broken = BrokenImages::stop)
      : dataset_(std::move(dataset)),
        geometry_(std::move(geometry)),
        options_(std::move(options)),
        skip_(broken == BrokenImages::skip),
        order_(dataset_.size(), options_.batch_size(), options_.shuffle(), options_.drop_last(),
               options_.seed(), options_.shard()) {}

  int64_t num_batches() const override { return order_.num_batches(); }

  int64_t num_examples() const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return order_.num_examples() - static_cast<int64_t>(broken_.size());
  }

  Shard shard() const override { return options_.shard(); }

  torch::Device device() const override { return options_.device(); }

  Batch get(int64_t epoch, int64_t index) const override {
    const auto records = order_.records(epoch, index);
    const bool direct = !options_.augmentation() && options_.device().is_cpu();
    const int64_t count = records.size(0);
    const auto size = geometry_.size();
    auto images = torch::empty(
        {count, 3, size.height, size.width},
        torch::TensorOptions(direct ? torch::kFloat : torch::kByte)
            .memory_format(direct ? options_.memory_format() : torch::MemoryFormat::Contiguous));
    auto labels = torch::empty({count}, torch::kLong);
    int64_t filled = 0;
    const auto fill_from = [&](const torch::Tensor& candidates, int64_t limit) {
      for (int64_t i = 0; i < candidates.size(0) && filled < limit; ++i) {
        const int64_t record = candidates.const_data_ptr<int64_t>()[i];
        if (fill(images[filled], record, epoch)) {
          labels[filled++] = dataset_.label(record);
        }
      }
    };
    fill_from(records, count);
    if (options_.shuffle()) {
      for (int64_t next = 1; filled == 0 && next < num_batches(); ++next) {
        fill_from(order_.records(epoch, (index + next) % num_batches()), 1);
      }
    }
    TORCH_CHECK(filled > 0 || (!options_.shuffle() && num_examples() > 0),
                "none of the images can be read; the first is ",
                dataset_.full_name(records[0].item<int64_t>()));
    images = images.narrow(0, 0, filled).to(options_.device());
    auto generator = order_.shard_generator(epoch, index);
    auto batch =
        detail::finish_batch(std::move(images), labels.narrow(0, 0, filled), dataset_.num_classes(),
                             options_, options_.augmentation(), generator);
    batch.share = order_.share(index);
    return batch;
  }

  /// The files.
  const FileDataset& dataset() const noexcept { return dataset_; }
  /// How they become images of one size.
  const ImageGeometry& geometry() const noexcept { return geometry_; }
  /// The options it was made with.
  const LoaderOptions& options() const noexcept { return options_; }

  /// The images left out so far, as messages call them, sorted.
  std::vector<std::string> broken_images() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {broken_.begin(), broken_.end()};
  }

 private:
  /// Writes image `record` to `target`, [3, H, W]; false if it is broken and may be left out.
  bool fill(const torch::Tensor& target, int64_t record, int64_t epoch) const {
    ImageRandom random(detail::mix_seed(options_.seed(), detail::Draw::image, epoch, record));
    const auto name = dataset_.full_name(record);
    try {
      const auto [pixels, plan] =
          detail::decode_planned(dataset_.read(record), name, geometry_, random);
      if (target.scalar_type() == torch::kByte) {
        detail::copy_window<uint8_t>(pixels, plan.top, plan.left, plan.mirrored, target);
      } else {
        detail::copy_window<float>(pixels, plan.top, plan.left, plan.mirrored, target);
      }
      return true;
    } catch (c10::Error& error) {
      if (error.msg().find(name) == std::string::npos) {
        error.add_context(name);
      }
      if (!skip_) {
        throw;
      }
      const std::lock_guard<std::mutex> lock(mutex_);
      if (broken_.insert(name).second) {
        TORCH_WARN("left out: ", error.what_without_backtrace());
      }
      return false;
    }
  }

  FileDataset dataset_;
  ImageGeometry geometry_;
  LoaderOptions options_;
  bool skip_;
  detail::EpochOrder order_;
  mutable std::mutex mutex_;
  mutable std::set<std::string> broken_;
};

/// Decodes all files once: a set that is small enough for memory. `geometry` must leave nothing to
/// chance to be fair. Throws `c10::Error` that names the first broken image.
inline ImageDataset load_into_memory(const FileDataset& files, const ImageGeometry& geometry) {
  const auto size = geometry.size();
  auto images = torch::empty({files.size(), 3, size.height, size.width}, torch::kByte);
  auto labels = torch::empty({files.size()}, torch::kLong);
  for (int64_t i = 0; i < files.size(); ++i) {
    ImageRandom random(static_cast<uint64_t>(i));
    const auto [pixels, plan] =
        detail::decode_planned(files.read(i), files.full_name(i), geometry, random);
    detail::copy_window<uint8_t>(pixels, plan.top, plan.left, plan.mirrored, images[i]);
    labels[i] = files.label(i);
  }
  return {std::move(images), std::move(labels), files.class_names()};
}

}  // namespace bsconv::data
