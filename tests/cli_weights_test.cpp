// SPDX-License-Identifier: BSD-3-Clause-Clear
// What the real program makes of weight files: whose they are, their classes, types and sizes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/weights.hpp>
#include <bsconv/zoo.hpp>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/process.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace cli_weights_test {
namespace {

using bsconv_test::Result;
using bsconv_test::run;
using bsconv_test::write_file;
using testing::HasSubstr;
using testing::Not;

const std::string tiny = "cifar_mobilenetv1_w1d4_bsconvu";
const std::string architecture = "cifar_resnet20_bsconvu";
const std::string digits = "cifar_resnet20_bsconvu.digits";

class CliWeights : public bsconv_test::ProgramTest {
 protected:
  /// Writes a random `tiny` for ten classes.
  void write_tiny(const std::string& name,
                  const std::map<std::string, std::string>& metadata = {}) const {
    torch::manual_seed(1);
    const auto model = bsconv::create_model(tiny, bsconv::ModelOptions().num_classes(10));
    bsconv::weights::save_weights(path(name), bsconv::weights::state_dict(*model), metadata);
  }
  /// Converts the trained model of digits with more arguments.
  void convert_digits(const std::string& name, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {"convert", digits, path(name)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto result = run(arguments);
    EXPECT_EQ(result.code, 0) << result.output;
  }
};

TEST_F(CliWeights, AreEvaluated) {
  convert_digits("a.pth");
  convert_digits("a.safetensors");
  const std::vector<std::string> start = {"evaluate", "--weights", path("a.pth")};
  const auto with = [&start](const std::vector<std::string>& more) {
    auto arguments = start;
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  };
  const auto evaluated = with({"--architecture", architecture, "--dataset", "digits"});
  ASSERT_EQ(evaluated.code, 0) << evaluated.output;
  EXPECT_THAT(evaluated.output, HasSubstr(architecture + ", on 359 test images of digits: "));
  EXPECT_THAT(evaluated.output, HasSubstr("top-1 98.61 %"));
  // A file of the program's own tells all that there is to know.
  const auto told = run({"evaluate", "--weights", path("a.safetensors"), "--format", "json"});
  ASSERT_EQ(told.code, 0) << told.output;
  const auto row = nlohmann::json::parse(told.output.substr(told.output.rfind("{\"model")));
  EXPECT_EQ(row.at("dataset"), "digits");
  EXPECT_TRUE(row.at("epoch").is_null());

  const auto expect_usage = [](const Result& result, const std::string& message) {
    EXPECT_EQ(result.code, 2) << result.output;
    EXPECT_THAT(result.output, HasSubstr(message));
  };
  expect_usage(with({"--architecture", architecture}), "--dataset is required, as '");
  expect_usage(with({"--dataset", "digits"}), "--weights needs --architecture, the model's name");
  expect_usage(with({"--checkpoint", path("a.pth")}),
               "give one of --checkpoint, --pretrained and --weights, got --checkpoint and "
               "--weights");
  expect_usage(run({"evaluate", "--pretrained", digits, "--architecture", architecture}),
               "--architecture is for --weights");
  expect_usage(with({"--architecture", architecture, "--dataset", "digits", "--no-ema"}),
               "--no-ema is for --checkpoint");
  expect_usage(run({"evaluate", "--checkpoint", path("a.pth")}),
               "a.pth' is a PyTorch weight file, not a checkpoint; use --weights");
  expect_usage(run({"predict", "x.png", "--checkpoint", path("a.safetensors")}),
               "is a safetensors file, but not a bsconv checkpoint; use --weights");
  expect_usage(run({"train", "--resume", path("a.pth")}),
               "a.pth' is a PyTorch weight file, not a checkpoint; use --weights");
}

TEST_F(CliWeights, PredictWithTheNamesThatAreKnown) {
  write_file(directory / "a.pgm", "P5 2 1 255\n\x10\x20");
  convert_digits("a.pth");
  convert_digits("a.safetensors");
  const auto predict = [this](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"predict", path("a.pgm"), "--top", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto result = run(arguments);
    EXPECT_EQ(result.code, 0) << result.output;
    return result.output;
  };
  const std::vector<std::string> from_pth = {"--weights", path("a.pth"), "--architecture",
                                             architecture};
  EXPECT_THAT(predict(from_pth), HasSubstr(" %  class "));
  auto with_names = from_pth;
  with_names.insert(with_names.end(), {"--dataset", "digits"});
  EXPECT_THAT(predict(with_names), Not(HasSubstr("class ")));
  EXPECT_THAT(predict({"--weights", path("a.safetensors")}), Not(HasSubstr("class ")));
  const auto twice = run({"predict", path("a.pgm"), "--pretrained", digits, "--dataset", "digits"});
  EXPECT_EQ(twice.code, 2);
  EXPECT_THAT(twice.output, HasSubstr("--dataset is for --weights"));
}

TEST_F(CliWeights, KeepTheNamesOfClasses) {
  convert_digits("a.safetensors");
  EXPECT_EQ(bsconv::weights::load_weights(path("a.safetensors")).metadata.at("class_names"),
            R"(["0","1","2","3","4","5","6","7","8","9"])");
  for (const auto& from : {digits, path("a.safetensors")}) {
    const auto exported = run({"convert", from, path("a.onnx")});
    ASSERT_EQ(exported.code, 0) << exported.output;
    const auto json =
        nlohmann::json::parse(run({"inspect", path("a.onnx"), "--format", "json"}).output);
    EXPECT_EQ(json.at("metadata").at("class_names"), "0\n1\n2\n3\n4\n5\n6\n7\n8\n9");
  }
  write_tiny("few.safetensors", {{"class_names", R"(["cat","dog"])"}});
  const auto wrong = run({"evaluate", "--weights", path("few.safetensors"), "--architecture", tiny,
                          "--dataset", "digits"});
  EXPECT_EQ(wrong.code, 1);
  EXPECT_THAT(wrong.output,
              HasSubstr("few.safetensors' names 2 classes, but its classifier tells 10 apart"));
}

TEST_F(CliWeights, OfOtherClassesStartWithANewClassifier) {
  write_tiny("letters.safetensors",
             {{"class_names", R"(["a","b","c","d","e","f","g","h","i","j"])"}});
  write_tiny("unknown.safetensors", {{"class_names", "another program's"}});
  const auto start = [this](const std::string& name) {
    const auto result =
        run({"train", "--architecture", tiny, "--weights", path(name), "--dry-run"});
    EXPECT_EQ(result.code, 0) << result.output;
    return result.output;
  };
  EXPECT_THAT(start("letters.safetensors"),
              HasSubstr("letters.safetensors', the classifier from random ones: in the data set, "
                        "class 0 is '0', not 'a' as in the weights\n"));
  EXPECT_THAT(start("unknown.safetensors"), HasSubstr("unknown.safetensors'\n"));
}

TEST_F(CliWeights, OfOtherTypesAreConverted) {
  convert_digits("half.pth", {"--dtype", "f16"});
  const auto half = bsconv::weights::load_weights(path("half.pth")).tensors;
  for (const auto& item : half) {
    const bool counter = item.key().find("num_batches_tracked") != std::string::npos;
    EXPECT_EQ(item.value().scalar_type(), counter ? torch::kLong : torch::kHalf) << item.key();
  }
  const auto evaluated = run({"evaluate", "--weights", path("half.pth"), "--architecture",
                              architecture, "--dataset", "digits"});
  ASSERT_EQ(evaluated.code, 0) << evaluated.output;
  EXPECT_THAT(evaluated.output, HasSubstr("half.pth' were converted from float16 to float32\n"));
  EXPECT_THAT(evaluated.output, HasSubstr("top-1 98."));
  const auto started =
      run({"train", "--dry-run", "--architecture", architecture, "--weights", path("half.pth")});
  EXPECT_EQ(started.code, 0) << started.output;
  EXPECT_THAT(started.output, HasSubstr("half.pth', converted from float16 to float32\n"));
  const auto exported =
      run({"convert", path("half.pth"), path("a.onnx"), "--architecture", architecture});
  EXPECT_EQ(exported.code, 0) << exported.output;
  EXPECT_EQ(run({"convert", path("half.pth"), path("a.safetensors"), "--dtype", "bf16"}).code, 0);
  const auto classifier =
      bsconv::weights::load_weights(path("a.safetensors")).tensors["classifier.conv.bias"];
  EXPECT_EQ(classifier.scalar_type(), torch::kBFloat16);

  const auto refused = run({"convert", digits, path("a.onnx"), "--dtype", "f16"});
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.output, HasSubstr("--dtype is for files of weights; models are exported in "
                                        "float32, got '"));
  bsconv::weights::StateDict large;
  large.insert("scale", torch::full({2}, 1e6));
  bsconv::weights::save_weights(path("large.pth"), large);
  const auto too_large = run({"convert", path("large.pth"), path("x.pth"), "--dtype", "f16"});
  EXPECT_EQ(too_large.code, 1);
  EXPECT_THAT(too_large.output,
              HasSubstr("--dtype f16: 'scale' has numbers that are too large for it"));
  // Integers in the place of weights are another thing.
  bsconv::weights::StateDict integers;
  for (const auto& item : half) {
    integers.insert(item.key(), item.value().to(torch::kLong));
  }
  bsconv::weights::save_weights(path("integers.pth"), integers);
  const auto other =
      run({"convert", path("integers.pth"), path("a.onnx"), "--architecture", architecture});
  EXPECT_EQ(other.code, 1);
  EXPECT_THAT(other.output, HasSubstr("wrong dtype"));
}

TEST_F(CliWeights, OfACheckpointThatDoesNotTellWhatItIsOf) {
  torch::manual_seed(1);
  const auto model = bsconv::create_model(tiny, bsconv::ModelOptions().num_classes(10));
  bsconv::train::Checkpoint checkpoint;
  checkpoint.model = bsconv::weights::state_dict(*model);
  const auto file = path("own.safetensors");
  bsconv::train::save_checkpoint(file, checkpoint);
  const auto message = HasSubstr(
      "own.safetensors' doesn't tell the model's architecture and classes; the program that wrote "
      "it must give them to Trainer::info");
  std::filesystem::create_directory(directory / "models");
  const std::vector<std::vector<std::string>> commands = {
      {"evaluate", "--checkpoint", file},
      {"predict", "x.png", "--checkpoint", file},
      {"package", "--checkpoint", file, "--out", path("models")}};
  for (const auto& command : commands) {
    const auto result = run(command);
    EXPECT_EQ(result.code, 1) << result.output;
    EXPECT_THAT(result.output, message);
  }
  checkpoint.info.architecture = tiny;
  bsconv::train::save_checkpoint(file, checkpoint);
  EXPECT_THAT(run(commands[0]).output, HasSubstr("doesn't tell the model's classes; the program"));
  // Its weights can be had all the same.
  const auto evaluated = run({"evaluate", "--weights", file, "--dataset", "digits"});
  EXPECT_EQ(evaluated.code, 0) << evaluated.output;
}

TEST_F(CliWeights, AreExportedForImagesOfAnySize) {
  convert_digits("a.onnx", {"--input", "48x40"});
  EXPECT_THAT(run({"inspect", path("a.onnx")}).output,
              HasSubstr("input input  Float [batch, 3, 48, 40]\n"));
  convert_digits("a.onnx", {"--input", "64"});
  EXPECT_THAT(run({"inspect", path("a.onnx")}).output,
              HasSubstr("input input  Float [batch, 3, 64, 64]\n"));
  const auto zero = run({"convert", digits, path("a.onnx"), "--input", "32x0"});
  EXPECT_EQ(zero.code, 2);
  EXPECT_THAT(zero.output, HasSubstr("--input takes N or HxW, from 1 to 8192, got 32,0"));
  const auto weights = run({"convert", digits, path("a.pth"), "--input", "64"});
  EXPECT_EQ(weights.code, 2);
  EXPECT_THAT(weights.output, HasSubstr("--input is for .onnx, got '"));
}

TEST_F(CliWeights, ReplacedLayersGetNewStatistics) {
  torch::manual_seed(2);
  bsconv::weights::save_weights(path("a.pth"),
                                bsconv::weights::state_dict(*bsconv::create_model(
                                    "cifar_resnet20", bsconv::ModelOptions().num_classes(10))));
  const auto replace = [this](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"replace", "cifar_resnet20", "--weights", path("a.pth"),
                                          "--by",    "bsconvu",        "--out",     path("b.pth")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  };
  const auto largest_mean = [this] {
    double largest = 0;
    const auto replaced = bsconv::weights::load_weights(path("b.pth")).tensors;
    for (const auto& item : replaced) {
      if (item.key().find("running_mean") != std::string::npos) {
        largest = std::max(largest, item.value().abs().max().item<double>());
      }
    }
    return largest;
  };
  const auto without = replace({});
  ASSERT_EQ(without.code, 0) << without.output;
  EXPECT_THAT(without.output, HasSubstr("train it on"));
  EXPECT_EQ(largest_mean(), 0);
  for (const std::string initialization : {"svd", "random"}) {
    const auto with = replace(
        {"--dataset", "digits", "--calibration-images", "16", "--initialization", initialization});
    ASSERT_EQ(with.code, 0) << with.output;
    EXPECT_THAT(with.output, HasSubstr(", with new statistics of its batch normalizations.\n"));
    EXPECT_GT(largest_mean(), 0.01) << initialization;
  }
  const auto unknown = replace({"--calibration-images", "16"});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.output, HasSubstr("need --dataset, the images to calibrate with"));
}

}  // namespace
}  // namespace cli_weights_test
