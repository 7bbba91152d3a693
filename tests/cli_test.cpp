// SPDX-License-Identifier: BSD-3-Clause-Clear
// Runs the real program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/export/onnx_writer.hpp>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/weights.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "support/process.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace cli_test {
namespace {

using bsconv_test::Process;
using bsconv_test::run;
using bsconv_test::write_file;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class Cli : public bsconv_test::ProgramTest {};

TEST_F(Cli, HelpsOnEveryCommand) {
  EXPECT_EQ(run({"--help"}).code, 0);
  EXPECT_THAT(run({"--help"}).output, HasSubstr("130 interrupted"));
  for (const std::string command :
       {"models", "profile", "bench", "train", "evaluate", "plot", "predict", "package", "inspect",
        "convert", "analyze", "replace"}) {
    const auto result = run({command, "--help"});
    EXPECT_EQ(result.code, 0) << command;
    EXPECT_THAT(result.output, HasSubstr("bsconv " + command));
  }
  const auto train = run({"train", "--help"}).output;
  for (const auto* flag :
       {"--data-root", "--dataset", "--architecture", "--workers", "--batch-size", "--epochs",
        "--learning-rate", "--schedule", "--momentum", "--weight-decay", "--alpha", "--device",
        "--seed", "--out", "--resume"}) {
    EXPECT_THAT(train, HasSubstr(flag));
  }
}

TEST_F(Cli, ListsModels) {
  const auto result = run({"models", "cifar_resnet20*"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.output, HasSubstr("cifar_resnet20_bsconvu\n"));
  EXPECT_THAT(result.output, Not(HasSubstr("mobilenet")));
  const auto none = run({"models", "nothing*"});
  EXPECT_EQ(none.code, 1);
  EXPECT_THAT(none.output, HasSubstr("no model matches 'nothing*'"));
}

TEST_F(Cli, BenchPrintsALineAModel) {
  const auto result =
      run({"bench", "cifar_resnet20_bsconvu", "cifar_mobilenetv3_small_w1", "--batch", "2",
           "--threads", "1", "--seconds", "0.01", "--format", "json"});
  ASSERT_EQ(result.code, 0) << result.output;
  std::istringstream lines(result.output);
  std::vector<std::string> models;
  for (std::string line; std::getline(lines, line);) {
    const auto row = nlohmann::json::parse(line);
    models.push_back(row.at("model"));
    EXPECT_EQ(row.at("batch"), 2);
    EXPECT_EQ(row.at("threads"), 1);
    EXPECT_EQ(row.at("fallbacks"), 0);
    EXPECT_EQ(row.at("eager"), "");
    for (const auto* way : {"eager", "eager_channels_last", "fused"}) {
      EXPECT_GT(row.at("ms").at(way).get<double>(), 0.0) << way;
    }
    EXPECT_GT(row.at("peak_share").get<double>(), 0.0);
  }
  EXPECT_THAT(models, ElementsAre("cifar_resnet20_bsconvu", "cifar_mobilenetv3_small_w1"));
  const auto table = run(
      {"bench", "cifar_resnet20_bsconvu", "--seconds", "0.01", "--steps", "--kernels", "baseline"});
  EXPECT_EQ(table.code, 0);
  EXPECT_THAT(table.output, HasSubstr("kernels baseline"));
  EXPECT_THAT(table.output, HasSubstr("depthwise 3x3 + residual + relu"));
}

TEST_F(Cli, BenchTimesTrainingAndTellsItsMemory) {
  const std::vector<std::string> flags = {"bench",   "--train",   "cifar_resnet20_bsconvu",
                                          "--batch", "4",         "--threads",
                                          "1",       "--seconds", "0.01"};
  auto json = flags;
  json.insert(json.end(), {"--format", "json"});
  const auto result = run(json);
  ASSERT_EQ(result.code, 0) << result.output;
  const auto row = nlohmann::json::parse(result.output);
  EXPECT_EQ(row.at("model"), "cifar_resnet20_bsconvu");
  EXPECT_EQ(row.at("device"), "cpu");
  EXPECT_GT(row.at("images_per_s").at("eager").get<double>(), 0.0);
  EXPECT_GT(row.at("images_per_s").at("fused").get<double>(), 0.0);
  const auto memory = row.at("peak_mib");
  EXPECT_GT(memory.at("fused").get<double>(), 1.0);
  EXPECT_LT(memory.at("fused").get<double>(), memory.at("eager").get<double>());
  const auto table = run(flags);
  EXPECT_EQ(table.code, 0);
  EXPECT_THAT(table.output, HasSubstr("fused MiB"));
}

TEST_F(Cli, ConvertsAndInspectsWeights) {
  const std::string golden = BSCONV_TEST_DATA_DIR "/pth/";
  const auto made = (directory.path() / "a.safetensors").string();
  const auto back = (directory.path() / "b.pth").string();
  const auto first = run({"convert", golden + "checkpoint.pth", made, "--rename", "0.=conv."});
  ASSERT_EQ(first.code, 0) << first.output;
  EXPECT_THAT(first.output, HasSubstr("Wrote 7 tensors"));
  ASSERT_EQ(run({"convert", made, back, "--strip", "conv."}).code, 0);
  const auto table = run({"inspect", back});
  EXPECT_EQ(table.code, 0);
  EXPECT_THAT(table.output, HasSubstr("1.running_var"));
  EXPECT_THAT(table.output, HasSubstr("pth, 7 tensors, 15 elements, 64 bytes"));
  const auto json = nlohmann::json::parse(run({"inspect", made, "--format", "json"}).output);
  EXPECT_EQ(json.at("format"), "safetensors");
  EXPECT_EQ(json.at("tensors").at(0).at("name"), "conv.weight");
  EXPECT_EQ(json.at("tensors").at(0).at("shape"), (std::vector<int64_t>{2, 2, 1, 1}));
  const auto nowhere = run({"convert", made, back, "--strip", "module."});
  EXPECT_EQ(nowhere.code, 1);
  EXPECT_THAT(nowhere.output, HasSubstr("--strip: no name begins with 'module.'"));
  EXPECT_EQ(run({"convert", made, back, "--rename", "module.=x."}).code, 1);
  const auto label = run({"convert", made, back, "--architecture", "cifar_resnet20"});
  EXPECT_EQ(label.code, 1);
  EXPECT_THAT(label.output, HasSubstr("a.safetensors: there is no '"));
  const auto missing = run({"inspect", "cifar_resnet20.pth"});
  EXPECT_EQ(missing.code, 1);
  EXPECT_THAT(missing.output, HasSubstr("'cifar_resnet20.pth' does not exist"));
  const auto trained = run({"inspect", "cifar_resnet20_bsconvu.digits"});
  EXPECT_THAT(trained.output, HasSubstr("metadata name: cifar_resnet20_bsconvu.digits\n"));
  const auto refused = run({"inspect", golden + "evil.pth"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.output, HasSubstr("posix.system"));
  EXPECT_EQ(run({"convert", made, back, "--rename", "x"}).code, 2);
  EXPECT_EQ(run({"convert", made, "c.zip"}).code, 1);
}

TEST_F(Cli, ConvertsToOnnxAndFolds) {
  const auto weights = (directory / "a.safetensors").native();
  const auto onnx = (directory / "a.onnx").native();
  const auto folded = (directory / "b.pth").native();
  const std::string name = "cifar_resnet20_bsconvs_p1d4";
  torch::manual_seed(1);
  auto model = bsconv::create_model(name, bsconv::ModelOptions().num_classes(7));
  bsconv::weights::save_weights(weights, bsconv::weights::state_dict(*model));
  const auto exported =
      run({"convert", weights, onnx, "--architecture", name, "--fold", "--opset", "18"});
  ASSERT_EQ(exported.code, 0) << exported.output;
  EXPECT_THAT(exported.output, HasSubstr(" tensors to " + onnx));
  const auto table = run({"inspect", onnx});
  EXPECT_EQ(table.code, 0);
  EXPECT_THAT(table.output, HasSubstr("input input  Float [batch, 3, 32, 32]\n"));
  EXPECT_THAT(table.output, HasSubstr("output output  Float [batch, 7]\n"));
  EXPECT_THAT(table.output, HasSubstr("tensor classifier.conv.weight  Float [7, 64, 1, 1]\n"));
  EXPECT_THAT(table.output, HasSubstr("metadata architecture: " + name));
  EXPECT_THAT(table.output, HasSubstr("onnx, operator set 18, "));
  const auto json = nlohmann::json::parse(run({"inspect", onnx, "--format", "json"}).output);
  EXPECT_EQ(json.at("opset"), 18);
  EXPECT_EQ(json.at("inputs").at(0).at("shape"), nlohmann::json::parse(R"(["batch", 3, 32, 32])"));
  bsconv::onnx::Model odd;
  odd.inputs.push_back({"no UTF-8: \xff", 1, {{-1, ""}, {4, ""}}});
  write_file(directory / "odd.onnx", bsconv::onnx::to_bytes(odd));
  const auto inspected = run({"inspect", (directory / "odd.onnx").native(), "--format", "json"});
  EXPECT_EQ(nlohmann::json::parse(inspected.output).at("inputs").at(0).at("shape"),
            nlohmann::json::parse("[null, 4]"));

  const auto made = run({"convert", weights, folded, "--architecture", name, "--fold"});
  ASSERT_EQ(made.code, 0) << made.output;
  model->eval();
  const auto x = torch::rand({2, 3, 32, 32});
  const torch::NoGradGuard no_grad;
  const auto expected = model->forward(x);
  auto small = bsconv::create_model(name, bsconv::ModelOptions().num_classes(7));
  small->eval();
  bsconv::fuse(*small);
  bsconv::weights::load_state_dict(*small, bsconv::weights::load_weights(folded).tensors);
  EXPECT_TRUE(torch::allclose(small->forward(x), expected, 1e-3, 1e-4));
  EXPECT_LT(bsconv::parameter_count(*small), bsconv::parameter_count(*model));
  const auto kept = (directory / "b.safetensors").native();
  ASSERT_EQ(run({"convert", weights, kept, "--architecture", name, "--fold"}).code, 0);
  const auto again = run({"convert", kept, onnx});
  EXPECT_EQ(again.code, 1);
  EXPECT_THAT(again.output, HasSubstr("b.safetensors' fits no model of the zoo as it is: batch "));
  const auto other = run({"convert", weights, kept, "--architecture", "cifar_resnet20_bsconvu"});
  EXPECT_EQ(other.code, 1);
  EXPECT_THAT(other.output, HasSubstr("a.safetensors' is not of a cifar_resnet20_bsconvu:\n"));
  EXPECT_LT(std::count(other.output.begin(), other.output.end(), '\n'), 40);

  EXPECT_EQ(run({"convert", weights, onnx}).code, 2);
  EXPECT_EQ(run({"convert", weights, onnx, "--architecture", "cifar_resnet21"}).code, 2);
  write_file(directory / "c.onnx", "nonsense");
  const auto broken = run({"inspect", (directory / "c.onnx").native()});
  EXPECT_EQ(broken.code, 1);
  EXPECT_THAT(broken.output, HasSubstr("no ONNX model"));
}

TEST_F(Cli, AnalyzesAndReplacesATrainedModel) {
  const auto weights = (directory.path() / "a.safetensors").string();
  const auto out = (directory.path() / "b.pth").string();
  torch::manual_seed(1);
  bsconv::weights::save_weights(
      weights, bsconv::weights::state_dict(
                   *bsconv::create_model("cifar_resnet20", bsconv::ModelOptions().num_classes(7))));
  const auto table = run({"analyze", "cifar_resnet20", "--weights", weights});
  ASSERT_EQ(table.code, 0) << table.output;
  EXPECT_THAT(table.output, HasSubstr("64x64x3x3"));
  EXPECT_THAT(run({"analyze", "cifar_resnet20", "--weights", weights, "--format", "svg"}).output,
              HasSubstr("</svg>"));
  const auto replaced = run(
      {"replace", "cifar_resnet20", "--weights", weights, "--by", "bsconvs_p1d4", "--out", out});
  ASSERT_EQ(replaced.code, 0) << replaced.output;
  EXPECT_THAT(replaced.output, HasSubstr("explains "));
  EXPECT_THAT(replaced.output, HasSubstr("the weights of a cifar_resnet20_bsconvs_p1d4"));
  auto model =
      bsconv::create_model("cifar_resnet20_bsconvs_p1d4", bsconv::ModelOptions().num_classes(7));
  bsconv::weights::load_state_dict(*model, bsconv::weights::load_weights(out).tensors);
  EXPECT_LT(bsconv::regularization_loss(*model).item<double>(), 1e-3);
  const auto svg = (directory.path() / "a.svg").string();
  ASSERT_EQ(
      run({"analyze", "cifar_resnet20", "--weights", weights, "--format", "svg", "--out", svg})
          .code,
      0);
  EXPECT_THAT(bsconv_test::read_file(svg), HasSubstr(">backbone.stage1.unit1.conv1.conv</text>"));
  EXPECT_EQ(run({"analyze", "cifar_resnet20"}).code, 2);
  EXPECT_EQ(
      run({"replace", "cifar_resnet20", "--weights", weights, "--by", "bsconvx", "--out", out})
          .code,
      2);
}

TEST_F(Cli, ReplacesBySampleImages) {
  const auto weights = (directory.path() / "a.safetensors").string();
  const auto out = (directory.path() / "b.safetensors").string();
  torch::manual_seed(2);
  bsconv::weights::save_weights(weights,
                                bsconv::weights::state_dict(*bsconv::create_model(
                                    "cifar_resnet20", bsconv::ModelOptions().num_classes(10))));
  std::vector<std::string> arguments = {"replace",
                                        "cifar_resnet20",
                                        "--weights",
                                        weights,
                                        "--by",
                                        "bsconvu",
                                        "--out",
                                        out,
                                        "--initialization",
                                        "data",
                                        "--calibration-images",
                                        "16"};
  EXPECT_EQ(run(arguments).code, 2);
  arguments.insert(arguments.end(), {"--dataset", "digits"});
  const auto single = run(arguments);
  ASSERT_EQ(single.code, 0) << single.output;
  EXPECT_THAT(single.output, HasSubstr("; output error "));
  auto named =
      bsconv::create_model("cifar_resnet20_bsconvu", bsconv::ModelOptions().num_classes(10));
  bsconv::weights::load_state_dict(*named, bsconv::weights::load_weights(out).tensors);
  const auto sums =
      run({"replace", "cifar_resnet20", "--weights", weights, "--by", "bsconvu", "--out", out,
           "--explained-variance", "0.6", "--min-explained-variance", "0.1"});
  ASSERT_EQ(sums.code, 0) << sums.output;
  EXPECT_THAT(sums.output, HasSubstr("bsconv::BSConvSum(terms="));
  EXPECT_THAT(sums.output, HasSubstr("the weights of a cifar_resnet20 with these replacements"));
  EXPECT_EQ(bsconv::weights::load_weights(out).metadata.at("architecture"), "cifar_resnet20");
  const auto none = run({"replace", "cifar_resnet20", "--weights", weights, "--by", "bsconvu",
                         "--out", out, "--min-explained-variance", "1"});
  EXPECT_EQ(none.code, 0) << none.output;
  EXPECT_THAT(none.output,
              HasSubstr("of a cifar_resnet20 to " + out + ". Nothing was replaced.\n"));
  EXPECT_THAT(none.output, Not(HasSubstr("train it on")));
}

TEST_F(Cli, WrongArgumentsExitWithTwo) {
  const struct {
    std::vector<std::string> arguments;
    std::string message;
  } cases[] = {
      {{}, "a command is required"},
      {{"dance"}, "dance"},
      {{"bench"}, "names"},
      {{"bench", "cifar_resnet21"}, "cifar_resnet21"},
      {{"bench", "cifar_resnet20", "--batch", "0"}, "--batch"},
      {{"bench", "cifar_resnet20", "--dtype", "f64"}, "--dtype"},
      {{"bench", "cifar_resnet20", "--train", "--dtype", "bf16"}, "are for inference"},
      {{"bench", "cifar_resnet20", "--train", "--steps"}, "are for inference"},
      {{"bench", "cifar_resnet20", "--dtype", "f16"},
       "on the CPU the dtype must be float32 or bfloat16, got Half"},
      {{"train", "--no-such-flag"}, "--no-such-flag"},
      {{"train", "--epochs", "many"}, "--epochs: 'many' is not a whole number"},
      {{"train", "--optimizer", "adam"}, "the nearest is 'adamw'"},
      {{"train", "--config", "/no/such.toml"}, "settings file '/no/such.toml'"},
      {{"plot"}, "runs is required"},
      {{"train", "--epochs", "-1"}, "epochs must not be negative, got -1"},
      {{"train", "--batch-size", "0"}, "batch_size must be positive, got 0"},
      {{"train", "--learning-rate", "nan"}, "learning_rate must be a positive number, got nan"},
      {{"train", "--momentum", "1.5"}, "momentum must lie in 0..1, 1 excluded, got 1.5"},
      {{"train", "--schedule", "20", "10"}, "in increasing order, got [20, 10]"},
      {{"train", "--dataset", "mnist"}, "mnist not in"},
      {{"train", "--dataset", "cifar100"}, "--data-root is required"},
      {{"train", "--device", "tpu"}, "--device 'tpu' is unknown; valid are cpu, cuda and cuda:N"},
      {{"train", "--device", "cuda:"}, "--device 'cuda:' is unknown"},
      {{"train", "--architecture", "cifar_resnet21"}, "cifar_resnet21"},
      {{"train", "--architecture", "resnet18"},
       "the model takes images of 224 x 224 pixels, those of digits"},
      {{"evaluate"}, "give one of --checkpoint, --pretrained and --weights, got none"},
      {{"predict", "a.png", "--checkpoint", "x", "--model", "y"},
       "give one of --checkpoint, --pretrained and --weights, got --checkpoint and --pretrained"},
      {{"package", "--checkpoint", "x"}, "--out is required"},
      {{"predict", "--checkpoint", "x"}, "images is required"},
  };
  for (const auto& item : cases) {
    const auto result = run(item.arguments);
    EXPECT_EQ(result.code, 2) << item.message << "\n" << result.output;
    EXPECT_THAT(result.output, HasSubstr(item.message));
  }
}

TEST_F(Cli, FailuresExitWithOneAndSayWhatAndWhere) {
  write_file(directory / "test.bin", "short");
  write_file(directory / "train.bin", "short");
  const auto root = directory.path().native();
  const auto bad_root = run({"train", "--dataset", "cifar10", "--data-root", root});
  EXPECT_EQ(bad_root.code, 1);
  EXPECT_THAT(bad_root.output, HasSubstr("CIFAR-10: no file 'data_batch_1.bin' in '" + root));
  const auto bad_size = run({"train", "--dataset", "cifar100", "--data-root", root});
  EXPECT_EQ(bad_size.code, 1);
  EXPECT_THAT(bad_size.output, HasSubstr("has 5 bytes; expected 153700000"));
  const auto no_checkpoint = run({"evaluate", "--checkpoint", root + "/none"});
  EXPECT_EQ(no_checkpoint.code, 1);
  EXPECT_THAT(no_checkpoint.output, HasSubstr("'" + root + "/none' does not exist"));
  const auto no_output = run({"train", "--epochs", "1", "--out", "/proc/run"});
  EXPECT_EQ(no_output.code, 1);
  EXPECT_THAT(no_output.output, HasSubstr("cannot make the output folder '/proc/run'"));
  const auto no_gpu = run({"train", "--device", "cuda:99"});
  EXPECT_EQ(no_gpu.code, 1);
  EXPECT_THAT(no_gpu.output, HasSubstr("--device cuda:99: there "));
}

TEST_F(Cli, TrainsResumesEvaluatesAndPredicts) {
  const auto out = (directory / "run").native();
  const std::vector<std::string> train = {"train",
                                          "--architecture",
                                          "cifar_mobilenetv1_w1d4_bsconvu",
                                          "--epochs",
                                          "1",
                                          "--learning-rate",
                                          "0.05",
                                          "--out",
                                          out};
  const auto first = run(train);
  ASSERT_EQ(first.code, 0) << first.output;
  EXPECT_THAT(first.output, HasSubstr("Params"));
  EXPECT_THAT(first.output, HasSubstr("epoch 1/1  train  10/12  loss "));
  EXPECT_THAT(first.output, HasSubstr("epoch 1/1  train  12/12  loss "));
  EXPECT_THAT(first.output, HasSubstr("epoch 1/1 done: lr 0.05, train loss "));
  for (const auto* file :
       {"best.safetensors", "last.safetensors", "log.txt", "metrics.csv", "settings.toml"}) {
    EXPECT_TRUE(std::filesystem::exists(directory / "run" / file)) << file;
  }
  EXPECT_EQ(bsconv_test::count_files(out), 6);

  const auto again = run(train);
  EXPECT_EQ(again.code, 2);
  EXPECT_THAT(again.output, HasSubstr("already holds a run; go on with it by --resume"));

  const auto resumed = run({"train", "--resume", out, "--epochs", "2"});
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr("resumed after epoch 1, batch 0"));
  EXPECT_THAT(resumed.output, HasSubstr("epoch 2/2 done: lr 0.05"));
  const auto csv = bsconv_test::read_file(out + "/metrics.csv");
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 3);

  const auto other =
      run({"train", "--resume", out, "--architecture", "cifar_resnet20", "--epochs", "2"});
  EXPECT_EQ(other.code, 1);
  EXPECT_THAT(other.output, HasSubstr("the checkpoint is of 'cifar_mobilenetv1_w1d4_bsconvu', the "
                                      "model is 'cifar_resnet20'; these tensors differ:\n"));

  const auto evaluated = run({"evaluate", "--checkpoint", out + "/last.safetensors"});
  EXPECT_EQ(evaluated.code, 0);
  EXPECT_THAT(evaluated.output, HasSubstr("on 359 test images of digits: loss "));

  std::string image = "P5 16 16 255\n";
  image.append(256, '\x40');
  write_file(directory / "a.pgm", image);
  const auto predicted =
      run({"predict", (directory / "a.pgm").native(), "--checkpoint", out, "--top", "3"});
  EXPECT_EQ(predicted.code, 0) << predicted.output;
  EXPECT_THAT(predicted.output, HasSubstr("a.pgm\n"));
  EXPECT_EQ(std::count(predicted.output.begin(), predicted.output.end(), '%'), 3);
  // Of a wide photograph, the middle counts.
  std::string square;
  std::string wide;
  for (int row = 0; row < 32; ++row) {
    std::string line;
    for (int column = 0; column < 32; ++column) {
      line += static_cast<char>(row * column % 101);
    }
    square += line;
    wide += std::string(32, '\x7f') + line + std::string(32, '\x05');
  }
  write_file(directory / "square.pgm", "P5 32 32 255\n" + square);
  write_file(directory / "wide.pgm", "P5 96 32 255\n" + wide);
  const auto both = run({"predict", (directory / "square.pgm").native(),
                         (directory / "wide.pgm").native(), "--checkpoint", out});
  EXPECT_EQ(both.code, 0) << both.output;
  const auto of_square = both.output.find("square.pgm\n") + 11;
  const auto of_wide = both.output.find("wide.pgm\n") + 9;
  EXPECT_EQ(both.output.substr(of_square, 60), both.output.substr(of_wide, 60));
  const auto broken =
      run({"predict", (directory / "run/metrics.csv").native(), "--checkpoint", out});
  EXPECT_EQ(broken.code, 1);
  EXPECT_THAT(broken.output, HasSubstr("metrics.csv' is neither PNG, JPEG nor binary PPM"));
}

TEST_F(Cli, WritesIntoANewFolderUnderRunsByDefault) {
  const Process process(
      {"train", "--architecture", "cifar_mobilenetv1_w1d4_bsconvu", "--epochs", "0"});
  const auto result = process.wait();
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("no epoch was asked for: no checkpoint"));
  EXPECT_TRUE(std::filesystem::exists(process.directory() /
                                      "runs/cifar_mobilenetv1_w1d4_bsconvu_digits_1"));
}

