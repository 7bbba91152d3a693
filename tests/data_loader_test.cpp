// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <ATen/CPUGeneratorImpl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/utils.h>
#include <bsconv/data/erase.hpp>
#include <bsconv/data/every_nth_batch.hpp>
#include <bsconv/data/loader.hpp>
#include <bsconv/data/prefetch.hpp>

#include <atomic>
#include <chrono>
#include <limits>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace data_loader_test {
namespace {

using bsconv::data::DataLoader;
using bsconv::data::ImageDataset;
using bsconv::data::LoaderOptions;
using bsconv::data::Prefetcher;
using bsconv_test::error_of;
using testing::HasSubstr;

/// Image i is filled with i and has label i.
ImageDataset numbered(int64_t count) {
  const auto labels = torch::arange(count);
  return {labels.to(torch::kByte).view({-1, 1, 1, 1}).expand({-1, 3, 8, 8}), labels,
          std::vector<std::string>(static_cast<std::size_t>(count), "name")};
}

torch::Tensor labels_of_epoch(const DataLoader& loader, int64_t epoch) {
  std::vector<torch::Tensor> labels;
  for (int64_t i = 0; i < loader.num_batches(); ++i) {
    labels.push_back(loader.get(epoch, i).labels);
  }
  return torch::cat(labels);
}

TEST(DataLoader, KeepsTheOrderAndScalesToOne) {
  const DataLoader loader(numbered(10), LoaderOptions().batch_size(4));
  EXPECT_EQ(loader.num_batches(), 3);
  EXPECT_EQ(loader.num_examples(), 10);
  const auto batch = loader.get(0, 2);
  EXPECT_TRUE(batch.labels.equal(torch::tensor({8, 9}, torch::kLong)));
  EXPECT_EQ(batch.images.sizes(), torch::IntArrayRef({2, 3, 8, 8}));
  EXPECT_EQ(batch.images.scalar_type(), torch::kFloat);
  EXPECT_TRUE(batch.images[1].eq(9.0F / 255.0F).all().item<bool>());
}

TEST(DataLoader, LeavesOutASmallLastBatchOnRequest) {
  const DataLoader loader(numbered(10), LoaderOptions().batch_size(4).drop_last(true));
  EXPECT_EQ(loader.num_batches(), 2);
  EXPECT_EQ(loader.num_examples(), 8);
}

TEST(DataLoader, ShufflesEachEpochAnewFromTheSeed) {
  const auto options = LoaderOptions().batch_size(16).shuffle(true).seed(5);
  const DataLoader loader(numbered(100), options);
  const DataLoader same(numbered(100), options);
  const DataLoader other(numbered(100), LoaderOptions(options).seed(6));
  const auto first = labels_of_epoch(loader, 0);
  EXPECT_FALSE(first.equal(torch::arange(100)));
  EXPECT_TRUE(std::get<0>(first.sort()).equal(torch::arange(100)));
  EXPECT_FALSE(first.equal(labels_of_epoch(loader, 1)));
  EXPECT_TRUE(first.equal(labels_of_epoch(same, 0)));
  EXPECT_TRUE(first.equal(labels_of_epoch(loader, 0)));
  EXPECT_FALSE(first.equal(labels_of_epoch(other, 0)));
}

TEST(DataLoader, SeedsHaveNoEpochInCommon) {
  const auto options = LoaderOptions().batch_size(20).shuffle(true);
  std::set<std::vector<int64_t>> orders;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const DataLoader loader(numbered(20), LoaderOptions(options).seed(seed));
    for (int64_t epoch = 0; epoch < 8; ++epoch) {
      const auto labels = labels_of_epoch(loader, epoch);
      const auto* first = labels.const_data_ptr<int64_t>();
      orders.emplace(first, first + labels.numel());
    }
  }
  EXPECT_EQ(orders.size(), 64U);
}

