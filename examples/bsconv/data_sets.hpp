// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/data/file_loader.hpp>

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

namespace bsconv_program {

/// The data sets `--dataset` knows.
const std::vector<std::string>& dataset_names();

/// Whether `dataset` comes with the program.
bool is_embedded(const std::string& dataset);

/// The names of the classes of `dataset` where no files are needed to know them; else empty.
std::vector<std::string> fixed_class_names(const std::string& dataset);

/// Which images are wanted, and how.
struct DataRequest {
  /// One of `dataset_names()`.
  std::string dataset;
  /// Where the data set's files lie; not used for the embedded one.
  std::filesystem::path root;
  /// Side of the square images that the model takes.
  int64_t side = 32;
  int64_t batch_size = 128;
  uint64_t seed = 0;
  torch::Device device = torch::kCPU;
  bsconv::data::BrokenImages broken_images = bsconv::data::BrokenImages::stop;
  /// What is done to training images after the data set's recipe.
  bsconv::data::Augmentation augmentation = {};
  /// How training images are mixed.
  bsconv::data::Mixing mixing = {};
  /// The part of every training batch that this process trains on.
  bsconv::data::Shard shard = {};
};

/// The batches of one split.
struct ImageSet {
  std::shared_ptr<bsconv::data::BatchSource> batches;
  std::vector<std::string> class_names;
  /// What is done to the images, in words.
  std::string preparation;
};

/// The training images in random order, augmented as the data set's recipe and then the request
/// say. A wrong data set or size is a `UsageError`.
ImageSet open_training_images(const DataRequest& request);

/// The test images.
ImageSet open_test_images(const DataRequest& request);

/// How image files become test images of `dataset`, for a model that takes `side` x `side` pixels.
bsconv::data::ImageGeometry test_geometry(const std::string& dataset, int64_t side);

/// The value of `--broken-images`.
bsconv::data::BrokenImages broken_images(const std::string& text);

/// Says how many images were left out, if any.
void report_broken_images(std::ostream& out, std::initializer_list<const ImageSet*> sets);

}  // namespace bsconv_program
