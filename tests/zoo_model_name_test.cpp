// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/zoo/registry.hpp>

#include "support/golden.hpp"

namespace zoo_model_name_test {
namespace {

using bsconv::parse_model_name;
using bsconv_test::message_of;

TEST(ModelName, ReadsEveryGoldenName) {
  for (const auto& row : bsconv_test::golden_lines("models.jsonl")) {
    const auto name = row.at("name").get<std::string>();
    const auto parsed = parse_model_name(name);
    EXPECT_EQ(parsed.text, name);
    EXPECT_EQ(parsed.input_size(), row.at("input")[2].get<int64_t>()) << name;
  }
}

TEST(ModelName, SaysWhatTheNameSays) {
  const auto wrn = parse_model_name("CIFAR_WRN28_10_bsconvs_p3d8");
  EXPECT_EQ(wrn.family, bsconv::ModelFamily::wrn);
  EXPECT_TRUE(wrn.cifar);
  EXPECT_EQ(wrn.depth, 28);
  EXPECT_EQ(wrn.width.value(), 10.0);
  EXPECT_EQ(wrn.variant, bsconv::ModelVariant::bsconvs);
  EXPECT_EQ(wrn.p.value(), 0.375);
  const auto mobilenet = parse_model_name("mobilenetv3_small_w7d20");
  EXPECT_EQ(mobilenet.family, bsconv::ModelFamily::mobilenetv3_small);
  EXPECT_FALSE(mobilenet.cifar);
  EXPECT_EQ(mobilenet.width.numerator, 7);
  EXPECT_EQ(mobilenet.width.denominator, 20);
  EXPECT_EQ(mobilenet.variant, bsconv::ModelVariant::baseline);
  EXPECT_EQ(parse_model_name("preresnet102_bsconvu").variant, bsconv::ModelVariant::bsconvu);
}

TEST(ModelName, ListedNamesAreNames) {
  const auto names = bsconv::list_models();
  EXPECT_GT(names.size(), 200U);
  for (const auto& name : names) {
    EXPECT_TRUE(bsconv::try_parse_model_name(name)) << name;
  }
  EXPECT_EQ(bsconv::list_models("cifar_resnet20*").size(), 4U);
  EXPECT_TRUE(bsconv::list_models("no such*").empty());
}

struct Refused {
  const char* name;
  const char* part;
  const char* nearest;
};

class ModelNameRefused : public testing::TestWithParam<Refused> {};

TEST_P(ModelNameRefused, NamesThePartAndTheNearest) {
  const auto message = message_of([] { parse_model_name(GetParam().name); });
  EXPECT_NE(message.find(GetParam().part), std::string::npos) << message;
  EXPECT_NE(message.find(std::string("nearest known name is '") + GetParam().nearest + "'"),
            std::string::npos)
      << message;
  EXPECT_FALSE(bsconv::try_parse_model_name(GetParam().name));
}

INSTANTIATE_TEST_SUITE_P(
    Names, ModelNameRefused,
    testing::Values(
        Refused{"cifar_resnet21", "at '21': expected a depth of cifar_resnet: 20, 56",
                "cifar_resnet20"},
        Refused{"cifar_resnet020", "expected a depth of cifar_resnet: 20, 56", "cifar_resnet20"},
        Refused{"cifar_wrn28_01", "at '_01': expected a widening factor", "cifar_wrn28_1"},
        Refused{"resnet20", "at '20': expected a depth of resnet: 10, 18", "resnet10"},
        Refused{"cifar_resnet", "at the end of the name: expected a depth", "cifar_resnet20"},
        Refused{"cifar_wrn28", "expected a widening factor: _K", "cifar_wrn28_1"},
        Refused{"cifar_wrn28_0", "at '_0': expected a widening factor", "cifar_wrn28_1"},
        Refused{"wrn28_1", "wide ResNets exist for CIFAR only", "cifar_wrn28_1"},
        Refused{"mobilenetv1_w1_bsconvs_p1d6", "MobileNetV1 comes plain or as _bsconvu",
                "mobilenetv2_w1_bsconvs_p1d6"},
        Refused{"mobilenetv2_w1_bsconvu", "come plain or as _bsconvs_p1d6",
                "mobilenetv1_w1_bsconvu"},
        Refused{"mobilenetv2_w1_bsconvs_p1d4", "come plain or as _bsconvs_p1d6",
                "mobilenetv2_w1_bsconvs_p1d6"},
        Refused{"mobilenetv2_w0", "at '0': expected a width", "mobilenetv2_w1"},
        Refused{"mobilenetv2_w1d0", "expected a width", "mobilenetv2_w1d2"},
        Refused{"mobilenetv1_1", "at '1': expected a width", "mobilenetv1_w1"},
        Refused{"cifar_resnet20_bsconvs_p5d4", "p between 0 and 1", "cifar_resnet20_bsconvs_p1d4"},
        Refused{"cifar_resnet20_bsconvs_p1", "expected a bottleneck width",
                "cifar_resnet20_bsconvs_p1d4"},
        Refused{"cifar_resnet20_bsconvs", "at '_bsconvs'", "cifar_resnet20_bsconvu"},
        Refused{"cifar_resnet20_bsconvux", "at '_bsconvux'", "cifar_resnet20_bsconvu"},
        Refused{"cifar_resnet20 ", "at ' '", "cifar_resnet20"},
        Refused{"cifar_resnet99999999999999999999", "expected a depth", "cifar_resnet20"},
        Refused{"", "expected an architecture", "resnet10"},
        Refused{"foo", "at 'foo': expected an architecture", "resnet10"}));

}  // namespace
}  // namespace zoo_model_name_test
