// SPDX-License-Identifier: BSD-3-Clause-Clear
// Our augmentation beside torchvision's on the same images: golden values of small ones, and, where
// there is a Python with torchvision, larger ones with parameters that are drawn here.
#include <gtest/gtest.h>
#include <bsconv/data/auto_augment.hpp>
#include <bsconv/data/erase.hpp>
#include <bsconv/data/geometry.hpp>
#include <bsconv/data/loader.hpp>
#include <bsconv/weights.hpp>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "support/images.hpp"
#include "support/python.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace data_torchvision_test {
namespace {

using bsconv::data::AugmentOperation;
using Values = std::vector<std::vector<double>>;

/// Column `index` of the values, one an image.
torch::Tensor column(const Values& values, std::size_t index) {
  std::vector<double> numbers;
  for (const auto& row : values) {
    numbers.push_back(row.empty() ? 0 : row.at(index));
  }
  return torch::tensor(numbers, torch::kDouble);
}

torch::Tensor whole(const Values& values, std::size_t index) {
  return column(values, index).to(torch::kLong);
}

torch::Tensor crop_flip(const torch::Tensor& images, const Values& values) {
  const auto padding = static_cast<int64_t>(values[0][0]);
  bsconv::data::detail::Windows windows;
  windows.size = {images.size(2), images.size(3)};
  windows.top = whole(values, 1) - padding;
  windows.left = whole(values, 2) - padding;
  windows.mirrored = column(values, 3) > 0;
  const auto result = bsconv::data::detail::copy_windows<uint8_t>(images, windows);
  // The way of other types and devices.
  const auto mirrored = windows.mirrored.view({-1, 1, 1, 1});
  const auto cut = bsconv::data::detail::cut_windows(images.to(torch::kInt), windows, padding);
  EXPECT_TRUE(torch::where(mirrored, cut.flip({3}), cut).equal(result.to(torch::kInt)));
  for (const auto format : {torch::MemoryFormat::Contiguous, torch::MemoryFormat::ChannelsLast}) {
    const auto scaled = bsconv::data::detail::copy_windows<float>(images, windows, format);
    EXPECT_TRUE(scaled.is_contiguous(format));
    EXPECT_TRUE(scaled.equal(result.to(torch::kFloat).div_(255)));
  }
  return result;
}

torch::Tensor resized_crop(const torch::Tensor& images, const Values& values) {
  std::vector<bsconv::data::ImagePlan> plans;
  for (const auto& row : values) {
    const auto at = [&](std::size_t i) { return static_cast<int64_t>(row[i]); };
    bsconv::data::ImagePlan plan;
    plan.region_top = at(0);
    plan.region_left = at(1);
    plan.region = {at(2), at(3)};
    plans.push_back(plan);
  }
  return bsconv::data::resized_crop(
      images, plans, {static_cast<int64_t>(values[0][4]), static_cast<int64_t>(values[0][5])});
}

torch::Tensor erase(const torch::Tensor& images, const Values& values) {
  const auto top = whole(values, 0);
  const auto left = whole(values, 1);
  return bsconv::data::erase(
      images, torch::stack({top, top + whole(values, 2), left, left + whole(values, 3)}, 1));
}

/// How far we may be from torchvision: values, and the share of pixels that may differ more because
/// a place lies exactly between two pixels.
struct Tolerance {
  int value = 0;
  double share = 0;
};

struct Operation {
  std::function<torch::Tensor(const torch::Tensor&, const Values&)> run;
  Tolerance tolerance;
};

std::map<std::string, Operation> operations() {
  namespace data = bsconv::data;
  const auto size = [](const Values& values) {
    return data::ImageSize(static_cast<int64_t>(values[0][0]), static_cast<int64_t>(values[0][1]));
  };
  const auto one = [](auto function, Tolerance tolerance) {
    return Operation{[function](const torch::Tensor& images, const Values& values) {
                       return function(images, column(values, 0));
                     },
                     tolerance};
  };
  const auto moved = [](AugmentOperation operation) {
    return Operation{[operation](const torch::Tensor& images, const Values& values) {
                       return data::apply_operation(operation, images, column(values, 0));
                     },
                     Tolerance{0, 0.005}};
  };
  return {
      {"crop_flip", {crop_flip, {}}},
      {"center_crop",
       {[size](const auto& images, const auto& v) { return data::center_crop(images, size(v)); },
        {}}},
      {"resize",
       {[size](const auto& images, const auto& v) {
          return data::resize_image(images, size(v).height, size(v).width);
        },
        {1}}},
      {"resized_crop", {resized_crop, {1}}},
      {"erase", {erase, {}}},
      {"brightness", one(data::adjust_brightness, {1})},
      {"contrast", one(data::adjust_contrast, {1})},
      {"saturation", one(data::adjust_saturation, {1})},
      {"hue", one(data::adjust_hue, {1})},
      {"sharpness", one(data::adjust_sharpness, {1})},
      {"posterize", one(data::posterize, {})},
      {"solarize", one(data::solarize, {})},
      {"autocontrast",
       {[](const auto& images, const auto&) { return data::autocontrast(images); }, {1}}},
      {"equalize", {[](const auto& images, const auto&) { return data::equalize(images); }, {}}},
      {"shear_x", moved(AugmentOperation::shear_x)},
      {"shear_y", moved(AugmentOperation::shear_y)},
      {"translate_x", moved(AugmentOperation::translate_x)},
      {"translate_y", moved(AugmentOperation::translate_y)},
      {"rotate", moved(AugmentOperation::rotate)},
  };
}

void expect_near(const torch::Tensor& found, const torch::Tensor& expected, Tolerance tolerance,
                 const std::string& what) {
  ASSERT_EQ(found.sizes(), expected.sizes()) << what;
  ASSERT_EQ(found.scalar_type(), torch::kByte) << what;
  const auto difference = (found.to(torch::kInt) - expected.to(torch::kInt)).abs();
  const auto off = difference.gt(tolerance.value).to(torch::kDouble).mean().item<double>();
  EXPECT_LE(off, tolerance.share) << what << ": differs by up to " << difference.max().item<int>();
}

TEST(DataTorchvision, GoldenValues) {
  const auto axis = [](int64_t size, std::vector<int64_t> shape) {
    return torch::arange(size).view(shape);
  };
  const auto n = axis(2, {2, 1, 1, 1});
  const auto c = axis(3, {1, 3, 1, 1});
  const auto y = axis(8, {1, 1, 8, 1});
  const auto x = axis(10, {1, 1, 1, 10});
  const auto images = ((y * y * 7 + x * 31 + c * 50 + x * y * 3 + n * 97) % 256).to(torch::kByte);
  const auto before = images.clone();
  auto all = operations();
  std::ifstream file(BSCONV_TEST_DATA_DIR "/augment.jsonl");
  for (std::string line; std::getline(file, line);) {
    const auto golden = nlohmann::json::parse(line);
    const auto name = golden.at("operation").get<std::string>();
    const auto operation = all.at(name);
    const auto expected = torch::tensor(golden.at("expected").get<std::vector<int64_t>>())
                              .view(golden.at("shape").get<std::vector<int64_t>>());
    expect_near(operation.run(images, golden.at("values").get<Values>()), expected,
                operation.tolerance, name);
    all.erase(name);
  }
  EXPECT_TRUE(all.empty()) << "no golden values of " << all.begin()->first;
  EXPECT_TRUE(images.equal(before));
}

/// Parameters for five images of 48 x 56.
Values draw(const std::string& operation, std::mt19937& random) {
  const auto real = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  const auto integer = [&](int low, int high) {
    return static_cast<double>(std::uniform_int_distribution<int>(low, high)(random));
  };
  const double height = integer(10, 70);
  const double width = integer(10, 70);
  Values values;
  for (int i = 0; i < 5; ++i) {
    if (operation == "crop_flip") {
      values.push_back({4, integer(0, 8), integer(0, 8), integer(0, 1)});
    } else if (operation == "center_crop" || operation == "resize") {
      values.push_back({height, width});
    } else if (operation == "resized_crop") {
      const double h = integer(5, 48);
      const double w = integer(5, 56);
      values.push_back({integer(0, 48 - static_cast<int>(h)), integer(0, 56 - static_cast<int>(w)),
                        h, w, height, width});
    } else if (operation == "erase") {
      values.push_back({integer(0, 20), integer(0, 20), integer(1, 28), integer(1, 36)});
    } else if (operation == "hue") {
      values.push_back({real(-0.5, 0.5)});
    } else if (operation == "posterize") {
      values.push_back({integer(0, 8)});
    } else if (operation == "solarize") {
      values.push_back({real(0, 255)});
    } else if (operation == "autocontrast" || operation == "equalize") {
      values.emplace_back();
    } else if (operation == "rotate") {
      values.push_back({real(-135, 135)});
    } else if (operation == "translate_x" || operation == "translate_y") {
      values.push_back({real(-32, 32)});
    } else if (operation == "shear_x" || operation == "shear_y") {
      values.push_back({real(-0.99, 0.99)});
    } else {
      values.push_back({real(0, 2)});
    }
  }
  return values;
}

TEST(DataTorchvision, SameImagesInPython) {
  const std::string python = bsconv_test::python();
  if (python.empty()) {
    GTEST_SKIP() << "configure with -DBSCONV_TEST_PYTHON=/path/to/python, one that has torchvision";
  }
  torch::manual_seed(1);
  const auto images = torch::stack(
      {torch::randint(0, 256, {3, 48, 56}, torch::kByte), bsconv_test::soft_image(48, 56),
       bsconv_test::soft_image(48, 56, 3), torch::full({3, 48, 56}, 77, torch::kByte),
       torch::randint(90, 130, {3, 48, 56}, torch::kByte)});
  const bsconv_test::TemporaryDirectory folder;
  bsconv::weights::StateDict given;
  given.insert("images", images);
  bsconv::weights::save_weights(folder / "images.pth", given);
  std::mt19937 random(4);
  std::vector<std::pair<std::string, Values>> requests;
  std::string lines;
  const auto request = [&](const std::string& name, const Values& values) {
    requests.emplace_back(name, values);
    lines += nlohmann::json({{"operation", name}, {"values", values}}).dump() + "\n";
  };
  const auto all = operations();
  for (const auto& [name, operation] : all) {
    for (int repeat = 0; repeat < 4; ++repeat) {
      request(name, draw(name, random));
    }
  }
  request("mix", {{0.3}});
  request("mix", {{5, 0, 40, 31}});
  bsconv_test::write_file(folder / "requests.jsonl", lines);
  const std::string command = "'" + python +
                              "' '" BSCONV_TEST_DATA_DIR "/../python/augment.py' compare '" +
                              folder.path().native() + "'";
  ASSERT_EQ(std::system(command.c_str()), 0);
  const auto results = bsconv::weights::load_weights(folder / "results.pth").tensors;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto& [name, values] = requests[i];
    const auto expected = results[std::to_string(i)];
    if (name != "mix") {
      const auto& operation = all.at(name);
      expect_near(operation.run(images, values), expected, operation.tolerance,
                  name + " " + nlohmann::json(values).dump());
      continue;
    }
    const bsconv::data::Batch batch{images.to(torch::kFloat) / 255, torch::arange(5)};
    const auto at = [&](std::size_t place) { return static_cast<int64_t>(values[0][place]); };
    const auto mixed = values[0].size() == 1
                           ? bsconv::data::blend_images(batch, 5, values[0][0])
                           : bsconv::data::paste_images(batch, 5, at(0), at(1), at(2), at(3));
    EXPECT_TRUE(mixed.images.allclose(expected, 0, 1e-6));
    EXPECT_TRUE(mixed.targets.allclose(results[std::to_string(i) + ".targets"], 0, 1e-6));
    EXPECT_TRUE(mixed.labels.equal(batch.labels));
  }
}

}  // namespace
}  // namespace data_torchvision_test
