// SPDX-License-Identifier: BSD-3-Clause-Clear
// What the real program says of models: their cost, what they are worth, what they see.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/version.h>
#include <bsconv/data/digits.hpp>
#include <bsconv/plot/csv_table.hpp>
#include <bsconv/version.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iomanip>
#include <sstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "support/process.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace cli_models_test {
namespace {

using bsconv_test::Environment;
using bsconv_test::Process;
using bsconv_test::read_file;
using bsconv_test::Result;
using bsconv_test::run;
using bsconv_test::write_file;
using testing::HasSubstr;
using testing::Not;

class CliModels : public bsconv_test::ProgramTest {
 protected:
  static Result run_with(const Environment& environment, std::vector<std::string> arguments) {
    return Process(std::move(arguments), environment).wait();
  }
};

TEST_F(CliModels, ProfilesByNameAndShape) {
  const auto cost = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"profile", "--format", "json"});
    const auto result = run(std::move(arguments));
    EXPECT_EQ(result.code, 0) << result.output;
    const auto json = nlohmann::json::parse(result.output);
    return std::pair(json.at("params").get<int64_t>(), json.at("flops").get<int64_t>());
  };
  EXPECT_EQ(cost({"cifar_resnet20_bsconvu"}), std::pair(int64_t{46570}, int64_t{7856484}));
  const auto ten = cost({"cifar_resnet20_bsconvu", "--classes", "10"});
  EXPECT_EQ(ten, std::pair(int64_t{46570 - 90 * 65}, int64_t{7856484 - 90 * 65}));
  const auto batch = cost({"cifar_resnet20_bsconvu", "--input", "4x3x32x32"});
  EXPECT_EQ(batch.second, 4 * int64_t{7856484});
  EXPECT_LT(cost({"cifar_resnet20_bsconvu", "--input", "1x32x32"}).first, 46570);
  EXPECT_GT(cost({"cifar_resnet20_bsconvu", "--convention", "complete"}).second, 7856484);

  const auto table = run({"profile", "cifar_resnet20_bsconvu", "--depth", "1", "--sort", "params"});
  EXPECT_THAT(table.output, HasSubstr("46,570"));
  EXPECT_THAT(table.output, Not(HasSubstr("unit1")));
  EXPECT_LT(table.output.find("backbone"), table.output.find("classifier"));
  EXPECT_THAT(run({"profile", "cifar_resnet20", "--format", "markdown"}).output, HasSubstr("| "));
  const auto csv = run({"profile", "cifar_resnet20", "--format", "csv", "--time", "1"}).output;
  EXPECT_GT(std::count(csv.begin(), csv.end(), '\n'), 50);
}

TEST_F(CliModels, KnowsDigits) {
  const auto digits = bsconv::data::digits(bsconv::data::Split::test);
  std::vector<std::string> arguments = {"predict", "--model", "CIFAR_ResNet20_BSConvU.Digits",
                                        "--top", "1"};
  constexpr int64_t count = 20;
  for (int64_t i = 0; i < count; ++i) {
    const auto pixels = digits.images()[i][0].contiguous();
    const auto file = path(std::to_string(i) + ".pgm");
    write_file(file, "P5 " + std::to_string(pixels.size(1)) + " " + std::to_string(pixels.size(0)) +
                         " 255\n" +
                         std::string(reinterpret_cast<const char*>(pixels.const_data_ptr()),
                                     static_cast<std::size_t>(pixels.numel())));
    arguments.push_back(file);
  }
  const auto result = run(arguments);
  ASSERT_EQ(result.code, 0) << result.output;
  std::istringstream lines(result.output);
  int64_t right = 0;
  for (int64_t i = 0; i < count; ++i) {
    std::string file;
    std::string answer;
    if (i == 0) {
      std::getline(lines, file);
      EXPECT_EQ(file, "model cifar_resnet20_bsconvu.digits");
    }
    std::getline(lines, file);
    std::getline(lines, answer);
    const auto label = static_cast<std::size_t>(digits.labels()[i].item<int64_t>());
    const auto& name = digits.class_names()[label];
    right += answer.size() > name.size() && answer.substr(answer.size() - name.size()) == name;
  }
  EXPECT_GE(right, 18) << result.output;

  const auto evaluated = run({"evaluate", "--pretrained", "cifar_resnet20_bsconvu.digits"});
  EXPECT_EQ(evaluated.code, 0) << evaluated.output;
  EXPECT_THAT(evaluated.output, HasSubstr("top-1 98.61 %"));
  EXPECT_EQ(run({"evaluate", "--pretrained", "cifar_resnet20_bsconvu.digits", "--no-ema"}).code, 2);
}

