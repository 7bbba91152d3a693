// SPDX-License-Identifier: BSD-3-Clause-Clear
// Trains, kills, resumes and draws with the real program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/train/metrics.hpp>
#include <bsconv/version.hpp>
#include <bsconv/weights.hpp>
#include <bsconv/zoo.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "support/process.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace cli_train_test {
namespace {

using bsconv::train::load_checkpoint;
using bsconv_test::Process;
using bsconv_test::read_file;
using bsconv_test::run;
using bsconv_test::write_file;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class CliTrain : public bsconv_test::ProgramTest {};

const std::string tiny = "cifar_mobilenetv1_w1d4_bsconvu";

TEST_F(CliTrain, TakesAFileOfSettingsAndWritesOneThatGivesTheSameRun) {
  write_file(directory / "recipe.toml",
             "architecture = \"" + tiny +
                 "\"\nepochs = 1\noptimizer = \"adamw\"\nlearning_rate = 0.002\n"
                 "schedule_type = \"cosine\"\nlabel_smoothing = 0.1\nema_decay = 0.9\n"
                 "exempt_norm_bias = true\naccumulate = 2\n"
                 "mixup = 0.2\ncutmix = 1.0\naugment = \"trivial\"\nrandom_erasing = 0.1\n");
  const auto first =
      run({"train", "--config", path("recipe.toml"), "--learning-rate", "0.003", "--seed", "5",
           "--no-exempt-norm-bias", "--workers", "3", "--out", path("a")});
  ASSERT_EQ(first.code, 0) << first.output;
  EXPECT_THAT(first.output, HasSubstr("learning_rate             0.003\n"));
  EXPECT_THAT(first.output, HasSubstr("optimizer                 adamw\n"));
  EXPECT_THAT(first.output, HasSubstr("exempt_norm_bias          false\n"));
  EXPECT_THAT(first.output, HasSubstr("top-5 "));
  EXPECT_THAT(first.output, HasSubstr("TrivialAugmentWide("));
  EXPECT_THAT(first.output, HasSubstr("RandomErasing("));
  EXPECT_THAT(first.output, HasSubstr("Choice(Mixup(alpha=0.2), CutMix(alpha=1))"));
  const auto settings = read_file(directory / "a/settings.toml");
  EXPECT_THAT(settings, HasSubstr(std::string("bsconv_version = \"") + bsconv::version + "\"\n"));
  EXPECT_THAT(settings, HasSubstr("learning_rate = 0.003\n"));
  EXPECT_THAT(settings, HasSubstr("seed = 5\n"));
  EXPECT_THAT(settings, HasSubstr("schedule = [100,150,180]\n"));
  const auto log = read_file(directory / "a/log.txt");
  EXPECT_THAT(log, HasSubstr("Params"));
  EXPECT_THAT(log, HasSubstr("epoch 1/1 done: "));

  const auto second = run({"train", "--config", path("a/settings.toml"), "--out", path("b")});
  ASSERT_EQ(second.code, 0) << second.output;
  const auto expected = load_checkpoint(directory / "a/last.safetensors");
  const auto found = load_checkpoint(directory / "b/last.safetensors");
  for (const auto& item : expected.ema) {
    EXPECT_TRUE(item.value().equal(found.ema[item.key()])) << item.key();
  }
  EXPECT_EQ(found.info.settings.at("mixup"), "0.2");
  const auto resumed = run({"train", "--resume", path("b")});
  EXPECT_THAT(resumed.output, HasSubstr("Choice(Mixup(alpha=0.2), CutMix(alpha=1))"));
  EXPECT_THAT(resumed.output, HasSubstr(", 3 workers\n"));
  const auto moved = run({"train", "--resume", path("b/last.safetensors"), "--dry-run"});
  EXPECT_THAT(moved.output, HasSubstr(", 1 workers\n"));

  EXPECT_THAT(first.output, HasSubstr("operators      fused ("));
  const auto lower = run({"train", "--dry-run", "--precision", "bf16"});
  EXPECT_THAT(lower.output, HasSubstr(", float32), else LibTorch's\n"));
  const auto reference = run({"train", "--dry-run", "--reference-kernels"});
  EXPECT_THAT(reference.output, HasSubstr("operators      LibTorch's\n"));

  const auto averaged = run({"evaluate", "--checkpoint", path("a")});
  EXPECT_EQ(averaged.code, 0) << averaged.output;
  EXPECT_THAT(averaged.output, HasSubstr("epoch 1, averaged weights, on 359 test images"));
  const auto own = run(
      {"evaluate", "--checkpoint", path("a"), "--no-ema", "--precision", "f32", "--channels-last"});
  EXPECT_EQ(own.code, 0) << own.output;
  EXPECT_THAT(own.output, HasSubstr("epoch 1, on 359 test images"));
}

TEST_F(CliTrain, GoesOnFromAnyDirectoryWithTheSettingsOfAFolder) {
  std::filesystem::create_directory(directory / "data");
  const auto start = "cd '" + directory.path().native() + "' && '" + bsconv_test::program() +
                     "' train --architecture " + tiny +
                     " --epochs 1 --data-root data --out run >/dev/null 2>&1";
  ASSERT_EQ(std::system(start.c_str()), 0);
  EXPECT_THAT(read_file(directory / "run/settings.toml"),
              HasSubstr("data_root = \"" + path("data") + "\"\n"));
  EXPECT_EQ(run({"train", "--resume", path("run"), "--epochs", "2"}).code, 0);
  // The same settings again, of a folder as elsewhere.
  const auto plan = run({"train", "--config", path("run"), "--dry-run"});
  EXPECT_EQ(plan.code, 0) << plan.output;
  EXPECT_THAT(plan.output, HasSubstr("architecture   " + tiny + "\n"));
  const auto empty = run({"train", "--config", directory.path().native(), "--dry-run"});
  EXPECT_EQ(empty.code, 2);
  EXPECT_THAT(empty.output, HasSubstr("settings.toml'"));
}

TEST_F(CliTrain, TheLastFlagCounts) {
  const auto nesterov = [](const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {"train", "--architecture", tiny, "--dry-run"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const auto result = run(arguments);
    EXPECT_EQ(result.code, 0) << result.output;
    return result.output.find("nesterov                  true\n") != std::string::npos;
  };
  EXPECT_TRUE(nesterov({"--no-nesterov", "--nesterov"}));
  EXPECT_FALSE(nesterov({"--nesterov", "--no-nesterov"}));
}

TEST_F(CliTrain, AClosedTerminalOrPipeEndsItWithACheckpoint) {
  const std::vector<std::string> flags = {"train", "--architecture", tiny,        "--epochs",
                                          "500",   "--out",          path("hung")};
  const Process process(flags);
  process.wait_for("epoch 1/500");
  process.send(SIGHUP);
  EXPECT_EQ(process.wait().code, 130);
  EXPECT_TRUE(std::filesystem::exists(directory / "hung/last.safetensors"));

  const auto piped = "'" + bsconv_test::program() + "' train --architecture " + tiny +
                     " --epochs 500 --out '" + path("piped") + "' 2>'" + path("error") +
                     "' | head -n 1 >/dev/null";
  ASSERT_EQ(std::system(piped.c_str()), 0);
  EXPECT_THAT(read_file(directory / "error"), HasSubstr("interrupted; go on with"));
  EXPECT_TRUE(std::filesystem::exists(directory / "piped/last.safetensors"));

  // A disk that is full of something else loses what is printed, but not the training.
  const auto full = "'" + bsconv_test::program() + "' train --architecture " + tiny +
                    " --epochs 1 --out '" + path("full") + "' 2>'" + path("error") + "' >/dev/full";
  EXPECT_EQ(WEXITSTATUS(std::system(full.c_str())), 1);
  EXPECT_EQ(load_checkpoint(directory / "full/last.safetensors").epoch, 1);
}

TEST_F(CliTrain, AWrongSettingNamesTheFileTheLineAndTheNearest) {
  write_file(directory / "recipe.toml", "epochs = 1\nlearning_rte = 0.1\n");
  const auto name = run({"train", "--config", path("recipe.toml")});
  EXPECT_EQ(name.code, 2);
  EXPECT_THAT(name.output, HasSubstr("recipe.toml', line 2: learning_rte: there is no setting "
                                     "'learning_rte'; the nearest is 'learning_rate'"));
  write_file(directory / "recipe.toml", "schedule_type = \"cosin\"\n");
  const auto value = run({"train", "--config", path("recipe.toml")});
  EXPECT_EQ(value.code, 2);
  EXPECT_THAT(value.output, HasSubstr("line 1: schedule_type: 'cosin' is unknown; valid are "
                                      "multistep, cosine, onecycle; the nearest is 'cosine'"));
  write_file(directory / "recipe.toml", "augment = \"trivia\"\n");
  EXPECT_THAT(run({"train", "--config", path("recipe.toml")}).output,
              HasSubstr("augment: 'trivia' is unknown; valid are none, trivial, rand; the nearest "
                        "is 'trivial'"));
  write_file(directory / "recipe.toml", "workers = -3\n");
  EXPECT_THAT(run({"train", "--config", path("recipe.toml")}).output,
              HasSubstr("workers must not be negative, got -3"));
}

TEST_F(CliTrain, ADryRunPrintsThePlanAndWritesNothing) {
  const Process process({"train", "--architecture", tiny, "--epochs", "10", "--schedule-type",
                         "cosine", "--accumulate", "5", "--dry-run"});
  const auto result = process.wait();
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("1438 training and 359 test images, 10 classes"));
  EXPECT_THAT(result.output, HasSubstr("Params"));
  EXPECT_THAT(result.output, HasSubstr("12 batches and 3 steps of the optimizer an epoch, 30 steps "
                                       "in 10 epochs"));
  EXPECT_THAT(result.output, HasSubstr("0.1 (epoch 1)"));
  EXPECT_THAT(result.output, HasSubstr("expected time  "));
  EXPECT_THAT(result.output, HasSubstr(" in all\n"));
  EXPECT_THAT(result.output, Not(HasSubstr("epoch 1/10")));
  EXPECT_FALSE(std::filesystem::exists(process.directory() / "runs"));
}

TEST_F(CliTrain, StartsFromTheWeightsOfAFileOrOfARun) {
  torch::manual_seed(1);
  const auto model = bsconv::create_model(tiny, bsconv::ModelOptions().num_classes(7));
  const auto weights = bsconv::weights::state_dict(*model);
  bsconv::weights::save_weights(path("seven.pth"), weights);
  // Steps this small change no weight.
  const auto first =
      run({"train", "--architecture", tiny, "--weights", path("seven.pth"), "--epochs", "1",
           "--learning-rate", "1e-30", "--weight-decay", "0", "--out", path("run")});
  ASSERT_EQ(first.code, 0) << first.output;
  EXPECT_THAT(first.output, HasSubstr("started from the weights of '" + path("seven.pth") +
                                      "', the classifier from random ones: it was for 7 classes, "
                                      "the data set has 10"));
  const auto trained = load_checkpoint(path("run/best.safetensors")).model;
  for (const auto& parameter : model->named_parameters()) {
    if (parameter.key().rfind("classifier.", 0) == 0) {
      EXPECT_EQ(trained[parameter.key()].size(0), 10) << parameter.key();
    } else {
      EXPECT_TRUE(torch::allclose(trained[parameter.key()], parameter.value(), 0, 1e-20))
          << parameter.key();
    }
  }
  // A run says what it is of.
  const auto second = run({"train", "--weights", path("run"), "--dry-run"});
  EXPECT_EQ(second.code, 0) << second.output;
  EXPECT_THAT(second.output, HasSubstr("architecture   " + tiny + "\n"));
  EXPECT_THAT(second.output, HasSubstr("weights of '" + path("run/best.safetensors") + "'\n"));

  const auto other = run({"train", "--architecture", "cifar_resnet20", "--weights", path("run")});
  EXPECT_EQ(other.code, 1);
  EXPECT_THAT(other.output, HasSubstr("the state does not fit the model"));
  const auto both = run({"train", "--weights", path("run"), "--resume", path("run")});
  EXPECT_EQ(both.code, 2);
  EXPECT_THAT(both.output, HasSubstr("--weights excludes --resume"));

  // What a run has started from is told ever after, and needed only once.
  std::filesystem::remove(path("seven.pth"));
  const auto resumed = run({"train", "--resume", path("run"), "--epochs", "2"});
  EXPECT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_EQ(load_checkpoint(path("run/last.safetensors")).info.settings.at("weights"),
            path("seven.pth"));
  EXPECT_THAT(bsconv_test::read_file(path("run/settings.toml")),
              HasSubstr("weights = \"" + path("seven.pth") + "\"\n"));

  // Other commands take a checkpoint for the model in it, and know its name.
  const auto converted = run({"convert", path("run/best.safetensors"), path("made.pth")});
  EXPECT_THAT(converted.output,
              HasSubstr("Wrote " + std::to_string(weights.size()) + " tensors to "));
  EXPECT_EQ(run({"convert", path("run"), path("made.onnx")}).code, 0);
}

TEST_F(CliTrain, LearnsFromATeacherAndGoesOnWithIt) {
  const std::string teacher = "cifar_resnet20_bsconvu.digits";
  const std::vector<std::string> command = {"train",
                                            "--architecture",
                                            tiny,
                                            "--epochs",
                                            "1",
                                            "--distillation-temperature",
                                            "2",
                                            "--teacher",
                                            teacher,
                                            "--out",
                                            path("student")};
  const auto first = run(command);
  ASSERT_EQ(first.code, 0) << first.output;
  EXPECT_THAT(first.output, HasSubstr("\nteacher        " + teacher + "\n"));
  EXPECT_THAT(first.output, HasSubstr("distillation_temperature  2\n"));
  EXPECT_THAT(read_file(directory / "student/settings.toml"),
              HasSubstr("teacher = \"" + teacher + "\"\n"));
  const auto last_loss = [this](const char* folder) {
    return load_checkpoint(directory / folder / "last.safetensors").history.back().train.loss;
  };
  // The last loss of the command with another argument at `index`.
  const auto loss_with = [&](std::size_t index, const char* value, const char* out) {
    auto changed = command;
    changed[index] = value;
    changed.back() = path(out);
    const auto result = run(changed);
    EXPECT_EQ(result.code, 0) << result.output;
    return last_loss(out);
  };
  EXPECT_NE(last_loss("student"), loss_with(8, "none", "alone"));

  // Two epochs at once are one, an interruption, and another.
  const auto resumed = run({"train", "--resume", path("student"), "--epochs", "2"});
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr("\nteacher        " + teacher + "\n"));
  ASSERT_EQ(load_checkpoint(path("student/last.safetensors")).epoch, 2);
  EXPECT_EQ(last_loss("student"), loss_with(4, "2", "whole"));

