// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/train/checkpoint.hpp>

#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace train_checkpoint_test {
namespace {

using bsconv::train::Checkpoint;
using bsconv::train::load_checkpoint;
using bsconv::train::save_checkpoint;
using bsconv_test::error_of;
using bsconv_test::TemporaryDirectory;
using testing::ElementsAre;
using testing::HasSubstr;

Checkpoint example() {
  Checkpoint checkpoint;
  checkpoint.info = {"net", "digits", {"one", "two \"quoted\""}, 3};
  checkpoint.options.epochs(7).learning_rate(0.3).schedule({2, 5}).seed(~uint64_t{0}).alpha(0.1);
  checkpoint.options.output_dir("mine").overwrite(true);
  checkpoint.epoch = 1;
  checkpoint.step = 4;
  checkpoint.partial.add({1.0 / 3, 0.1, 0.2, 0.5, 2.0 / 3, 0.7}, 6);
  bsconv::train::EpochSummary row;
  row.epoch = 1;
  row.epochs = 7;
  row.learning_rate = 0.3;
  row.train = {0.1, 0.2, 0.3, 0.4};
  row.test = {std::numeric_limits<double>::quiet_NaN(), 0.6, 0.7, 0.8};
  row.best_accuracy = 0.8;
  row.best_epoch = 1;
  checkpoint.history = {row};
  checkpoint.model.insert("a/b.weight", torch::rand({2, 3}));
  checkpoint.model.insert("count", torch::tensor(5));
  checkpoint.momentum.insert("a/b.weight", torch::rand({2, 3}));
  checkpoint.generators.insert("cpu", torch::arange(9).to(torch::kByte));
  return checkpoint;
}

TEST(TrainCheckpoint, KeepsEverything) {
  const TemporaryDirectory directory;
  const auto saved = example();
  save_checkpoint(directory / "x", saved);
  const auto loaded = load_checkpoint(directory / "x");
  EXPECT_EQ(loaded.info.architecture, "net");
  EXPECT_EQ(loaded.info.dataset, "digits");
  EXPECT_EQ(loaded.info.class_names, saved.info.class_names);
  EXPECT_EQ(loaded.info.num_classes(), 2);
  EXPECT_EQ(loaded.options.epochs(), 7);
  EXPECT_EQ(loaded.options.learning_rate(), 0.3);
  EXPECT_EQ(loaded.options.schedule(), saved.options.schedule());
  EXPECT_EQ(loaded.options.seed(), ~uint64_t{0});
  EXPECT_EQ(loaded.epoch, 1);
  EXPECT_EQ(loaded.step, 4);
  EXPECT_EQ(loaded.partial.loss, saved.partial.loss);
  EXPECT_EQ(loaded.partial.correct, 3);
  EXPECT_EQ(loaded.partial.examples, 6);
  EXPECT_EQ(loaded.partial.correct_top5, 4);
  EXPECT_EQ(loaded.partial.examples_top5, 6);
  EXPECT_EQ(loaded.partial.distillation, saved.partial.distillation);
  EXPECT_EQ(loaded.partial.examples_distilled, 6);
  std::vector<std::string> names;
  const auto partial = bsconv::train::detail::to_json(saved.partial);
  for (const auto& item : partial.items()) {
    names.push_back(item.key());
  }
  EXPECT_THAT(names,
              ElementsAre("correct", "correct_top5", "cross_entropy", "distillation", "examples",
                          "examples_distilled", "examples_top5", "loss", "regularization"));
  EXPECT_FALSE(loaded.options.overwrite());
  ASSERT_EQ(loaded.history.size(), 1U);
  EXPECT_TRUE(std::isnan(loaded.history[0].test.loss));
  EXPECT_EQ(loaded.history[0].train.accuracy, 0.4);
  EXPECT_EQ(loaded.history[0].best_epoch, 1);
  EXPECT_EQ(loaded.model.keys(), saved.model.keys());
  EXPECT_TRUE(loaded.model["a/b.weight"].equal(saved.model["a/b.weight"]));
  EXPECT_TRUE(loaded.momentum["a/b.weight"].equal(saved.momentum["a/b.weight"]));
  EXPECT_TRUE(loaded.generators["cpu"].equal(saved.generators["cpu"]));
}

std::string error_for(const std::map<std::string, std::string>& metadata,
                      const std::string& tensor = "model/a") {
  const TemporaryDirectory directory;
  bsconv::weights::StateDict state;
  state.insert(tensor, torch::zeros({1}));
  bsconv::weights::save_safetensors(directory / "x", state, metadata);
  return error_of([&] { load_checkpoint(directory / "x"); });
}

TEST(TrainCheckpoint, RefusesOtherFiles) {
  auto state = bsconv::train::detail::to_json(example());
  const auto metadata = [&state] {
    return std::map<std::string, std::string>{
        {"format", "bsconv-checkpoint"}, {"version", "1"}, {"state", state.dump()}};
  };
  EXPECT_EQ(error_for(metadata()), "no error");
  EXPECT_THAT(error_for({}), HasSubstr("is a safetensors file, but not a bsconv checkpoint"));
  EXPECT_THAT(error_for({{"format", "bsconv-checkpoint"}, {"version", "9"}}),
              HasSubstr("has version '9'; this program reads version 1"));
  EXPECT_THAT(
      error_for({{"format", "bsconv-checkpoint"}, {"version", "1"}, {"state", "{\"epoch\":"}}),
      HasSubstr("is damaged: "));
  EXPECT_THAT(error_for(metadata(), "other/a"), HasSubstr("has a tensor 'other/a'; known are"));
  EXPECT_THAT(error_for(metadata(), "model"), HasSubstr("has a tensor 'model'; known are"));
  state["epoch"] = 3;
  EXPECT_THAT(error_for(metadata()), HasSubstr("is damaged: epoch 3, step 4, 1 epochs of history"));
  state["epoch"] = "one";
  EXPECT_THAT(error_for(metadata()), HasSubstr("is damaged: "));
  state["epoch"] = 1.5;
  EXPECT_THAT(error_for(metadata()), HasSubstr("an integer of 64 bits is expected, not 1.5"));
  state["epoch"] = 1;
  const auto seed = state["settings"]["seed"];
  state["settings"]["seed"] = -1;
  EXPECT_THAT(error_for(metadata()),
              HasSubstr("an integer of 64 bits without a sign is expected, not -1"));
  state["settings"]["seed"] = seed;
  state["settings"]["schedule"] = {1, "two"};
  EXPECT_THAT(error_for(metadata()), HasSubstr("an integer of 64 bits is expected, not string"));
  state["settings"]["schedule"] = {1, 2};
  state["settings"]["batch_size"] = 0;
  EXPECT_THAT(error_for(metadata()), HasSubstr("is damaged: batch_size must be positive, got 0"));
  state.erase("settings");
  EXPECT_THAT(error_for(metadata()), HasSubstr("settings"));
}

TEST(TrainCheckpoint, SaysWhichFileCannotBeReadOrWritten) {
  EXPECT_THAT(error_of([] { load_checkpoint("/no/such/file"); }),
              HasSubstr("'/no/such/file' does not exist"));
  EXPECT_THAT(error_of([] { save_checkpoint("/no/such/file", example()); }),
              HasSubstr("cannot write '/no/such/file': No such file or directory"));
}

}  // namespace
}  // namespace train_checkpoint_test
