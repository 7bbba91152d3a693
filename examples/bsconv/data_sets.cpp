// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "data_sets.hpp"

#include <bsconv/data.hpp>
#include <bsconv/data/cifar_archive.hpp>
#include <bsconv/data/stanford_dogs.hpp>
#include <bsconv/util/text.hpp>

#include <algorithm>
#include <cstddef>
#include <iterator>
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
                     request.dataset +
                     " are 32 x 32; choose a name that starts with cifar_, or train with "
                     "--image-size 32");
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

data::ImageGeometry whole_image(int64_t side) {
  return data::ImageGeometry::center_crop(data::ResizeRule::shorter_side(side), side);
}

data::ImageGeometry middle_of_photograph(int64_t side) {
  return data::ImageGeometry::center_crop(data::ResizeRule::shorter_side(scaled_side(side)), side);
}

data::ImageGeometry middle_of_square(int64_t side) {
  return data::ImageGeometry::center_crop(scaled_side(side), side);
}

ImageSet open_digits(const DataRequest& request, data::Split split) {
  return in_memory(request, data::digits(split), split);
}

ImageSet open_cifar10(const DataRequest& request, data::Split split) {
  return in_memory(request, data::open_cifar10(request.root, split), split);
}

ImageSet open_cifar100(const DataRequest& request, data::Split split) {
  return in_memory(request, data::open_cifar100(request.root, split), split);
}

/// The reference's recipe: 256 x 256, a window of 224 x 224, or as much in proportion.
ImageSet open_dogs(const DataRequest& request, data::Split split) {
  auto options = loader_options(request, split);
  auto geometry = middle_of_square(request.side);
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
          : middle_of_photograph(request.side);
  auto options = loader_options(request, split);
  if (split == data::Split::train) {
    options.augmentation(request.augmentation).mixing(request.mixing);
  }
  return from_files(request, data::load_image_folder(request.root, split), geometry, options);
}

/// A data set that the program knows.
struct KnownDataSet {
  const char* name;
  bool is_embedded;
  ImageSet (*open)(const DataRequest&, data::Split);
  data::ImageGeometry (*test_geometry)(int64_t side);
};

constexpr KnownDataSet known_data_sets[] = {
    {"digits", true, open_digits, whole_image},
    {"cifar10", false, open_cifar10, whole_image},
    {"cifar100", false, open_cifar100, whole_image},
    {"dogs", false, open_dogs, middle_of_square},
    {"image_folder", false, open_image_folder, middle_of_photograph},
};

/// Null if there is none of that name.
const KnownDataSet* find_data_set(const std::string& name) {
  const auto* found = std::find_if(std::begin(known_data_sets), std::end(known_data_sets),
                                   [&name](const auto& known) { return name == known.name; });
  return found == std::end(known_data_sets) ? nullptr : found;
}

ImageSet open_images(const DataRequest& request, data::Split split) {
  const auto* known = find_data_set(request.dataset);
  if (known == nullptr) {
    throw UsageError("unknown data set '" + request.dataset + "'; known are " +
                     bsconv::detail::join(dataset_names(), ", "));
  }
  if (!known->is_embedded && request.root.empty()) {
    throw UsageError("--data-root is required: the directory of the " + request.dataset +
                     " files (only 'digits' is embedded)");
  }
  return known->open(request, split);
}

}  // namespace

const std::vector<std::string>& dataset_names() {
  static const auto names = [] {
    std::vector<std::string> result;
    for (const auto& known : known_data_sets) {
      result.emplace_back(known.name);
    }
    return result;
  }();
  return names;
}

bool is_embedded(const std::string& dataset) {
  const auto* known = find_data_set(dataset);
  return known != nullptr && known->is_embedded;
}

std::vector<std::string> fixed_class_names(const std::string& dataset) {
  if (!is_embedded(dataset)) {
    return {};
  }
  DataRequest request;
  request.dataset = dataset;
  return open_test_images(request).class_names;
}

ImageSet open_training_images(const DataRequest& request) {
  return open_images(request, data::Split::train);
}

ImageSet open_test_images(const DataRequest& request) {
  return open_images(request, data::Split::test);
}

data::ImageGeometry test_geometry(const std::string& dataset, int64_t side) {
  const auto* known = find_data_set(dataset);
  return known != nullptr ? known->test_geometry(side) : middle_of_photograph(side);
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