TEST_F(CliModels, MakesATrainedModelOfARun) {
  const std::string tiny = "cifar_mobilenetv1_w1d4_bsconvu";
  const auto trained = run({"train", "--architecture", "CIFAR_MobileNetV1_w1d4_BSConvU", "--epochs",
                            "2", "--learning-rate", "0.05", "--seed", "3", "--out", path("run")});
  ASSERT_EQ(trained.code, 0) << trained.output;
  std::filesystem::create_directory(directory / "models");
  const auto refused = [&](const std::string& flag, const std::string& value) {
    const auto result =
        run({"package", "--checkpoint", path("run"), "--out", path("models"), flag, value});
    EXPECT_EQ(result.code, 1);
    EXPECT_TRUE(std::filesystem::is_empty(directory / "models"));
    return result.output;
  };
  EXPECT_THAT(refused("--hardware", "\xff"), HasSubstr("key 'hardware': a text is not UTF-8"));
  const auto packaged = run({"package", "--checkpoint", path("run"), "--out", path("models"),
                             "--tag", "V2", "--hardware", "a machine", "--commit", "abc"});
  ASSERT_EQ(packaged.code, 0) << packaged.output;

  const std::vector<std::string> same_name = {"package",      "--checkpoint", path("run"), "--out",
                                              path("models"), "--tag",        "V2"};
  const auto card_file = directory / ("models/" + tiny + ".V2.json");
  const auto kept = read_file(card_file);
  const auto again = run(same_name);
  EXPECT_EQ(again.code, 2);
  EXPECT_THAT(again.output,
              HasSubstr("models' already has a trained model " + tiny + ".V2; --tag"));
  EXPECT_EQ(read_file(card_file), kept);
  auto overwriting = same_name;
  overwriting.insert(overwriting.end(), {"--overwrite", "--hardware", "a machine"});
  EXPECT_EQ(run(overwriting).code, 0);
  EXPECT_EQ(nlohmann::json::parse(read_file(card_file)).at("sha256"),
            nlohmann::json::parse(kept).at("sha256"));

  const auto metrics = bsconv::plot::CsvTable::read(directory / "run/metrics.csv");
  EXPECT_EQ(read_file(directory / "run/metrics.csv"),
            read_file(directory / ("models/" + tiny + ".V2.csv")));
  const double top1 = 100 * metrics.numbers("test_top1").back();
  const auto card = nlohmann::json::parse(read_file(directory / ("models/" + tiny + ".V2.json")));
  EXPECT_NEAR(card.at("top1").get<double>(), top1, 1e-6);
  EXPECT_LE(card.at("top1").dump().size(), std::string("12.345678").size());
  EXPECT_EQ(card.at("hardware"), "a machine");
  EXPECT_EQ(card.at("settings").at("seed"), "3");
  EXPECT_EQ(card.at("epoch"), 2);
  EXPECT_EQ(card.at("training_images"), "RandomCrop(padding=4)");
  EXPECT_EQ(card.at("test_images"), "none");

  const Environment here = {{"BSCONV_MODELS", path("models")}};
  std::ostringstream accuracy;
  accuracy << std::fixed << std::setprecision(2) << top1 << " %";
  const auto listed = run_with(here, {"models", "--pretrained", "*v2"});
  EXPECT_THAT(listed.output, HasSubstr(tiny + ".V2"));
  EXPECT_THAT(listed.output, HasSubstr(accuracy.str()));
  for (const auto& name : {tiny, tiny + ".V2", tiny + ".v2"}) {
    const auto evaluated = run_with(here, {"evaluate", "--pretrained", name});
    EXPECT_EQ(evaluated.code, 0) << evaluated.output;
    EXPECT_THAT(evaluated.output, HasSubstr(tiny + ", epoch 2, on 359 test images of digits"));
    EXPECT_THAT(evaluated.output, HasSubstr("top-1 " + accuracy.str()));
  }
}

TEST_F(CliModels, SaysWhenItsOutputGoesNowhere) {
  const auto status = std::system(
      ("'" + bsconv_test::program() + "' models 2>'" + path("error") + "' >/dev/full").c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_THAT(read_file(directory / "error"), HasSubstr("cannot write to standard output"));
}

TEST_F(CliModels, AnArgumentIsNoSecondCommand) {
  const Process process({"bench", "cifar_resnet20_bsconvu", "train"});
  const auto result = process.wait();
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.output, HasSubstr("'train'"));
  EXPECT_FALSE(std::filesystem::exists(process.directory() / "runs"));
}

