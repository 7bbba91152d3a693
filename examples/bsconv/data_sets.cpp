// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "data_sets.hpp"

#include <bsconv/data.hpp>
#include <bsconv/data/cifar_archive.hpp>
#include <bsconv/data/stanford_dogs.hpp>
#include <bsconv/util/text.hpp>

#include <algorithm>
#include <cstddef>
#include <sstream>
#include <utility>

#include "common.hpp"

namespace bsconv_program {
namespace {

namespace data = bsconv::data;

data::LoaderOptions loader_options(const DataRequest& request, data::Split split) {
  return data::LoaderOptions()
      .batch_size(request.batch_size)
      .shuffle(split == data::Split::train)
      .shard(split == data::Split::train ? request.shard : data::Shard())
      .seed(request.seed)
      .device(request.device);
}

/// Images of 32 x 32 that lie in memory.
ImageSet in_memory(const DataRequest& request, data::ImageDataset dataset, data::Split split) {
  if (request.side != 32) {
    const auto side = std::to_string(request.side);
    throw UsageError("the model takes images of " + side + " x " + side + " pixels, those of " +
                     request.dataset + " are 32 x 32; choose a name that starts with cifar_");
  }
  auto options = loader_options(request, split);
  if (split == data::Split::train) {
    // A mirrored digit is no digit.
    auto augmentation = data::crop_and_flip(4, request.dataset != "digits");
    options.augmentation(augmentation.then(request.augmentation)).mixing(request.mixing);
  }
  std::ostringstream preparation;
  preparation << options.augmentation();
  if (options.mixing()) {
    preparation << ", " << options.mixing();
  }
  auto names = dataset.class_names();
  return {std::make_shared<data::DataLoader>(std::move(dataset), options), std::move(names),
          preparation.str()};
}

ImageSet from_files(const DataRequest& request, data::FileDataset files,
                    const data::ImageGeometry& geometry, const data::LoaderOptions& options) {
  std::ostringstream preparation;
  preparation << geometry;
  if (options.augmentation()) {
    preparation << ", " << options.augmentation();
  }
  if (options.mixing()) {
    preparation << ", " << options.mixing();
  }
  auto names = files.class_names();
  return {std::make_shared<data::FileLoader>(std::move(files), geometry, options,
                                             request.broken_images),
          std::move(names), preparation.str()};
}

/// What images are scaled to before a window of `side` x `side` is cut: 256 for 224.
int64_t scaled_side(int64_t side) { return (side * 8 + 3) / 7; }

/// The reference's recipe: 256 x 256, a window of 224 x 224, or as much in proportion.
ImageSet open_dogs(const DataRequest& request, data::Split split) {
  auto options = loader_options(request, split);
  auto geometry = test_geometry(request.dataset, request.side);
  if (split == data::Split::train) {
    geometry = data::ImageGeometry::random_crop(scaled_side(request.side), request.side)
                   .horizontal_flip(0.5);
    data::Augmentation jitter = data::ColorJitter(data::ColorJitterOptions().brightness(0.4));
    options.augmentation(jitter.then(request.augmentation)).mixing(request.mixing);
  }
  return from_files(request, data::load_stanford_dogs(request.root, split), geometry, options);
}

/// What is usual for photographs: torchvision's and timm's basic recipe.
ImageSet open_image_folder(const DataRequest& request, data::Split split) {
  const auto geometry =
      split == data::Split::train
          ? data::ImageGeometry::random_resized_crop(request.side).horizontal_flip(0.5)
          : test_geometry(request.dataset, request.side);
  auto options = loader_options(request, split);
  if (split == data::Split::train) {
    options.augmentation(request.augmentation).mixing(request.mixing);
  }
  return from_files(request, data::load_image_folder(request.root, split), geometry, options);
}

ImageSet open_images(const DataRequest& request, data::Split split) {
  const auto& name = request.dataset;
  const auto& known = dataset_names();
  if (std::find(known.begin(), known.end(), name) == known.end()) {
    throw UsageError("unknown data set '" + name + "'; known are " +
                     bsconv::detail::join(known, ", "));
  }
  if (name == "digits") {
    return in_memory(request, data::digits(split), split);
  }
  if (request.root.empty()) {
    throw UsageError("--data-root is required: the directory of the " + name +
                     " files (only 'digits' is embedded)");
  }
  if (name == "cifar10") {
    return in_memory(request, data::open_cifar10(request.root, split), split);
  }
  if (name == "cifar100") {
    return in_memory(request, data::open_cifar100(request.root, split), split);
  }
  return name == "dogs" ? open_dogs(request, split) : open_image_folder(request, split);
}

}  // namespace

const std::vector<std::string>& dataset_names() {
  static const std::vector<std::string> names = {"digits", "cifar10", "cifar100", "dogs",
                                                 "image_folder"};
  return names;
}

ImageSet open_training_images(const DataRequest& request) {
  return open_images(request, data::Split::train);
}

ImageSet open_test_images(const DataRequest& request) {
  return open_images(request, data::Split::test);
}

data::ImageGeometry test_geometry(const std::string& dataset, int64_t side) {
  using data::ImageGeometry;
  using data::ResizeRule;
  if (dataset == "dogs") {
    return ImageGeometry::center_crop(scaled_side(side), side);
  }
  // The images of the small data sets fill all of their 32 x 32 pixels.
  const bool is_small = dataset == "digits" || dataset == "cifar10" || dataset == "cifar100";
  return ImageGeometry::center_crop(ResizeRule::shorter_side(is_small ? side : scaled_side(side)),
                                    side);
}

data::BrokenImages broken_images(const std::string& text) {
  return text == "skip" ? data::BrokenImages::skip : data::BrokenImages::stop;
}

void report_broken_images(std::ostream& out, std::initializer_list<const ImageSet*> sets) {
  std::size_t count = 0;
  for (const auto* set : sets) {
    if (const auto* files = dynamic_cast<const data::FileLoader*>(set->batches.get())) {
      count += files->broken_images().size();
    }
  }
  if (count > 0) {
    out << count << (count == 1 ? " image was" : " images were")
        << " left out, being broken; see the warnings\n";
  }
}

}  // namespace bsconv_program