TEST(DataLoader, AugmentsEachBatchFromTheSeedEpochAndIndexAlone) {
  const auto options =
      LoaderOptions().batch_size(32).seed(5).augmentation(bsconv::data::crop_and_flip(2));
  const DataLoader loader(numbered(96), options);
  const DataLoader same(numbered(96), options);
  const auto late = loader.get(3, 2).images;
  EXPECT_TRUE(late.equal(same.get(3, 2).images));
  EXPECT_FALSE(late.equal(loader.get(4, 2).images));
  const auto corners = [&](int64_t index) {
    return loader.get(0, index).images.select(1, 0).slice(1, 0, 2).slice(2, 0, 2).gt(0);
  };
  EXPECT_FALSE(corners(1).equal(corners(2)));
}

/// Images that all differ.
ImageDataset colorful(int64_t count) {
  torch::manual_seed(11);
  const auto images = torch::randint(0, 256, {count, 3, 8, 6}, torch::kByte);
  return {images, torch::arange(count) % 4, {"a", "b", "c", "d"}};
}

TEST(DataLoader, TheOnePassGivesWhatTheTransformsGive) {
  // A function is never part of the one pass.
  const bsconv::data::Augmentation separate = [](const torch::Tensor& images,
                                                 torch::Generator& generator) {
    const auto cropped = bsconv::data::RandomCrop(0, 2).apply(images, generator);
    return bsconv::data::RandomHorizontalFlip().apply(cropped, generator);
  };
  // How the crop was drawn and cut from the first release on: equal seeds must give equal images.
  const bsconv::data::Augmentation by_index = [](const torch::Tensor& images,
                                                 torch::Generator& generator) {
    const int64_t count = images.size(0);
    const auto offsets = torch::randint(0, 5, {2, count, 1}, generator, torch::kLong);
    const auto rows = offsets[0] + torch::arange(8);
    const auto columns = offsets[1] + torch::arange(6);
    const auto cropped =
        torch::constant_pad_nd(images, {2, 2, 2, 2})
            .index({torch::arange(count).view({-1, 1, 1, 1}), torch::arange(3).view({1, -1, 1, 1}),
                    rows.view({count, 1, -1, 1}), columns.view({count, 1, 1, -1})});
    const auto mirrored = torch::rand({count}, generator, torch::kDouble).lt(0.5);
    return torch::where(mirrored.view({-1, 1, 1, 1}), cropped.flip({3}), cropped);
  };
  const auto options = LoaderOptions().batch_size(12).shuffle(true).seed(4);
  const auto set = colorful(30);
  const DataLoader together(set,
                            LoaderOptions(options).augmentation(bsconv::data::crop_and_flip(2)));
  const DataLoader apart(set, LoaderOptions(options).augmentation(separate));
  const DataLoader indexed(set, LoaderOptions(options).augmentation(by_index));
  // Something behind the one pass, and a pass that begins with the flip.
  const DataLoader longer(set, LoaderOptions(options).augmentation(
                                   {bsconv::data::crop_and_flip(2), bsconv::data::Cutout(1)}));
  const DataLoader flip(
      set, LoaderOptions(options).augmentation({bsconv::data::RandomHorizontalFlip(1.0)}));
  const DataLoader plain(set, options);
  for (int64_t index = 0; index < 3; ++index) {
    const auto images = together.get(2, index).images;
    EXPECT_TRUE(images.equal(apart.get(2, index).images));
    EXPECT_TRUE(images.equal(indexed.get(2, index).images));
    const auto erased = (longer.get(2, index).images != images).any(1).sum({1, 2});
    EXPECT_LE(erased.max().item<int>(), 1);
    EXPECT_TRUE(flip.get(2, index).images.equal(plain.get(2, index).images.flip({3})));
  }
}

/// Does something else than its base.
class Zeros : public bsconv::data::RandomCrop {
 public:
  torch::Tensor apply(const torch::Tensor& images, torch::Generator&) const override {
    return torch::zeros_like(images);
  }
};