  // A run's folder teaches too; a model for other classes doesn't.
  EXPECT_EQ(run({"train", "--architecture", tiny, "--dry-run", "--teacher", path("student")}).code,
            0);
  const auto other = run({"train", "--teacher", "cifar_resnet20_bsconvu.cifar100"});
  EXPECT_EQ(other.code, 1);
  EXPECT_THAT(other.output,
              HasSubstr("the teacher 'cifar_resnet20_bsconvu.cifar100' was trained on cifar100 and "
                        "knows other classes than digits: the number of classes is 100, not 10"));
  EXPECT_THAT(run({"train", "--teacher", "cifar_resnet2_bsconvu"}).output,
              HasSubstr("'cifar_resnet20_bsconvu"));
}

TEST_F(CliTrain, DrawsRunsAndResults) {
  const std::string header = "epoch,train_loss,train_top1,test_loss,test_top1\n";
  write_file(directory / "a/metrics.csv", header + "1,2,0.25,3,0.5\n2,1,0.75,2,0.6\n");
  write_file(directory / "b/metrics.csv", header + "1,3,0.2,3,0.4\n");
  const auto both = run({"plot", path("a"), path("b"), "--title", "Two runs"});
  EXPECT_EQ(both.code, 0) << both.output;
  EXPECT_THAT(read_file(directory / "a/curves.svg"), HasSubstr("</svg>"));
  EXPECT_EQ(read_file(directory / "a/curves.png").substr(1, 3), "PNG");
  const std::string results = BSCONV_MODELS_DIR "/results.csv";
  const auto table = run({"plot", results, "--tables", "CIFAR100 - ResNets", "-o", path("r.svg")});
  EXPECT_EQ(table.code, 0) << table.output;
  EXPECT_TRUE(std::filesystem::exists(directory / "r.svg"));
  EXPECT_EQ(run({"plot", results, path("a")}).code, 2);
  const auto missing = run({"plot", path("none")});
  EXPECT_EQ(missing.code, 1);
  EXPECT_THAT(missing.output, HasSubstr("none'"));
}