TEST_F(Cli, AnInterruptionEndsWithACheckpointThatGoesOnBitForBit) {
  const auto flags = [&](const std::string& out) {
    return std::vector<std::string>{
        "train", "--architecture", "cifar_mobilenetv1_w1d4_bsconvu", "--epochs", "2", "--out", out};
  };
  const auto whole = (directory / "whole").native();
  const auto parts = (directory / "parts").native();
  ASSERT_EQ(run(flags(whole)).code, 0);
  const Process process(flags(parts));
  process.wait_for("epoch 1/2  train  10/12");
  process.send(SIGINT);
  const auto interrupted = process.wait();
  EXPECT_EQ(interrupted.code, 130) << interrupted.output;
  EXPECT_THAT(interrupted.output,
              HasSubstr("interrupted; go on with: bsconv train --resume '" + parts + "'"));
  ASSERT_EQ(run({"train", "--resume", parts}).code, 0);
  const auto expected = bsconv::train::load_checkpoint(whole + "/last.safetensors");
  const auto found = bsconv::train::load_checkpoint(parts + "/last.safetensors");
  EXPECT_EQ(found.epoch, 2);
  for (const auto& item : expected.model) {
    EXPECT_TRUE(item.value().equal(found.model[item.key()])) << item.key();
  }
}

TEST_F(Cli, AKilledProcessLeavesACompleteCheckpoint) {
  const auto out = (directory / "run").native();
  const Process process(
      {"train", "--architecture", "cifar_mobilenetv1_w1d4_bsconvu", "--out", out});
  for (int i = 0; i < 6000; ++i) {
    std::error_code error;
    if (std::filesystem::exists(out + "/metrics.csv", error)) {
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  process.send(SIGKILL);
  EXPECT_EQ(process.wait().code, -SIGKILL);
  EXPECT_GE(bsconv::train::load_checkpoint(out + "/last.safetensors").epoch, 1);
  EXPECT_EQ(run({"train", "--resume", out, "--epochs", "1"}).code, 0);
}

}  // namespace
}  // namespace cli_test