TEST(DataLoader, DerivedTransformsDoTheirOwn) {
  const DataLoader loader(numbered(4), LoaderOptions().batch_size(4).augmentation(Zeros()));
  EXPECT_EQ(loader.get(0, 0).images.abs().max().item<float>(), 0.0F);
}

TEST(DataLoader, RefusesAnAugmentationThatChangesTheType) {
  const bsconv::data::Augmentation floats(
      "Noise()", [](const torch::Tensor& images, torch::Generator& generator) {
        return images + torch::randn(images.sizes(), generator);
      });
  const std::string message =
      "' makes images of Float from those of Byte; it must keep Byte, as images are scaled to 0..1 "
      "behind it";
  const DataLoader loader(numbered(4), LoaderOptions().augmentation(floats));
  EXPECT_EQ(error_of([&] { loader.get(0, 0); }), "the augmentation 'Noise()" + message);
  const DataLoader behind(numbered(4),
                          LoaderOptions().augmentation({bsconv::data::crop_and_flip(2), floats}));
  EXPECT_EQ(error_of([&] { behind.get(0, 0); }), "the augmentation 'Noise()" + message);
  const DataLoader between(numbered(4),
                           LoaderOptions().augmentation({floats, bsconv::data::Cutout(1)}));
  EXPECT_EQ(error_of([&] { between.get(0, 0); }),
            "the augmentation 'Noise(), Cutout(side=1)" + message);
}

TEST(DataLoader, MemoryFormatChangesTheLayoutOnly) {
  const auto options = LoaderOptions().batch_size(12).seed(4);
  for (const auto& augmentation : {bsconv::data::Augmentation(), bsconv::data::crop_and_flip(2),
                                   bsconv::data::Augmentation(bsconv::data::Cutout(3))}) {
    const DataLoader plain(colorful(30), LoaderOptions(options).augmentation(augmentation));
    const DataLoader last(colorful(30), LoaderOptions(options)
                                            .augmentation(augmentation)
                                            .memory_format(torch::MemoryFormat::ChannelsLast));
    const auto images = last.get(1, 1).images;
    EXPECT_TRUE(images.is_contiguous(torch::MemoryFormat::ChannelsLast)) << augmentation;
    EXPECT_TRUE(plain.get(1, 1).images.is_contiguous()) << augmentation;
    EXPECT_TRUE(images.equal(plain.get(1, 1).images)) << augmentation;
  }
}

TEST(DataLoader, MixesAtTheEnd) {
  const auto options = LoaderOptions().batch_size(12).mixing(bsconv::data::mixup(1.0));
  const DataLoader loader(colorful(30), options);
  const auto batch = loader.get(0, 2);
  EXPECT_EQ(batch.targets.sizes(), torch::IntArrayRef({6, 4}));
  EXPECT_TRUE(batch.targets.sum(1).allclose(torch::ones({6})));
  EXPECT_TRUE(batch.images.equal(loader.get(0, 2).images));
  EXPECT_FALSE(loader.get(0, 0).targets.equal(loader.get(1, 0).targets));
  EXPECT_FALSE(DataLoader(colorful(30), LoaderOptions()).get(0, 0).targets.defined());
}

TEST(DataLoader, LeavesTheDataSetAsItIs) {
  auto set = numbered(4);
  const auto before = set.images().clone();
  const DataLoader loader(set, LoaderOptions().batch_size(4));
  loader.get(0, 0).images.fill_(7);
  EXPECT_TRUE(set.images().equal(before));
}