TEST_F(CliTrain, ARunHasItsFolderForItself) {
  const auto flags = [this](const char* out) {
    return std::vector<std::string>{"train", "--architecture", tiny,     "--epochs",
                                    "50",    "--out",          path(out)};
  };
  const Process first(flags("one"));
  first.wait_for("epoch 1/50");
  const auto beside = run(flags("one"));
  EXPECT_EQ(beside.code, 1);
  EXPECT_THAT(beside.output, HasSubstr("another process trains in '" + path("one") + "'"));
  // As timeout(1) sends it: to the process and to its group.
  first.send(SIGTERM);
  first.send(SIGTERM);
  const auto stopped = first.wait();
  EXPECT_EQ(stopped.code, 130) << stopped.output;
  EXPECT_TRUE(std::filesystem::exists(directory / "one/last.safetensors"));

  // The checkpoint alone, from where it lies.
  const auto here = "cd '" + path("one") + "' && '" + bsconv_test::program() +
                    "' train --resume last.safetensors --epochs 1 >/dev/null 2>&1";
  EXPECT_EQ(std::system(here.c_str()), 0);
  EXPECT_GE(load_checkpoint(path("one/last.safetensors")).epoch, 1);

  // It may go on in another folder, but in none of another run.
  std::filesystem::create_directory(directory / "other");
  std::filesystem::copy(path("one/last.safetensors"), path("other"));
  const auto into = run({"train", "--resume", path("one"), "--out", path("other")});
  EXPECT_EQ(into.code, 2);
  EXPECT_THAT(into.output, HasSubstr("--out '" + path("other") + "' already holds a run"));
  const auto moved = run(
      {"train", "--resume", path("one/last.safetensors"), "--epochs", "1", "--out", path("moved")});
  EXPECT_EQ(moved.code, 0) << moved.output;
  EXPECT_FALSE(std::filesystem::exists(directory / "moved/best.safetensors"));
  EXPECT_THAT(moved.output, Not(HasSubstr("moved/best.safetensors")));

  // A start that fails leaves no folder.
  EXPECT_EQ(
      run({"train", "--dataset", "cifar10", "--data-root", path("none"), "--out", path("failed")})
          .code,
      1);
  EXPECT_FALSE(std::filesystem::exists(directory / "failed"));
}

