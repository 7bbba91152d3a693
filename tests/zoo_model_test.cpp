// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/nn.hpp>
#include <bsconv/replace.hpp>
#include <bsconv/zoo.hpp>

#include "support/device.hpp"
#include "support/golden.hpp"
#include "support/layers.hpp"

namespace zoo_model_test {
namespace {

using bsconv::create_model;
using bsconv::Layer;
using bsconv::ModelOptions;
using bsconv_test::message_of;

ModelOptions ten() { return ModelOptions().num_classes(10); }

/// Small models of each family and variant.
const std::vector<std::string> small_models = {
    "cifar_resnet20",
    "cifar_resnet20_bsconvu",
    "cifar_preresnet20_bsconvs_p1d4",
    "cifar_wrn16_1_bsconvu",
    "cifar_mobilenetv1_w1d4",
    "cifar_mobilenetv1_w1d4_bsconvu",
    "cifar_mobilenetv2_w1d4_bsconvs_p1d6",
    "cifar_mobilenetv3_small_w1d2_bsconvs_p1d6",
    "cifar_mobilenetv3_large_w1d4",
};

class ZooOnDevice : public bsconv_test::DeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, ZooOnDevice, bsconv_test::devices(), bsconv_test::device_name);

TEST_P(ZooOnDevice, ModelsCloneDeeply) {
  const auto input = torch::rand({2, 3, 32, 32}).to(device());
  for (const auto& name : small_models) {
    SCOPED_TRACE(name);
    auto model = create_model(name, ten().device(device()));
    bsconv_test::randomize(*model);
    model->eval();
    const torch::NoGradGuard no_grad;
    const auto expected = model->forward(input);
    const auto copy = std::dynamic_pointer_cast<bsconv::LayerImpl>(model->clone());
    ASSERT_NE(copy, nullptr);
    EXPECT_EQ(bsconv::weights::state_dict(*copy).keys(),
              bsconv::weights::state_dict(*model).keys());
    EXPECT_EQ(bsconv::has_regularization(*copy), bsconv::has_regularization(*model));
    EXPECT_FALSE(copy->is_training());
    EXPECT_TRUE(torch::equal(copy->forward(input), expected));
    for (auto& parameter : copy->parameters()) {
      parameter.zero_();
    }
    EXPECT_TRUE(torch::equal(model->forward(input), expected));
    EXPECT_FALSE(torch::equal(copy->forward(input), expected));
  }
}

TEST_P(ZooOnDevice, ModelsTrainSaveAndLoad) {
  const auto input = torch::rand({4, 3, 32, 32}).to(device());
  const auto labels = torch::tensor({1, 2, 3, 4}).to(device());
  for (const auto& name : small_models) {
    SCOPED_TRACE(name);
    auto model = create_model(name, ten().device(device()));
    torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.01));
    const auto loss = torch::nn::functional::cross_entropy(model->forward(input), labels) +
                      bsconv::regularization_loss(*model);
    loss.backward();
    for (const auto& item : model->named_parameters()) {
      ASSERT_TRUE(item.value().grad().defined()) << item.key();
    }
    optimizer.step();
    model->eval();
    std::stringstream stream;
    torch::save(model, stream);
    auto other = create_model(name, ten().device(device()));
    other->eval();
    torch::load(other, stream, device());
    EXPECT_TRUE(torch::equal(other->forward(input), model->forward(input)));
  }
}

struct ParentImpl : torch::nn::Cloneable<ParentImpl> {
  ParentImpl() { reset(); }
  void reset() override {
    model = register_module("model", create_model("cifar_resnet20_bsconvu", ten()));
    head = register_module("head", torch::nn::Linear(10, 2));
  }
  torch::Tensor forward(const torch::Tensor& x) { return head(model(x)); }
  Layer model = nullptr;
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Parent);

TEST(ZooModel, ClonesInsideAUsersModule) {
  Parent parent;
  // The classifier alone is left to replace: what lies inside a BSConvU stays.
  const auto report = bsconv::replace_with_bsconv_s(
      parent, bsconv::BSConvSReplacementOptions().kernel_sizes({}).include(
                  {"*.classifier.*", "*.pw", "*.dw"}));
  EXPECT_EQ(report.replaced(), 1U);
  parent->eval();
  const auto input = torch::rand({2, 3, 32, 32});
  const torch::NoGradGuard no_grad;
  const auto expected = parent->forward(input);
  const auto copy = std::dynamic_pointer_cast<ParentImpl>(parent->clone());
  ASSERT_NE(copy, nullptr);
  EXPECT_EQ(copy->named_parameters().keys(), parent->named_parameters().keys());
  EXPECT_TRUE(torch::equal(copy->forward(input), expected));
  for (auto& parameter : copy->parameters()) {
    parameter.zero_();
  }
  EXPECT_TRUE(torch::equal(parent->forward(input), expected));
}

