// SPDX-License-Identifier: BSD-3-Clause-Clear
// The grammar of model names, form by form.
#include <bsconv/zoo/registry.hpp>

#include <random>
#include <set>

#include "support/golden.hpp"

namespace zoo_grammar_test {
namespace {

using bsconv::ModelFamily;
using bsconv::ModelVariant;
using bsconv::parse_model_name;
using bsconv::try_parse_model_name;

struct Base {
  std::string text;
  ModelFamily family;
  bool cifar;
  int64_t depth;
  double width;
};

std::vector<Base> bases() {
  std::vector<Base> all;
  for (const bool cifar : {false, true}) {
    const std::string prefix = cifar ? "cifar_" : "";
    const std::vector<int64_t> depths = cifar ? std::vector<int64_t>{20, 56, 110, 302, 602}
                                              : std::vector<int64_t>{10, 18, 26, 34, 68, 102};
    for (const int64_t depth : depths) {
      all.push_back(
          {prefix + "resnet" + std::to_string(depth), ModelFamily::resnet, cifar, depth, 1.0});
      all.push_back({prefix + "preresnet" + std::to_string(depth), ModelFamily::preresnet, cifar,
                     depth, 1.0});
    }
    const std::vector<std::pair<std::string, double>> widths = {
        {"w1", 1.0}, {"w2", 2.0}, {"w3d4", 0.75}, {"w7d20", 0.35}, {"w13d10", 1.3}, {"w6d6", 1.0}};
    for (const auto& [text, width] : widths) {
      all.push_back({prefix + "mobilenetv1_" + text, ModelFamily::mobilenetv1, cifar, 0, width});
      all.push_back({prefix + "mobilenetv2_" + text, ModelFamily::mobilenetv2, cifar, 0, width});
      all.push_back(
          {prefix + "mobilenetv3_small_" + text, ModelFamily::mobilenetv3_small, cifar, 0, width});
      all.push_back(
          {prefix + "mobilenetv3_large_" + text, ModelFamily::mobilenetv3_large, cifar, 0, width});
    }
  }
  for (const int64_t depth : {16, 28, 40}) {
    for (const int64_t factor : {1, 2, 7, 10, 12, 999999}) {
      all.push_back({"cifar_wrn" + std::to_string(depth) + "_" + std::to_string(factor),
                     ModelFamily::wrn, true, depth, static_cast<double>(factor)});
    }
  }
  return all;
}

enum class Kind { resnet, mobilenetv1, bottleneck };

Kind kind(ModelFamily family) {
  switch (family) {
    case ModelFamily::mobilenetv1:
      return Kind::mobilenetv1;
    case ModelFamily::mobilenetv2:
    case ModelFamily::mobilenetv3_small:
    case ModelFamily::mobilenetv3_large:
      return Kind::bottleneck;
    default:
      return Kind::resnet;
  }
}

void expect_accepted(const Base& base, const std::string& suffix, ModelVariant variant, double p) {
  std::string text = base.text + suffix;
  const auto parsed = try_parse_model_name(text);
  ASSERT_TRUE(parsed) << text;
  EXPECT_EQ(parsed->text, text);
  EXPECT_EQ(parsed->family, base.family) << text;
  EXPECT_EQ(parsed->cifar, base.cifar) << text;
  EXPECT_EQ(parsed->depth, base.depth) << text;
  EXPECT_DOUBLE_EQ(parsed->width.value(), base.width) << text;
  EXPECT_EQ(parsed->variant, variant) << text;
  EXPECT_DOUBLE_EQ(parsed->p.value(), p) << text;
  EXPECT_EQ(parsed->input_size(), base.cifar ? 32 : 224) << text;
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  EXPECT_EQ(parse_model_name(text).text, parsed->text);
}

void expect_refused(const std::string& text) {
  EXPECT_FALSE(try_parse_model_name(text)) << text;
  const auto message = bsconv_test::message_of([&] { parse_model_name(text); });
  EXPECT_EQ(message.rfind("model name '" + text + "': ", 0), 0U) << message;
  EXPECT_NE(message.find("; the nearest known name is '"), std::string::npos) << message;
}

TEST(ModelGrammar, AcceptsEveryForm) {
  for (const auto& base : bases()) {
    expect_accepted(base, "", ModelVariant::baseline, 1.0);
    if (kind(base.family) != Kind::bottleneck) {
      expect_accepted(base, "_bsconvu", ModelVariant::bsconvu, 1.0);
    }
    if (kind(base.family) != Kind::mobilenetv1) {
      expect_accepted(base, "_bsconvs_p1d6", ModelVariant::bsconvs, 1.0 / 6);
    }
    if (kind(base.family) == Kind::resnet) {
      expect_accepted(base, "_bsconvs_p1d4", ModelVariant::bsconvs, 0.25);
      expect_accepted(base, "_bsconvs_p8d8", ModelVariant::bsconvs, 1.0);
      expect_accepted(base, "_bsconvs_p123456d654321", ModelVariant::bsconvs, 123456.0 / 654321);
    }
  }
}

TEST(ModelGrammar, RefusesEveryOtherSuffix) {
  for (const auto& base : bases()) {
    if (kind(base.family) == Kind::bottleneck) {
      expect_refused(base.text + "_bsconvu");
      expect_refused(base.text + "_bsconvs_p1d4");
      expect_refused(base.text + "_bsconvs_p2d12");
    }
    if (kind(base.family) == Kind::mobilenetv1) {
      expect_refused(base.text + "_bsconvs_p1d6");
    }
    for (const char* suffix : {"_",
                               "x",
                               " ",
                               "_bsconv",
                               "_bsconvu_",
                               "_bsconvuu",
                               "_bsconvu_bsconvu",
                               "_bsconvs",
                               "_bsconvs_",
                               "_bsconvs_p",
                               "_bsconvs_p1",
                               "_bsconvs_p1d",
                               "_bsconvs_pd4",
                               "_bsconvs_p0d4",
                               "_bsconvs_p1d0",
                               "_bsconvs_p5d4",
                               "_bsconvs_p-1d4",
                               "_bsconvs_p1.5d4",
                               "_bsconvs_p1d4x",
                               "_bsconvs_p1d4_",
                               "_bsconvs_p1234567d7654321",
                               "_bsconvs_p1/4",
                               "-bsconvu"}) {
      expect_refused(base.text + suffix);
    }
    expect_refused(" " + base.text);
    expect_refused("x" + base.text);
    expect_refused("cifar_cifar_" + base.text);
  }
}

TEST(ModelGrammar, RefusesEveryOtherDepthAndWidth) {
  for (int64_t depth = 0; depth < 700; ++depth) {
    const std::string text = std::to_string(depth);
    const auto valid = [&](const std::set<int64_t>& depths) { return depths.count(depth) != 0; };
    EXPECT_EQ(try_parse_model_name("resnet" + text).has_value(), valid({10, 18, 26, 34, 68, 102}));
    EXPECT_EQ(try_parse_model_name("cifar_preresnet" + text).has_value(),
              valid({20, 56, 110, 302, 602}));
    EXPECT_EQ(try_parse_model_name("cifar_wrn" + text + "_2").has_value(), valid({16, 28, 40}));
  }
  for (const char* text : {"mobilenetv1",
                           "mobilenetv1_",
                           "mobilenetv1_w",
                           "mobilenetv1_w0",
                           "mobilenetv1_w1d",
                           "mobilenetv1_w1d0",
                           "mobilenetv1_wd4",
                           "mobilenetv1_w-1",
                           "mobilenetv1_w0.5",
                           "mobilenetv1_w1e1",
                           "mobilenetv1_w1234567",
                           "mobilenetv3_w1",
                           "mobilenetv3_medium_w1",
                           "mobilenetv4_w1",
                           "mobilenet_w1",
                           "cifar_wrn28",
                           "cifar_wrn28_",
                           "cifar_wrn28_0",
                           "cifar_wrn28_1d2",
                           "cifar_wrn28-10",
                           "wrn28_10",
                           "cifar_",
                           "cifar",
                           "resnet",
                           "resnet_18",
                           "resnet18.",
                           "",
                           "_",
                           "resnet18\n",
                           "resnét18",
                           "*",
                           "%s%n"}) {
    expect_refused(text);
  }
}

TEST(ModelGrammar, SurvivesGarbage) {
  std::mt19937 random(5);
  const auto draw = [&](std::size_t below) {
    return std::uniform_int_distribution<std::size_t>(0, below - 1)(random);
  };
  const auto all = bases();
  int64_t refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text = all[draw(all.size())].text + (draw(2) == 0 ? "_bsconvs_p1d6" : "");
    for (std::size_t edits = 1 + draw(3); edits > 0; --edits) {
      const char c = static_cast<char>(draw(256));
      switch (draw(3)) {
        case 0:
          text.insert(draw(text.size() + 1), 1, c);
          break;
        case 1:
          text.erase(draw(text.size()), 1);
          break;
        default:
          text[draw(text.size())] = c;
      }
    }
    if (const auto parsed = try_parse_model_name(text)) {
      EXPECT_TRUE(try_parse_model_name(parsed->text));
      EXPECT_GE(parsed->width.numerator, 1);
      EXPECT_GE(parsed->width.denominator, 1);
      EXPECT_LE(parsed->p.value(), 1.0);
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, 15000);
}

}  // namespace
}  // namespace zoo_grammar_test
