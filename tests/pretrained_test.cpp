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
#include <bsconv/train/options.hpp>
#include <bsconv/train/settings.hpp>
#include <bsconv/util/text.hpp>
#include <bsconv/version.hpp>
#include <bsconv/weights.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/environment.hpp"
#include "support/golden.hpp"
#include "support/python.hpp"
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

TEST_F(PretrainedStore, GivesThePathOfWeightsThatAreWhole) {
  const auto card = add("one", 1);
  const ModelStore store(directory.path());
  EXPECT_EQ(store.checked_path(card), directory / card.weights);
  auto other = card;
  other.sha256.front() = card.sha256.front() == '0' ? '1' : '0';
  EXPECT_THAT(error_of([&] { (void)store.checked_path(other); }),
              HasSubstr("trained model '" + card.name + "': '"));
}

TEST_F(PretrainedStore, RefusesACardThatNamesAnotherModel) {
  const auto one = add("one", 1);
  std::filesystem::copy_file(card_path(one), directory / (tiny + ".two.json"));
  const ModelStore store(directory.path());
  ASSERT_EQ(store.cards().size(), 1U);
  EXPECT_EQ(store.card(one.name).name, one.name);
  const auto reason = store.unreadable().at(tiny + ".two");
  EXPECT_THAT(reason, HasSubstr(tiny + ".two.json', key 'name': must be the file's, '" + tiny +
                                ".two', got '" + one.name + "'"));
  EXPECT_THAT(error_of([&] { (void)store.card(tiny + ".two"); }), HasSubstr(reason));
}

TEST_F(PretrainedStore, ACardMayTellMore) {
  auto card = add("one", 1);
  EXPECT_EQ(read_file(card_path(card)).find("teacher_sha256"), std::string::npos);
  card.teacher_sha256 = "abc";
  card.training_images = "RandomCrop(padding=4)";
  card.test_images = "none";
  bsconv::write_model_card(card_path(card), card);
  const auto again = ModelStore(directory.path()).card(card.name);
  EXPECT_EQ(again.teacher_sha256, "abc");
  EXPECT_EQ(again.training_images, "RandomCrop(padding=4)");
  EXPECT_EQ(again.test_images, "none");
  auto text = read_file(card_path(card));
  text.replace(text.find("\"abc\""), 5, "12345");
  write_file(card_path(card), text);
  EXPECT_THAT(error_of([&] { (void)ModelStore(directory.path()).card(card.name); }),
              HasSubstr(".one.json', key 'teacher_sha256': "));
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

/// Whether the settings of `card` are the published recipe: the defaults, but for those that make
/// another run of it.
bool has_published_recipe(const ModelCard& card) {
  std::map<std::string, std::string> published = {{"augment", "none"}, {"random_erasing", "0"},
                                                  {"mixup", "0"},      {"cutmix", "0"},
                                                  {"teacher", "none"}, {"weights", "none"}};
  const bsconv::train::TrainOptions defaults;
  bsconv::train::visit_settings(defaults,
                                [&published](const char* name, const auto& value, const char*) {
                                  published[name] = bsconv::train::detail::value_text(value);
                                });
  for (const char* name :
       {"seed", "eval_every", "channels_last", "keep_checkpoints", "checkpoint_steps"}) {
    published.erase(name);
  }
  return std::all_of(published.begin(), published.end(), [&card](const auto& setting) {
    const auto found = card.settings.find(setting.first);
    return found == card.settings.end() || found->second == setting.second;
  });
}

TEST(PretrainedModels, AreTheseAlone) {
  const auto store = ModelStore::find();
  EXPECT_TRUE(store.unreadable().empty());
  std::vector<std::string> names;
  for (const auto& card : store.cards()) {
    names.push_back(card.name);
  }
  EXPECT_THAT(names, testing::ElementsAre("cifar_resnet20_bsconvs_p1d4.cifar100",       //
                                          "cifar_resnet20_bsconvu.cifar100",            //
                                          "cifar_resnet20_bsconvu.cifar100_distilled",  //
                                          "cifar_resnet20_bsconvu.digits",              //
                                          "cifar_resnet56_bsconvu.cifar100",            //
                                          "cifar_wrn28_1_bsconvs_p1d4.cifar100",        //
                                          "cifar_wrn28_1_bsconvu.cifar100",             //
                                          "cifar_wrn28_1_bsconvu.cifar100_distilled"));
}

TEST(PretrainedModels, AreWhatTheirCardsSay) {
  const auto store = ModelStore::find();
  ASSERT_FALSE(store.cards().empty());
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
    const auto numbers = epochs.numbers("epoch");
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      ASSERT_EQ(numbers[i], static_cast<double>(i + 1));
    }
    EXPECT_NEAR(100 * epochs.numbers("test_top1").back(), card.top1, 1e-6);
    EXPECT_NEAR(100 * epochs.numbers("test_top5").back(), card.top5, 1e-6);
    EXPECT_EQ(card.settings.at("epochs"), std::to_string(card.epoch));
    EXPECT_EQ(card.settings.at("seed"), "1");
    EXPECT_EQ(card.training_images, card.dataset == "digits"
                                        ? "RandomCrop(padding=4)"
                                        : "RandomCrop(padding=4), RandomHorizontalFlip(p=0.5)");
    EXPECT_EQ(card.test_images, "none");
    const auto teacher = card.settings.find("teacher");
    const bool has_teacher = teacher != card.settings.end() && teacher->second != "none";
    EXPECT_EQ(card.teacher_sha256, has_teacher ? store.card(teacher->second).sha256 : "");
    // As the program writes it.
    EXPECT_EQ(read_file(store.directory() / (card.name + ".json")),
              bsconv::detail::card_text(card));
  }
}

