// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/data/cifar.hpp>
#include <bsconv/data/digits.hpp>
#include <bsconv/data/loader.hpp>
#include <bsconv/plot/csv_table.hpp>
#include <bsconv/pretrained.hpp>
#include <bsconv/profile.hpp>
#include <bsconv/train/evaluate.hpp>
#include <bsconv/version.hpp>
#include <bsconv/weights/safetensors.hpp>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>

#include "support/environment.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace pretrained_test {
namespace {

using bsconv::create_model;
using bsconv::ModelCard;
using bsconv::ModelStore;
using bsconv::Pretrained;
using bsconv_test::EnvironmentGuard;
using bsconv_test::error_of;
using bsconv_test::read_file;
using bsconv_test::TemporaryDirectory;
using bsconv_test::write_file;
using testing::HasSubstr;

const std::string tiny = "cifar_mobilenetv1_w1d4_bsconvu";

class PretrainedStore : public testing::Test {
 protected:
  /// Puts a model with three classes into the folder.
  ModelCard add(const std::string& tag, uint64_t seed) {
    torch::manual_seed(seed);
    const auto model = create_model(tiny, bsconv::ModelOptions().num_classes(3));
    ModelCard card;
    card.name = tiny + "." + tag;
    card.architecture = tiny;
    card.dataset = "letters";
    card.class_names = {"a", "b", "c"};
    card.input_size = 32;
    card.settings = {{"seed", std::to_string(seed)}};
    card.epoch = 2;
    card.top1 = 50.25;
    card.top5 = 100;
    card.parameters = 5;
    card.flops = 6;
    card.hardware = "a \"machine\"";
    card.version = bsconv::version;
    card.weights = card.name + ".safetensors";
    bsconv::weights::save_safetensors(directory / card.weights,
                                      bsconv::weights::state_dict(*model));
    card.sha256 = bsconv::sha256_of_file(directory / card.weights);
    bsconv::write_model_card(card_path(card), card);
    return card;
  }
  std::filesystem::path card_path(const ModelCard& card) const {
    return directory / (card.name + ".json");
  }
  Pretrained here() const { return Pretrained().directory(directory.path()); }

