// SPDX-License-Identifier: BSD-3-Clause-Clear
// Which runs the real program makes trained models of, and what their cards tell.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/utils.h>
#include <bsconv/data/class_names.hpp>
#include <bsconv/plot/csv_table.hpp>
#include <bsconv/pretrained.hpp>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/train/metrics.hpp>
#include <bsconv/weights/state_dict.hpp>
#include <bsconv/zoo.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "support/process.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace cli_package_test {
namespace {

using bsconv::train::Checkpoint;
using bsconv_test::read_file;
using bsconv_test::Result;
using bsconv_test::run;
using bsconv_test::write_file;
using testing::HasSubstr;
using testing::Not;

const std::string tiny = "cifar_mobilenetv1_w1d4_bsconvu";

class CliPackage : public bsconv_test::ProgramTest {
 protected:
  void SetUp() override {
    bsconv_test::ProgramTest::SetUp();
    std::filesystem::create_directories(directory / "run");
    std::filesystem::create_directories(directory / "models");
    torch::manual_seed(1);
    checkpoint.info.architecture = tiny;
    checkpoint.info.dataset = "digits";
    checkpoint.info.class_names = bsconv::data::numbered_class_names(10);
    const auto model = bsconv::create_model(tiny, bsconv::ModelOptions().num_classes(10));
    checkpoint.model = bsconv::weights::state_dict(*model);
  }

  /// Packages the run after `epochs` epochs, of which `best_epoch` was the best.
  Result package(int64_t epochs, int64_t best_epoch, std::vector<std::string> flags = {}) {
    checkpoint.epoch = epochs;
    checkpoint.history.clear();
    for (int64_t epoch = 1; epoch <= epochs; ++epoch) {
      bsconv::train::EpochSummary row;
      row.epoch = epoch;
      row.epochs = checkpoint.options.epochs();
      row.test.accuracy = 0.6192;
      row.test.accuracy_top5 = 0.75;
      row.best_accuracy = 0.75;
      row.best_epoch = best_epoch;
      checkpoint.history.push_back(row);
    }
    bsconv::train::save_checkpoint(directory / "run/last.safetensors", checkpoint);
    flags.insert(flags.begin(), {"package", "--checkpoint", path("run"), "--out", path("models"),
                                 "--overwrite", "--hardware", "a machine"});
    return run(flags);
  }

  bsconv::ModelCard card() const {
    return bsconv::read_model_card(directory / ("models/" + tiny + ".digits.json"));
  }

  bool is_packaged() const { return !std::filesystem::is_empty(directory / "models"); }

  /// As after a training by the published recipe.
  Checkpoint checkpoint;
};

TEST_F(CliPackage, EntersWhatThePublishedRecipeReached) {
  checkpoint.options.seed(3).eval_every(5).channels_last(true).keep_checkpoints(2);
  checkpoint.info.settings = {{"augment", "none"}, {"teacher", "none"}, {"mixup", "0"}};
  const auto results = path("results.csv");
  write_file(results,
             "dataset,model,accuracy_top1\ndigits," + tiny + ",97\ndigits,cifar_resnet20,98\n");
  const auto packaged = package(200, 90, {"--results", results});
  ASSERT_EQ(packaged.code, 0) << packaged.output;
  EXPECT_THAT(packaged.output, HasSubstr("1 lines of '"));
  EXPECT_EQ(card().top1, 61.92);
  const auto table = bsconv::plot::CsvTable::read(results);
  EXPECT_EQ(table.numbers("our_top1")[0], 61.92);
  EXPECT_EQ(table.texts("our_model")[0], tiny + ".digits");
  EXPECT_EQ(table.texts("our_seed")[0], "3");
  EXPECT_EQ(table.texts("our_epochs")[0], "200");
  EXPECT_EQ(table.texts("our_top1")[1], "");

  write_file(results, "dataset,model,accuracy_top1\ndigits,cifar_resnet20,98\n");
  const auto refused = package(200, 90, {"--results", results});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.output, HasSubstr("results.csv' has no line of " + tiny + " on digits"));
}

