// SPDX-License-Identifier: BSD-3-Clause-Clear
// Images per second of a loader alone:
//     bsconv_data_loading cifar100|image_folder ROOT WORKERS SECONDS [channels_last]
#include <bsconv/data.hpp>
#include <bsconv/data/file_loader.hpp>

#include <chrono>
#include <cstdint>
#include <exception>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

namespace {

namespace data = bsconv::data;

std::unique_ptr<data::BatchSource> open(const std::string& name, const std::string& root,
                                        bool channels_last) {
  auto options = data::LoaderOptions().batch_size(128).shuffle(true);
  if (channels_last) {
    options.memory_format(torch::MemoryFormat::ChannelsLast);
  }
  if (name == "cifar100") {
    return std::make_unique<data::DataLoader>(data::load_cifar100(root, data::Split::train),
                                              options.augmentation(data::crop_and_flip(4)));
  }
  TORCH_CHECK(name == "image_folder", "cifar100 and image_folder can be timed, not '", name, "'");
  return std::make_unique<data::FileLoader>(
      data::load_image_folder(root, data::Split::train),
      data::ImageGeometry::random_resized_crop(224).horizontal_flip(0.5), options);
}

/// Images per second over whole epochs that take at least `seconds`, after one that does not count.
double images_per_second(const data::BatchSource& source, int64_t workers, double seconds) {
  using Clock = std::chrono::steady_clock;
  auto start = Clock::now();
  int64_t images = 0;
  std::chrono::duration<double> passed(0);
  for (int64_t epoch = 0; epoch < 2 || passed.count() < seconds; ++epoch) {
    if (epoch == 1) {
      start = Clock::now();
      images = 0;
    }
    data::Prefetcher batches(source, epoch, 0, workers);
    while (batches.has_next()) {
      images += batches.next().images.size(0);
    }
    passed = Clock::now() - start;
  }
  return static_cast<double>(images) / passed.count();
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() != 4 && !(arguments.size() == 5 && arguments[4] == "channels_last")) {
    std::cerr << "usage: bsconv_data_loading cifar100|image_folder ROOT WORKERS SECONDS "
                 "[channels_last]\n";
    return 2;
  }
  try {
    const auto source = open(arguments[0], arguments[1], arguments.size() == 5);
    std::cout << images_per_second(*source, std::stoll(arguments[2]), std::stod(arguments[3]))
              << '\n';
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