  const TemporaryDirectory directory;
  const torch::Tensor images = torch::rand({2, 3, 32, 32});
};

TEST_F(PretrainedStore, MakesModelsByNameAndTag) {
  add("one", 1);
  add("two", 2);
  const torch::NoGradGuard no_grad;
  const auto logits = [&](bsconv::Layer model) {
    EXPECT_FALSE(model->is_training());
    return model->forward(images);
  };
  torch::manual_seed(1);
  auto fresh = create_model(tiny, bsconv::ModelOptions().num_classes(3));
  fresh->eval();
  const auto first = logits(create_model(tiny, here()));
  EXPECT_TRUE(first.equal(fresh->forward(images)));
  EXPECT_TRUE(first.equal(logits(create_model(tiny + ".one", here()))));
  EXPECT_FALSE(first.equal(logits(create_model(tiny + ".Two", here()))));
  const auto half = create_model(tiny, here().dtype(torch::kBFloat16));
  EXPECT_EQ(half->parameters().front().scalar_type(), torch::kBFloat16);
  const auto store = ModelStore(directory.path());
  ASSERT_EQ(store.cards().size(), 2U);
  EXPECT_EQ(store.card(tiny).class_names, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(store.card(tiny + ".two").settings.at("seed"), "2");
  EXPECT_EQ(store.card(tiny).hardware, "a \"machine\"");
}

TEST_F(PretrainedStore, GivesTheClassifierAnotherNumberOfClasses) {
  add("one", 1);
  auto trained = create_model(tiny, here());
  auto model = create_model(tiny, here().num_classes(7));
  const auto parameters = trained->named_parameters();
  for (const auto& parameter : model->named_parameters()) {
    if (parameter.key().rfind("classifier.", 0) == 0) {
      EXPECT_EQ(parameter.value().size(0), 7);
    } else {
      EXPECT_TRUE(parameter.value().equal(parameters[parameter.key()])) << parameter.key();
    }
  }
}

TEST_F(PretrainedStore, RefusesADamagedFile) {
  const auto card = add("one", 1);
  auto bytes = read_file(directory / card.weights);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_file(directory / card.weights, bytes);
  EXPECT_THAT(error_of([&] { create_model(tiny, here()); }),
              HasSubstr(card.weights + "' has the SHA-256 sum "));
  std::filesystem::remove(directory / card.weights);
  EXPECT_THAT(error_of([&] { create_model(tiny, here()); }), HasSubstr("cannot open '"));
}

TEST_F(PretrainedStore, SaysWhatIsThere) {
  EXPECT_THAT(error_of([&] { create_model(tiny, here()); }), HasSubstr("there are none in '"));
  add("one", 1);
  EXPECT_THAT(error_of([&] { create_model("cifar_mobilenetv1_w1d4", here()); }),
              HasSubstr("there is none called 'cifar_mobilenetv1_w1d4' in '" +
                        directory.path().native() + "'; the nearest is '" + tiny + ".one'"));
  EXPECT_THAT(error_of([&] { create_model(tiny, Pretrained().directory("/no/such")); }),
              HasSubstr("'/no/such' cannot be read: No such file"));
}

TEST_F(PretrainedStore, RefusesWrongCards) {
  auto card = add("one", 1);
  const auto text = read_file(card_path(card));
  const auto refused = [&](const std::string& changed) {
    write_file(card_path(card), changed);
    return error_of([&] { ModelStore(directory.path()).card(tiny); });
  };
  EXPECT_THAT(refused(text.substr(0, text.size() / 2)), HasSubstr(".one.json': "));
  auto renamed = text;
  renamed.replace(text.find("\"dataset\""), 9, "\"datasex\"");
  EXPECT_THAT(refused(renamed), HasSubstr(".one.json', key 'dataset': "));
  for (const char* weights : {"../a.safetensors", "", ".", "..", "/etc/passwd"}) {
    card.weights = weights;
    bsconv::write_model_card(card_path(card), card);
    EXPECT_THAT(error_of([&] { ModelStore(directory.path()).card(card.name); }),
                HasSubstr(std::string("weights must name a file beside it, got '") + weights));
  }
  for (const std::string number :
       {"1.5", "1e300", "18446744073709551615", "-9223372036854775809"}) {
    auto odd = text;
    const auto begin = odd.find("\"parameters\": ") + 14;
    odd.replace(begin, odd.find(',', begin) - begin, number);
    EXPECT_THAT(refused(odd), HasSubstr(".one.json', key 'parameters': an integer of 64 bits is "
                                        "expected, not "));
  }
  card.hardware = "\xff";
  EXPECT_THAT(error_of([&] { bsconv::write_model_card(card_path(card), card); }),
              HasSubstr(card.name + "', key 'hardware': a text is not UTF-8"));
}

TEST_F(PretrainedStore, AForeignFileIsNobodyElsesProblem) {
  add("one", 1);
  write_file(directory / "index.json", "[1, 2]");
  write_file(directory / (tiny + ".two.json"), "{");
  const ModelStore store(directory.path());
  EXPECT_EQ(store.card(tiny).name, tiny + ".one");
  EXPECT_EQ(store.unreadable().size(), 2U);
  EXPECT_THAT(store.unreadable().at("index"), HasSubstr("index.json', key 'name': "));
  EXPECT_THAT(error_of([&] { (void)store.card(tiny + ".Two"); }), HasSubstr(".two.json': "));
  // Nor is another model used where the first one's card is damaged.
  write_file(directory / (tiny + ".a.json"), "{");
  EXPECT_THAT(error_of([&] { (void)ModelStore(directory.path()).card(tiny); }),
              HasSubstr(".a.json': "));
  EXPECT_EQ(ModelStore(directory.path()).card(tiny + ".one").name, tiny + ".one");
  std::filesystem::create_directory(directory / "folder.json");
  EXPECT_THAT(ModelStore(directory.path()).unreadable().at("folder"), HasSubstr("cannot be read"));
}

TEST_F(PretrainedStore, ACardMayHaveNoTop5) {
  auto card = add("one", 1);
  card.top5 = std::numeric_limits<double>::quiet_NaN();
  bsconv::write_model_card(card_path(card), card);
  EXPECT_TRUE(std::isnan(ModelStore(directory.path()).card(card.name).top5));
}

TEST_F(PretrainedStore, IsFoundThroughTheEnvironment) {
  add("one", 1);
  {
    const EnvironmentGuard guard({{"BSCONV_MODELS", directory.path().native()}});
    EXPECT_EQ(ModelStore::find().directory(), directory.path());
  }
  const EnvironmentGuard guard({{"BSCONV_MODELS", std::nullopt}});
  EXPECT_EQ(ModelStore::find().directory(), BSCONV_MODELS_DIR);
}

TEST(PretrainedModels, AreWhatTheirCardsSay) {
  const auto store = ModelStore::find();
  EXPECT_FALSE(store.cards().empty());
  EXPECT_TRUE(store.unreadable().empty());
  const auto results = bsconv::plot::CsvTable::read(store.directory() / "results.csv");
  for (const auto& card : store.cards()) {
    SCOPED_TRACE(card.name);
    EXPECT_EQ(card.name.rfind(card.architecture + ".", 0), 0U);
    auto model = create_model(store, card);
    const auto profile = bsconv::profile(
        model, torch::zeros({1, card.in_channels, card.input_size, card.input_size}));
    EXPECT_EQ(profile.parameters(), card.parameters);
    EXPECT_EQ(profile.flops(), card.flops);
    const auto epochs = bsconv::plot::CsvTable::read(store.directory() / (card.name + ".csv"));
    ASSERT_EQ(epochs.size(), static_cast<std::size_t>(card.epoch));
    EXPECT_NEAR(100 * epochs.numbers("test_top1").back(), card.top1, 1e-4);
  }
}

TEST(PretrainedModels, AreAsGoodAsTheirCardsSay) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe)
  const char* cifar100 = std::getenv("BSCONV_TEST_CIFAR100");
  int64_t skipped = 0;
  const auto store = ModelStore::find();
  for (const auto& card : store.cards()) {
    SCOPED_TRACE(card.name);
    if (card.dataset == "cifar100" && cifar100 == nullptr) {
      ++skipped;
      continue;
    }
    ASSERT_TRUE(card.dataset == "cifar100" || card.dataset == "digits");
    const auto split = bsconv::data::Split::test;
    const bsconv::data::DataLoader test(card.dataset == "digits"
                                            ? bsconv::data::digits(split)
                                            : bsconv::data::load_cifar100(cifar100, split));
    EXPECT_EQ(test.dataset().class_names(), card.class_names);
    auto model = create_model(store, card);
    const auto sums = bsconv::train::evaluate(
        *model, [&](const torch::Tensor& batch) { return model->forward(batch); }, test);
    EXPECT_NEAR(100 * sums.mean().accuracy, card.top1, 0.05);
    EXPECT_NEAR(100 * sums.mean().accuracy_top5, card.top5, 0.05);
  }
  if (skipped > 0) {
    GTEST_SKIP() << skipped << " models of CIFAR-100 were not tested: BSCONV_TEST_CIFAR100 does "
                 << "not name the folder of its files";
  }
}

}  // namespace
}  // namespace pretrained_test