TEST(DataLoader, RefusesWrongOptionsAndIndices) {
  EXPECT_THAT(error_of([] { DataLoader(numbered(3), LoaderOptions().batch_size(0)); }),
              HasSubstr("batch_size must be positive, got 0"));
  EXPECT_THAT(
      error_of([] { DataLoader(numbered(3), LoaderOptions().batch_size(4).drop_last(true)); }),
      HasSubstr("a data set of 3 images gives no batch of 4"));
  const DataLoader loader(numbered(3), LoaderOptions().batch_size(2));
  EXPECT_THAT(error_of([&] { loader.get(0, 2); }),
              HasSubstr("batch 2 is out of range; an epoch has batches 0 to 1"));
  EXPECT_THAT(error_of([&] { loader.get(-1, 0); }),
              HasSubstr("epoch must not be negative, got -1"));
}

TEST(DataPrefetch, YieldsTheSameBatchesWhateverTheNumberOfWorkers) {
  const DataLoader loader(numbered(50), LoaderOptions().batch_size(7).shuffle(true).seed(1));
  for (const int64_t workers : {0, 1, 3, 20}) {
    Prefetcher batches(loader, 2, 3, workers);
    for (int64_t index = 3; index < loader.num_batches(); ++index) {
      ASSERT_TRUE(batches.has_next());
      const auto batch = batches.next();
      EXPECT_TRUE(batch.labels.equal(loader.get(2, index).labels));
      EXPECT_TRUE(batch.images.equal(loader.get(2, index).images));
    }
    EXPECT_FALSE(batches.has_next());
    EXPECT_THAT(error_of([&] { batches.next(); }), HasSubstr("8 batches are used up"));
  }
}

TEST(DataPrefetch, MakesBatchesOnTheCallersStream) {
  const DataLoader on_cpu(numbered(5), LoaderOptions());
  EXPECT_EQ(on_cpu.device(), torch::kCPU);
  const DataLoader loader(numbered(250),
                          LoaderOptions().batch_size(10).device(torch::Device(torch::kCUDA, 0)));
  EXPECT_EQ(loader.device(), torch::Device(torch::kCUDA, 0));
  EXPECT_EQ(bsconv::data::EveryNthBatch(loader, {}).device(), loader.device());
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  const c10::impl::VirtualGuardImpl guard(torch::kCUDA);
  const c10::StreamGuard beside(guard.getStreamFromGlobalPool(loader.device()));
  Prefetcher batches(loader, 0, 0, 2);
  for (int64_t index = 0; batches.has_next(); ++index) {
    const auto values = batches.next().images.mul(255).mean({1, 2, 3}).cpu();
    EXPECT_TRUE(values.round().equal(torch::arange(10 * index, 10 * index + 10, torch::kFloat)))
        << index;
  }
}

TEST(DataPrefetch, LeavesTheNumberOfThreadsAlone) {
  const int before = torch::get_num_threads();
  constexpr int threads = 3;
  torch::set_num_threads(threads);
  const DataLoader loader(numbered(50), LoaderOptions().batch_size(7));
  Prefetcher batches(loader, 0, 0, 2);
  while (batches.has_next()) {
    batches.next();
  }
  EXPECT_EQ(torch::get_num_threads(), threads);
  int in_new_thread = 0;
  std::thread([&] { in_new_thread = torch::get_num_threads(); }).join();
  EXPECT_EQ(in_new_thread, threads);
  torch::set_num_threads(before);
}

/// Counts how far ahead of the reader batches are made.
class CountingSource : public bsconv::data::BatchSource {
 public:
  int64_t num_batches() const override { return 40; }
  int64_t num_examples() const override { return 40; }
  bsconv::data::Batch get(int64_t, int64_t index) const override {
    const int64_t begun = ++begun_;
    int64_t seen = ahead_;
    while (seen < begun - taken && !ahead_.compare_exchange_weak(seen, begun - taken)) {
    }
    return {torch::full({1, 1, 1, 1}, index), torch::full({1}, index)};
  }
  int64_t ahead() const { return ahead_; }
  std::atomic<int64_t> taken = 0;

 private:
  mutable std::atomic<int64_t> begun_ = 0;
  mutable std::atomic<int64_t> ahead_ = 0;
};