TEST(ZooModel, TakesItsOptions) {
  auto model = create_model("CIFAR_ResNet20_BSConvU",
                            ModelOptions().num_classes(7).in_channels(5).dtype(torch::kDouble));
  EXPECT_EQ(model->forward(torch::rand({3, 5, 32, 32}, torch::kDouble)).sizes().vec(),
            (std::vector<int64_t>{3, 7}));
  for (const auto& item : bsconv::weights::state_dict(*model)) {
    const bool counter = item.key().find("num_batches_tracked") != std::string::npos;
    EXPECT_EQ(item.value().scalar_type(), counter ? torch::kLong : torch::kDouble) << item.key();
  }
  EXPECT_TRUE(model->is_training());
  EXPECT_EQ(create_model("cifar_resnet20")->forward(torch::rand({2, 3, 32, 32})).size(1), 1000);
}

TEST(ZooModel, DependsOnTheSeedAlone) {
  const auto weights = [](uint64_t seed) {
    torch::manual_seed(seed);
    return create_model("cifar_resnet20_bsconvs_p1d4", ten())->parameters();
  };
  const auto first = weights(1);
  const auto second = weights(1);
  const auto third = weights(2);
  int64_t changed = 0;
  for (std::size_t i = 0; i < first.size(); ++i) {
    EXPECT_TRUE(torch::equal(first[i], second[i])) << i;
    changed += torch::equal(first[i], third[i]) ? 0 : 1;
  }
  EXPECT_GT(changed, 50);
}

TEST(ZooModel, SmallerAndLargerImagesWork) {
  auto model = create_model("cifar_resnet20_bsconvu", ten());
  model->eval();
  for (const int64_t size : {8, 17, 32, 48}) {
    EXPECT_EQ(model->forward(torch::rand({1, 3, size, size})).size(1), 10) << size;
  }
}

TEST(ZooModel, AUnitWhoseLastBlockWasExchangedHasNoLossOfItsOwn) {
  auto model = bsconv::create_model("cifar_mobilenetv2_w1d4_bsconvs_p1d6");
  std::vector<bsconv::zoo::InvertedResidualImpl*> units;
  for (const auto& module : model->modules()) {
    if (auto* unit = dynamic_cast<bsconv::zoo::InvertedResidualImpl*>(module.get())) {
      units.push_back(unit);
    }
  }
  ASSERT_GT(units.size(), 1U);
  const auto loss = [&] { return bsconv::regularization_loss(*model, 1.0).item<double>(); };
  const double before = loss();
  const double own = units[0]->regularization_loss().item<double>();
  const auto exchange = [](bsconv::zoo::InvertedResidualImpl& unit) {
    const auto& options = unit.options;
    unit.replace_child("conv3", torch::nn::AnyModule(torch::nn::Conv2d(options.mid_channels(),
                                                                       options.out_channels(), 1)));
  };
  exchange(*units[0]);
  EXPECT_NEAR(loss(), before - own, 1e-4 * before);
  EXPECT_FALSE(units[0]->is_regularized());
  EXPECT_THROW(units[0]->regularization_loss(), c10::Error);
  for (auto* unit : units) {
    exchange(*unit);
  }
  EXPECT_FALSE(bsconv::has_regularization(*model));
  EXPECT_EQ(loss(), 0.0);
}

TEST(ZooModel, AUnitWhoseConvolutionWasExchangedHasNoLossOfItsOwn) {
  auto model = bsconv::create_model("cifar_mobilenetv2_w1d4_bsconvs_p1d6");
  EXPECT_TRUE(bsconv::has_regularization(*model));
  bsconv::replace_with_bsconv_u(*model, bsconv::BSConvUReplacementOptions().kernel_sizes({}));
  EXPECT_FALSE(bsconv::has_regularization(*model));
  EXPECT_EQ(bsconv::regularization_loss(*model).item<double>(), 0.0);
}

TEST(ZooModel, RefusesAWrongNumberOfChannels) {
  auto model = create_model("cifar_resnet20", ten());
  EXPECT_NE(message_of([&] {
              model->forward(torch::rand({1, 4, 32, 32}));
            }),
            "(nothing was thrown)");
}

TEST(ZooModel, OnACudaDeviceThatIsNotThereIsAnError) {
  const auto count = static_cast<c10::DeviceIndex>(torch::cuda::device_count());
  EXPECT_NE(message_of([&] {
              create_model("cifar_resnet20", ten().device(torch::Device(torch::kCUDA, count)));
            }),
            "(nothing was thrown)");
}

TEST(ZooModel, HidesNothingInTheStateOfSeUnits) {
  auto model = create_model("cifar_mobilenetv3_small_w1d2", ten());
  const auto names = model->named_parameters().keys();
  const auto has = [&](const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  EXPECT_TRUE(has("backbone.stage1.unit1.se_unit.conv1.bias"));
  EXPECT_TRUE(has("backbone.final_se.conv2.weight"));
  EXPECT_TRUE(has("classifier.conv.bias"));
  EXPECT_FALSE(has("backbone.stage2.unit1.se_unit.conv1.bias"));
}

}  // namespace
}  // namespace zoo_model_test