TEST(PretrainedResults, ArePublishedByTheReference) {
  const auto results = bsconv::plot::CsvTable::read(ModelStore::find().directory() / "results.csv");
  const std::vector<std::string> names = {"dataset",       "table",    "model",
                                          "accuracy_top1", "params_M", "flops_M"};
  std::vector<std::vector<std::string>> columns;
  for (const auto& name : names) {
    columns.push_back(results.texts(name));
  }
  std::string text = bsconv::detail::join(names, ",");
  for (std::size_t row = 0; row < results.size(); ++row) {
    text += '\n';
    for (std::size_t i = 0; i < columns.size(); ++i) {
      text += i > 0 ? "," : "";
      text += columns[i][row];
    }
  }
  text += '\n';
  EXPECT_EQ(results.size(), 211U);
  // Of the file with these columns that holds every row of the Python package's result tables.
  EXPECT_EQ(bsconv_test::sha256(text),
            "74db6316b7d6a37c0125ac7d01bacf938e2f2769053952efa290c392db6ccff9");
}

TEST(PretrainedResults, HaveWhatTheCardsSay) {
  const auto store = ModelStore::find();
  const auto results = bsconv::plot::CsvTable::read(store.directory() / "results.csv");
  const auto dataset = results.texts("dataset");
  const auto architecture = results.texts("model");
  const auto top1 = results.texts("our_top1");
  const auto model = results.texts("our_model");
  const auto seed = results.texts("our_seed");
  const auto epochs = results.texts("our_epochs");
  const auto hardware = results.texts("our_hardware");
  const auto version = results.texts("our_version");
  std::map<std::string, int> rows;
  for (std::size_t row = 0; row < results.size(); ++row) {
    SCOPED_TRACE(dataset[row] + ", " + architecture[row]);
    if (top1[row].empty()) {
      EXPECT_EQ(model[row] + seed[row] + epochs[row] + hardware[row] + version[row], "");
      continue;
    }
    const auto& card = store.card(model[row]);
    ++rows[card.name];
    EXPECT_EQ(model[row], card.name);
    EXPECT_EQ(dataset[row], card.dataset);
    EXPECT_EQ(architecture[row], card.architecture);
    EXPECT_NEAR(results.numbers("our_top1")[row], card.top1, 1e-6);
    EXPECT_EQ(seed[row], card.settings.at("seed"));
    EXPECT_EQ(epochs[row], std::to_string(card.epoch));
    EXPECT_EQ(hardware[row], card.hardware);
    EXPECT_EQ(version[row], card.version);
  }
  for (const auto& card : store.cards()) {
    SCOPED_TRACE(card.name);
    EXPECT_EQ(has_published_recipe(card), card.name == card.architecture + ".cifar100");
    EXPECT_EQ(rows[card.name], has_published_recipe(card) ? 1 : 0);
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

TEST(PretrainedPython, GivesTheSameLogits) {
  const auto python = bsconv_test::python();
  if (python.empty()) {
    GTEST_SKIP() << "configure with -DBSCONV_TEST_PYTHON=/path/to/python, one that has torch, "
                    "bsconv, numpy and safetensors";
  }
  const auto store = ModelStore::find();
  const TemporaryDirectory folder;
  const torch::NoGradGuard no_grad;
  torch::manual_seed(7);
  for (const auto& card : store.cards()) {
    auto model = create_model(store, card);
    const auto input = torch::rand({4, card.in_channels, card.input_size, card.input_size});
    bsconv::weights::StateDict tensors;
    tensors.insert("images", input);
    tensors.insert("logits", model->forward(input).contiguous());
    bsconv::weights::save_weights(folder / (card.name + ".pth"), tensors);
  }
  std::string line = "'" + python + "' '" + BSCONV_TEST_DATA_DIR + "/../python/pretrained.py' '" +
                     store.directory().native() + "' '" + folder.path().native() + "'";
  // NOLINTNEXTLINE(concurrency-mt-unsafe)
  if (const char* cifar100 = std::getenv("BSCONV_TEST_CIFAR100"); cifar100 != nullptr) {
    line += " cifar_resnet20_bsconvu.cifar100 '" + std::string(cifar100) + "'";
  }
  EXPECT_EQ(std::system(line.c_str()), 0);
}

}  // namespace
}  // namespace pretrained_test
