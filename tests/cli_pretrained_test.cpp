// SPDX-License-Identifier: BSD-3-Clause-Clear
// What the real program does with the trained models that come with the library.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/pretrained.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/images.hpp"
#include "support/process.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace cli_pretrained_test {
namespace {

using bsconv_test::Environment;
using bsconv_test::Process;
using bsconv_test::read_file;
using bsconv_test::run;
using bsconv_test::write_file;
using testing::HasSubstr;

class CliPretrained : public bsconv_test::ProgramTest {};

TEST_F(CliPretrained, NamesWhatAPhotographShows) {
  const auto photograph = path("photo.png");
  bsconv_test::write_bytes(photograph, bsconv_test::encode_png(bsconv_test::soft_image(32, 32)));
  const auto predicted = run({"predict", photograph, "--model", "cifar_resnet20_bsconvu"});
  ASSERT_EQ(predicted.code, 0) << predicted.output;
  std::istringstream lines(predicted.output);
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(line, "model cifar_resnet20_bsconvu.cifar100");
  std::getline(lines, line);
  EXPECT_EQ(line, photograph);
  const auto store = bsconv::ModelStore::find();
  const auto& known = store.card("cifar_resnet20_bsconvu.cifar100").class_names;
  ASSERT_EQ(known.size(), 100U);
  EXPECT_EQ(known.front(), "apple");
  EXPECT_EQ(known.back(), "worm");
  std::set<std::string> names;
  double before = 100;
  double sum = 0;
  while (std::getline(lines, line)) {
    std::istringstream cells(line);
    double probability = -1;
    std::string unit;
    std::string name;
    cells >> probability >> unit >> name;
    EXPECT_EQ(unit, "%") << line;
    EXPECT_EQ(std::count(known.begin(), known.end(), name), 1) << line;
    EXPECT_GE(probability, 0) << line;
    EXPECT_LE(probability, before) << line;
    before = probability;
    sum += probability;
    names.insert(name);
  }
  EXPECT_EQ(names.size(), 5U) << predicted.output;
  // The five likeliest of a hundred.
  EXPECT_GE(sum, 5);
  EXPECT_LE(sum, 100.05);
}

TEST_F(CliPretrained, ListsExactParameters) {
  const auto listed = run({"models", "--pretrained", "*.cifar100"});
  ASSERT_EQ(listed.code, 0) << listed.output;
  EXPECT_THAT(listed.output, HasSubstr("61.92 %      33,105 parameters"));
  EXPECT_THAT(listed.output, HasSubstr("64.19 %      41,313 parameters"));
  EXPECT_THAT(listed.output, HasSubstr("  7.86 M multiply-adds\n"));
}

TEST_F(CliPretrained, RefusesDamagedWeights) {
  const auto store = bsconv::ModelStore::find();
  const auto& card = store.card("cifar_resnet20_bsconvu.digits");
  std::filesystem::create_directory(directory / "models");
  bsconv::write_model_card(directory / ("models/" + card.name + ".json"), card);
  auto bytes = read_file(store.directory() / card.weights);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_file(directory / "models" / card.weights, bytes);
  const Environment here = {{"BSCONV_MODELS", path("models")}};
  for (const char* command : {"evaluate", "inspect"}) {
    SCOPED_TRACE(command);
    std::vector<std::string> arguments = {command, card.name};
    if (std::string(command) == "evaluate") {
      arguments = {command, "--pretrained", card.name};
    }
    const auto refused = Process(arguments, here).wait();
    EXPECT_EQ(refused.code, 1);
    EXPECT_THAT(refused.output, HasSubstr("' has the SHA-256 sum "));
  }
}

TEST_F(CliPretrained, EvaluatesToTheAccuracyOfTheCard) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe)
  const char* cifar100 = std::getenv("BSCONV_TEST_CIFAR100");
  if (cifar100 == nullptr) {
    GTEST_SKIP() << "BSCONV_TEST_CIFAR100 does not name the folder of CIFAR-100's files";
  }
  const auto root = std::filesystem::absolute(cifar100).native();
  const auto evaluated =
      run({"evaluate", "--pretrained", "cifar_resnet20_bsconvu", "--data-root", root});
  EXPECT_EQ(evaluated.code, 0) << evaluated.output;
  EXPECT_THAT(evaluated.output,
              HasSubstr("cifar_resnet20_bsconvu, epoch 200, on 10000 test images of cifar100"));
  EXPECT_THAT(evaluated.output, HasSubstr("top-1 64.28 %"));
}

}  // namespace
}  // namespace cli_pretrained_test