TEST(DataPrefetch, MakesTwoBatchesAWorkerAheadAndNoMore) {
  CountingSource source;
  Prefetcher batches(source, 0, 0, 3);
  for (int64_t index = 0; batches.has_next(); ++index) {
    if (index % 8 == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    EXPECT_EQ(batches.next().labels.item<int64_t>(), index);
    ++source.taken;
  }
  EXPECT_GE(source.ahead(), 6);
  // One more may have begun between a batch's leaving and its being counted here.
  EXPECT_LE(source.ahead(), 7);
}

TEST(DataPrefetch, CanBeLeftInMidEpoch) {
  const DataLoader loader(numbered(50), LoaderOptions().batch_size(1));
  for (int64_t taken = 0; taken < 5; ++taken) {
    Prefetcher batches(loader, 0, 0, 4);
    for (int64_t i = 0; i < taken; ++i) {
      batches.next();
    }
  }
}

/// The source that docs/data.md shows.
class FloatImages : public bsconv::data::BatchSource {
 public:
  FloatImages(torch::Tensor images, torch::Tensor labels)
      : images_(std::move(images)), labels_(std::move(labels)) {}

  int64_t num_batches() const override { return (num_examples() + 63) / 64; }
  int64_t num_examples() const override { return images_.size(0); }

  bsconv::data::Batch get(int64_t epoch, int64_t index) const override {
    auto random = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(epoch));
    const auto order = torch::randperm(num_examples(), random, torch::kLong);
    const auto chosen = order.slice(0, 64 * index, 64 * (index + 1));
    return {images_.index_select(0, chosen), labels_.index_select(0, chosen)};
  }

 private:
  torch::Tensor images_;
  torch::Tensor labels_;
};

TEST(DataBatchSource, OneOfOnesOwnYieldsEachImageOnceAnEpoch) {
  const auto labels = torch::arange(150);
  const FloatImages source(labels.to(torch::kFloat).view({150, 1, 1, 1}), labels);
  std::vector<torch::Tensor> seen;
  for (Prefetcher batches(source, 1, 0, 2); batches.has_next();) {
    const auto batch = batches.next();
    EXPECT_TRUE(batch.images.flatten().equal(batch.labels.to(torch::kFloat)));
    seen.push_back(batch.labels);
  }
  EXPECT_EQ(seen.size(), 3U);
  EXPECT_FALSE(torch::cat(seen).equal(labels));
  EXPECT_TRUE(std::get<0>(torch::cat(seen).sort()).equal(labels));
}

class BrokenSource : public bsconv::data::BatchSource {
 public:
  int64_t num_batches() const override { return 3; }
  int64_t num_examples() const override { return 3; }
  bsconv::data::Batch get(int64_t, int64_t index) const override {
    if (index == 1) {
      throw std::runtime_error("image 1 is broken");
    }
    return {};
  }
};

TEST(DataPrefetch, HasNoMoreWorkersThanBatches) {
  const DataLoader loader(numbered(4), LoaderOptions().batch_size(2));
  Prefetcher batches(loader, 0, 0, std::numeric_limits<int64_t>::max());
  EXPECT_EQ(batches.next().labels.numel(), 2);
}

TEST(DataPrefetch, PassesOnWhatAWorkerThrows) {
  const BrokenSource source;
  for (const int64_t workers : {0, 2}) {
    Prefetcher batches(source, 0, 0, workers);
    EXPECT_NO_THROW(batches.next());
    EXPECT_THROW(batches.next(), std::runtime_error);
  }
}

TEST(DataPrefetch, RefusesWrongArguments) {
  const BrokenSource source;
  EXPECT_THAT(error_of([&] { Prefetcher(source, 0, 0, -1); }),
              HasSubstr("workers must not be negative, got -1"));
  EXPECT_THAT(error_of([&] { Prefetcher(source, 0, 4, 0); }),
              HasSubstr("batch 4 is out of range; an epoch has 3 batches"));
}

}  // namespace
}  // namespace data_loader_test
