// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/train/checkpoint_json.hpp>
#include <bsconv/train/settings.hpp>
#include <bsconv/train/settings_file.hpp>

#include <sstream>
#include <string>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace train_settings_test {
namespace {

using bsconv::train::OptimizerType;
using bsconv::train::Precision;
using bsconv::train::read_settings_file;
using bsconv::train::ScheduleType;
using bsconv::train::set_setting;
using bsconv::train::setting_names;
using bsconv::train::TrainOptions;
using bsconv_test::error_of;
using bsconv_test::TemporaryDirectory;
using bsconv_test::write_file;
using testing::HasSubstr;

/// Every setting other than its default.
TrainOptions unusual() {
  return TrainOptions()
      .epochs(7)
      .batch_size(3)
      .seed(~uint64_t{0})
      .optimizer(OptimizerType::adamw)
      .learning_rate(1.0 / 3)
      .momentum(0.8)
      .nesterov(true)
      .beta1(0.7)
      .beta2(0.6)
      .epsilon(1e-6)
      .weight_decay(2)
      .exempt_norm_bias(true)
      .schedule_type(ScheduleType::onecycle)
      .schedule({})
      .gamma(0.5)
      .min_learning_rate(0.01)
      .pct_start(0.4)
      .div_factor(10)
      .final_div_factor(1e300)
      .warmup_epochs(1.5)
      .warmup_factor(0)
      .alpha(0.3)
      .label_smoothing(0.1)
      .distillation_weight(0.5)
      .distillation_temperature(2)
      .clip_grad_norm(5)
      .accumulate(4)
      .ema_decay(0.99)
      .precision(Precision::bf16)
      .channels_last(true)
      .eval_every(2)
      .patience(3)
      .keep_checkpoints(4)
      .checkpoint_steps(5);
}

TEST(TrainSettings, TheExampleDiffersInEverySetting) {
  const auto defaults = TrainOptions();
  const auto options = unusual();
  EXPECT_NO_THROW(options.check());
  std::vector<std::string> texts;
  bsconv::train::visit_settings(defaults, [&](const char*, const auto& value, const char*) {
    texts.push_back(bsconv::train::detail::value_text(value));
  });
  std::size_t index = 0;
  bsconv::train::visit_settings(options, [&](const char* name, const auto& value, const char*) {
    EXPECT_NE(bsconv::train::detail::value_text(value), texts.at(index++)) << name;
  });
  EXPECT_EQ(index, setting_names().size());
}

TEST(TrainSettings, GoThroughTextFileAndJson) {
  const auto expected = bsconv::train::describe_settings(unusual());
  TrainOptions by_text;
  bsconv::train::visit_settings(unusual(), [&](const char* name, const auto& value, const char*) {
    set_setting(by_text, name, bsconv::train::detail::value_text(value));
  });
  EXPECT_EQ(bsconv::train::describe_settings(by_text), expected);

  const TemporaryDirectory directory;
  std::ostringstream file;
  bsconv::train::write_settings(file, unusual());
  write_file(directory / "a.toml", file.str());
  TrainOptions by_file;
  for (const auto& given : read_settings_file(directory / "a.toml", setting_names())) {
    set_setting(by_file, given.name, given.text);
  }
  EXPECT_EQ(bsconv::train::describe_settings(by_file), expected);

  const auto json = bsconv::train::detail::to_json(unusual());
  EXPECT_EQ(bsconv::train::describe_settings(bsconv::train::detail::options_from_json(json)),
            expected);
}

TEST(TrainSettings, TextsAreUtf8) {
  std::ostringstream out;
  bsconv::train::write_setting(out, "data_root", std::string("/caf\u00e9"));
  EXPECT_EQ(out.str(), "data_root = \"/caf\u00e9\"\n");
  EXPECT_EQ(error_of([&] { bsconv::train::write_setting(out, "data_root", std::string("/\xe9")); }),
            "data_root: '/\xe9' is not UTF-8, which a settings file must be");
}

TEST(TrainSettings, AnOlderCheckpointKeepsTheDefaultsOfNewSettings) {
  auto json = bsconv::train::detail::to_json(unusual());
  json.erase("ema_decay");
  const auto options = bsconv::train::detail::options_from_json(json);
  EXPECT_EQ(options.ema_decay(), 0);
  EXPECT_EQ(options.epochs(), 7);
}

TEST(TrainSettings, NameTheNearestValidNameOrValue) {
  TrainOptions options;
  const auto error = [&options](const char* name, const char* text) {
    return error_of([&] { set_setting(options, name, text); });
  };
  EXPECT_EQ(error("learning_rat", "1"),
            "there is no setting 'learning_rat'; the nearest is 'learning_rate'");
  EXPECT_EQ(error("optimizer", "adam"),
            "optimizer: 'adam' is unknown; valid are sgd, adamw; the nearest is 'adamw'");
  EXPECT_THAT(error("schedule_type", "cosin"), HasSubstr("the nearest is 'cosine'"));
  EXPECT_THAT(error("precision", "f16"), HasSubstr("valid are f32, bf16, fp16"));
  EXPECT_EQ(error("epochs", "1.5"), "epochs: '1.5' is not a whole number");
  EXPECT_EQ(error("seed", "-1"), "seed: '-1' is not a whole number from 0 on");
  EXPECT_EQ(error("momentum", ""), "momentum: '' is not a number");
  EXPECT_EQ(error("nesterov", "yes"), "nesterov: 'yes' is neither true nor false");
  EXPECT_EQ(error("schedule", "1,b"), "schedule: 'b' is not a list of whole numbers");
}

TEST(TrainSettings, FilesAreRefusedWithTheLine) {
  const TemporaryDirectory directory;
  const auto path = directory / "a.toml";
  const auto error = [&path](const char* text) {
    write_file(path, text);
    return error_of([&] { read_settings_file(path, setting_names()); });
  };
  const std::string file = "settings file '" + path.native() + "'";
  EXPECT_EQ(error("# three settings\nepochs = 3\nmomentun = 0.5\n"),
            file + ", line 3: momentun: there is no setting 'momentun'; the nearest is 'momentum'");
  EXPECT_THAT(error("epochs = 3\nepochs = 4\n"), HasSubstr(file + ", line 2: "));
  EXPECT_THAT(error("epochs\n"), HasSubstr(file + ", line 1: "));
  EXPECT_THAT(error("[epochs]\n"), HasSubstr("epochs: is neither a number"));
  EXPECT_THAT(error("schedule = [1, 'a']\n"),
              HasSubstr("schedule: is a list of other things than whole numbers"));
  EXPECT_THAT(error_of([] { read_settings_file("/no/such.toml", setting_names()); }),
              HasSubstr("settings file '/no/such.toml'"));
}

TEST(TrainSettings, TheManualListsEachWithItsDefault) {
  const auto manual = bsconv_test::read_file(BSCONV_TEST_DATA_DIR "/../../docs/training.md");
  bsconv::train::visit_settings(TrainOptions(),
                                [&](const char* name, const auto& value, const char*) {
                                  std::string row = "| `";
                                  row += name;
                                  row += "` | `" + bsconv::train::detail::value_text(value) + "` |";
                                  EXPECT_THAT(manual, HasSubstr(row));
                                });
}

}  // namespace
}  // namespace train_settings_test