TEST_F(CliPackage, EntersNothingOfAnotherRecipe) {
  const auto results = path("results.csv");
  const std::string before = "dataset,model,accuracy_top1\ndigits," + tiny + ",97\n";
  write_file(results, before);
  const auto expect_refused = [&](int64_t epochs, const std::string& message) {
    const auto refused = package(epochs, 1, {"--results", results});
    EXPECT_EQ(refused.code, 1);
    EXPECT_THAT(
        refused.output,
        HasSubstr("--results is for trainings by the published recipe; of this one, " + message));
    EXPECT_FALSE(is_packaged());
    EXPECT_EQ(read_file(results), before);
  };
  checkpoint.options.epochs(2).learning_rate(0.05);
  expect_refused(2, "epochs is 2, not 200; learning_rate is 0.05, not 0.1");
  checkpoint.options = bsconv::train::TrainOptions();
  checkpoint.options.precision(bsconv::train::Precision::bf16);
  expect_refused(200, "precision is bf16, not f32");
  checkpoint.options = bsconv::train::TrainOptions();
  const std::pair<const char*, const char*> settings[] = {
      {"augment", "trivial"}, {"random_erasing", "0.25"},
      {"mixup", "0.2"},       {"cutmix", "1"},
      {"weights", "a/b.pth"}, {"teacher", "cifar_resnet20_bsconvu.digits"},
      {"image_size", "48"},
  };
  for (const auto& [name, value] : settings) {
    SCOPED_TRACE(name);
    checkpoint.info.settings.clear();
    checkpoint.info.settings[name] = value;
    const auto shown = std::filesystem::path(value).filename().native();
    expect_refused(200, std::string(name) + " is " + shown + ", not ");
  }
}

TEST_F(CliPackage, RefusesATrainingThatGoesOn) {
  const auto refused = package(105, 105);
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.output, HasSubstr("run/last.safetensors' holds epoch 105 of 200; package the "
                                        "finished run's last.safetensors"));
  EXPECT_FALSE(is_packaged());
  // As long as its patience lasts.
  checkpoint.options.patience(5);
  EXPECT_EQ(package(105, 101).code, 1);
  EXPECT_FALSE(is_packaged());
  const auto over = package(105, 100);
  EXPECT_EQ(over.code, 0) << over.output;
  EXPECT_EQ(card().epoch, 105);
}

TEST_F(CliPackage, TellsOfTheTeacherAndTheImages) {
  const auto store = bsconv::ModelStore::find();
  const auto& teacher = store.card("cifar_resnet20_bsconvu.digits");
  checkpoint.info.settings = {{"teacher", teacher.name}};
  write_file(directory / "run/log.txt",
             "training       none\ntest           none\nepochs  200\n"
             "training       RandomCrop(padding=4), Other\ntest           Resize\n");
  auto packaged = package(200, 200);
  ASSERT_EQ(packaged.code, 0) << packaged.output;
  EXPECT_EQ(card().teacher_sha256, teacher.sha256);
  EXPECT_EQ(card().training_images, "RandomCrop(padding=4), Other");
  EXPECT_EQ(card().test_images, "Resize");

  // A file is told apart by its sum, not by where it lay.
  const auto file = path("teacher.safetensors");
  std::filesystem::copy_file(store.directory() / teacher.weights, file);
  checkpoint.info.settings = {{"teacher", file}};
  ASSERT_EQ(package(200, 200).code, 0);
  EXPECT_EQ(card().teacher_sha256, teacher.sha256);
  EXPECT_EQ(card().settings.at("teacher"), "teacher.safetensors");

  std::filesystem::remove(file);
  std::filesystem::remove(directory / "run/log.txt");
  packaged = package(200, 200);
  EXPECT_EQ(packaged.code, 0);
  EXPECT_THAT(packaged.output, HasSubstr("the card gets no sum of the teacher's weights: "));
  const auto text = read_file(directory / ("models/" + tiny + ".digits.json"));
  for (const char* key : {"teacher_sha256", "training_images", "test_images"}) {
    EXPECT_THAT(text, Not(HasSubstr(key)));
  }
}

}  // namespace
}  // namespace cli_package_test