TEST_F(CliTrain, SaysWhenTheLearningRateNeverFalls) {
  const auto plan = [](const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {"train", "--architecture", tiny, "--dry-run"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const auto result = run(arguments);
    EXPECT_EQ(result.code, 0) << result.output;
    return result.output;
  };
  EXPECT_THAT(plan({"--epochs", "100", "--threads", "2"}),
              AllOf(HasSubstr("schedule: no milestone lies before epoch 100, so the learning rate "
                              "stays at 0.1\n"),
                    HasSubstr("device         cpu, 2 threads, 1 workers\n")));
  EXPECT_THAT(plan({"--epochs", "101"}), Not(HasSubstr("no milestone")));
  EXPECT_THAT(plan({"--epochs", "5", "--schedule-type", "cosine"}), Not(HasSubstr("no milestone")));
}

TEST_F(CliTrain, TakesImagesOfAnotherSize) {
  for (const std::string name :
       {"train/cat/a", "train/cat/b", "train/dog/a", "train/dog/b", "val/cat/a", "val/dog/a"}) {
    const char gray = name.find("cat") != std::string::npos ? '\x20' : '\x70';
    std::string image = "P5 8 8 255\n";
    image.append(64, gray);
    write_file(directory / ("images/" + name + ".pgm"), image);
  }
  const auto trained =
      run({"train", "--architecture", tiny, "--image-size", "48", "--dataset", "image_folder",
           "--data-root", path("images"), "--epochs", "1", "--out", path("run")});
  ASSERT_EQ(trained.code, 0) << trained.output;
  const auto checkpoint = path("run/last.safetensors");
  EXPECT_EQ(load_checkpoint(checkpoint).info.settings.at("image_size"), "48");
  const auto evaluated =
      run({"evaluate", "--checkpoint", checkpoint, "--data-root", path("images")});
  EXPECT_EQ(evaluated.code, 0) << evaluated.output;
  EXPECT_THAT(evaluated.output, HasSubstr("on 2 test images of image_folder"));
  EXPECT_EQ(run({"predict", path("images/val/cat/a.pgm"), "--checkpoint", checkpoint}).code, 0);
  // What is made of its weights takes such images, too.
  ASSERT_EQ(run({"convert", checkpoint, path("a.safetensors")}).code, 0);
  ASSERT_EQ(run({"convert", path("a.safetensors"), path("a.onnx")}).code, 0);
  EXPECT_THAT(run({"inspect", path("a.onnx")}).output,
              HasSubstr("input input  Float [batch, 3, 48, 48]\n"));

  const auto digits = run({"train", "--image-size", "48"});
  EXPECT_EQ(digits.code, 2);
  EXPECT_THAT(digits.output, HasSubstr("the model takes images of 48 x 48 pixels, those of "));
  const auto negative = run({"train", "--image-size", "-1"});
  EXPECT_EQ(negative.code, 2);
  EXPECT_THAT(negative.output, HasSubstr("image_size must lie in 0..8192, got -1"));
}

/// Which file stands at `path` now; 0 if none.
ino_t file_number(const std::filesystem::path& path) {
  struct stat found {};
  return ::stat(path.c_str(), &found) == 0 ? found.st_ino : 0;
}

/// Waits until `condition` or for `most`.
template <class Condition>
void wait_until(const Condition& condition, std::chrono::microseconds pause,
                std::chrono::milliseconds most = std::chrono::minutes(1)) {
  const auto end = std::chrono::steady_clock::now() + most;
  while (!condition() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(pause);
  }
}

TEST_F(CliTrain, TwentyKillsAtRandomMomentsChangeNothing) {
  const auto flags = [this](const char* out) {
    return std::vector<std::string>{
        "train",  "--architecture",     tiny,    "--epochs",        "2",     "--batch-size",
        "32",     "--optimizer",        "adamw", "--learning-rate", "0.002", "--schedule-type",
        "cosine", "--warmup-epochs",    "0.5",   "--ema-decay",     "0.9",   "--checkpoint-steps",
        "1",      "--keep-checkpoints", "1",     "--seed",          "3",     "--out",
        path(out)};
  };
  const auto whole = run(flags("whole"));
  ASSERT_EQ(whole.code, 0) << whole.output;

  std::mt19937 random(20);
  const auto last = directory / "parts/last.safetensors";
  const auto partial = directory / "parts/last.safetensors.partial";
  const auto start = [&] {
    return std::filesystem::exists(last)
               ? std::vector<std::string>{"train", "--resume", path("parts")}
               : flags("parts");
  };
  int in_writing = 0;
  for (int kill = 0; kill < 20; ++kill) {
    const Process process(start());
    if (kill % 4 == 3) {
      // While a checkpoint is written.
      const auto before = file_number(last);
      wait_until([&] { return file_number(last) != before; }, std::chrono::milliseconds(1));
      wait_until([&] { return std::filesystem::exists(partial); }, std::chrono::microseconds(10));
    } else if (kill % 4 == 2) {
      // While it starts.
      const auto before = file_number(last);
      wait_until([&] { return file_number(last) != before; }, std::chrono::milliseconds(1),
                 std::chrono::milliseconds(random() % 1000));
    } else {
      // Anywhere in a step or two after the first one.
      const auto before = file_number(last);
      wait_until([&] { return file_number(last) != before; }, std::chrono::milliseconds(1));
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 30000));
    }
    process.send(SIGKILL);
    ASSERT_EQ(process.wait().code, -SIGKILL) << "kill " << kill << ": " << process.output();
    in_writing += std::filesystem::exists(partial) ? 1 : 0;
  }
  EXPECT_GE(in_writing, 1);
  ASSERT_TRUE(std::filesystem::exists(last));
  EXPECT_LT(load_checkpoint(last).epoch, 2);
  const auto rest = run({"train", "--resume", path("parts")});
  ASSERT_EQ(rest.code, 0) << rest.output;

  const auto expected = load_checkpoint(directory / "whole/last.safetensors");
  const auto found = load_checkpoint(last);
  EXPECT_EQ(found.epoch, 2);
  const auto expect_equal = [](const auto& left, const auto& right) {
    ASSERT_EQ(left.keys(), right.keys());
    ASSERT_FALSE(left.is_empty());
    for (const auto& item : left) {
      EXPECT_TRUE(item.value().equal(right[item.key()])) << item.key();
    }
  };
  expect_equal(expected.model, found.model);
  expect_equal(expected.adamw, found.adamw);
  expect_equal(expected.ema, found.ema);
  expect_equal(expected.generators, found.generators);
  ASSERT_EQ(expected.history.size(), found.history.size());
  for (std::size_t i = 0; i < expected.history.size(); ++i) {
    EXPECT_EQ(expected.history[i].train.loss, found.history[i].train.loss);
    EXPECT_EQ(expected.history[i].test.loss, found.history[i].test.loss);
    EXPECT_EQ(expected.history[i].best_accuracy, found.history[i].best_accuracy);
  }
  const auto csv = read_file(directory / "parts/metrics.csv");
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 3);
  EXPECT_EQ(load_checkpoint(directory / "parts/best.safetensors").epoch,
            load_checkpoint(directory / "whole/best.safetensors").epoch);
  EXPECT_TRUE(std::filesystem::exists(directory / "parts/epoch-0002.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(directory / "parts/epoch-0001.safetensors"));
}

}  // namespace
}  // namespace cli_train_test