TEST_F(CliModels, TellsItsVersion) {
  const auto result = run({"--version"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.output,
            std::string("bsconv ") + bsconv::version + " on LibTorch " + TORCH_VERSION + "\n");
}

TEST_F(CliModels, WritesJson) {
  const std::string name = "cifar_resnet20_bsconvu.digits";
  const auto names =
      nlohmann::json::parse(run({"models", "cifar_resnet20", "--format", "json"}).output);
  EXPECT_EQ(names, nlohmann::json::array({"cifar_resnet20"}));
  const auto cards =
      nlohmann::json::parse(run({"models", name, "--pretrained", "--format", "json"}).output);
  ASSERT_EQ(cards.size(), 1U);
  EXPECT_EQ(cards.at(0).at("name"), name);
  EXPECT_NEAR(cards.at(0).at("top1").get<double>(), 98.61, 0.005);
  EXPECT_TRUE(std::filesystem::exists(cards.at(0).at("weights").get<std::string>()));

  const auto evaluated = run({"evaluate", "--pretrained", name, "--format", "json"});
  ASSERT_EQ(evaluated.code, 0) << evaluated.output;
  // The progress before it is on standard error, which is in the same file here.
  const auto row =
      nlohmann::json::parse(evaluated.output.substr(evaluated.output.rfind("{\"model")));
  EXPECT_EQ(row.at("model"), name);
  EXPECT_EQ(row.at("images"), 359);
  EXPECT_NEAR(row.at("top1").get<double>(), 98.61, 0.005);

  write_file(directory / "a.pgm", "P5 2 1 255\n\x10\x20");
  const auto predicted =
      run({"predict", "--model", name, "--top", "2", "--format", "json", path("a.pgm")});
  ASSERT_EQ(predicted.code, 0) << predicted.output;
  const auto prediction = nlohmann::json::parse(predicted.output);
  EXPECT_EQ(prediction.at("image"), path("a.pgm"));
  EXPECT_EQ(prediction.at("model"), name);
  const auto& classes = prediction.at("classes");
  ASSERT_EQ(classes.size(), 2U);
  EXPECT_GE(classes.at(0).at("probability").get<double>(),
            classes.at(1).at("probability").get<double>());
}

TEST_F(CliModels, ADamagedCardIsItsOwnProblem) {
  write_file(directory / "models/index.json", "{}");
  const Environment here = {{"BSCONV_MODELS", path("models")}};
  const auto listed = run_with(here, {"models", "--pretrained"});
  EXPECT_EQ(listed.code, 1);
  EXPECT_THAT(listed.output,
              HasSubstr("bsconv: warning: model card '" + path("models/index.json")));
  EXPECT_THAT(listed.output, HasSubstr("no trained model in '"));
}

TEST_F(CliModels, OptionsAreChecked) {
  const struct {
    std::vector<std::string> arguments;
    std::string message;
  } cases[] = {
      {{"bench", "cifar_resnet20", "--batch", "99999999999999999999"},
       "--batch: must be a whole number from 1 to 1048576, got '99999999999999999999'"},
      {{"bench", "cifar_resnet20", "--seconds", "nan"},
       "--seconds: must be a number from 0.001 to 3600, got 'nan'"},
      {{"predict", "a.png", "--top", "0"}, "--top: must be a whole number from 1 on, got '0'"},
      {{"predict", "a.png", "--model", ""}, "--pretrained: must not be empty"},
      {{"train", "--resume", ""}, "--resume: must not be empty"},
      {{"train", "--nesterov=foo"}, "--nesterov"},
      {{"train", "--no-nesterov=false"}, "--no-nesterov takes no value"},
      {{"train", "--out=", "--nesterov"}, "--out: must not be empty"},
      {{"bench", "cifar_resnet20", "--batch", "0x10"}, "--batch: must be a whole number"},
      {{"evaluate", "--pretrained", "cifar_resnet20_bsconv"}, "there is none called"},
      {{"profile", "--input", "32x32"}, "name is required"},
      {{"evaluate", "--threads", "0"}, "--threads: must be a whole number from 1 to 1024, got '0'"},
  };
  for (const auto& item : cases) {
    const auto result = run(item.arguments);
    EXPECT_EQ(result.code, 2) << result.output;
    EXPECT_THAT(result.output, HasSubstr(item.message));
  }
  EXPECT_EQ(run({"profile", "--input", "32x32", "cifar_resnet20", "--depth", "0"}).code, 0);
}

TEST_F(CliModels, OptionsThatWouldDoNothingAreRefused) {
  const struct {
    std::vector<std::string> arguments;
    std::string message;
  } cases[] = {
      {{"profile", "cifar_resnet20", "--format", "json", "--depth", "1"}, "for the other formats"},
      {{"bench", "cifar_resnet20", "--steps", "--format", "json"}, "--steps is for"},
      {{"profile", "cifar_resnet20", "--format", "csv", "--human"}, "--human is for people"},
      {{"plot", "runs/a", "-o", "runs/b"}, "names that end in .svg or .png, got 'runs/b'"},
      {{"plot", "runs/a", "-o", path("a.svg"), "--scale", "3"}, "--scale is for PNG files"},
      {{"plot", path("."), "--tables", "*"}, "--tables is for a table of results"},
      {{"convert", "cifar_resnet20_bsconvu.digits", path("a.pth"), "--opset", "18"},
       "--opset is for .onnx"},
      {{"convert", "cifar_resnet20_bsconvu.digits", path("a.pth"), "--key", "state_dict"},
       "--key is for PyTorch's files"},
      {{"inspect", "cifar_resnet20_bsconvu.digits", "--key", "state_dict"},
       "--key is for PyTorch's files"},
  };
  for (const auto& item : cases) {
    const auto result = run(item.arguments);
    EXPECT_EQ(result.code, 2) << result.output;
    EXPECT_THAT(result.output, HasSubstr(item.message));
  }
}

}  // namespace
}  // namespace cli_models_test
