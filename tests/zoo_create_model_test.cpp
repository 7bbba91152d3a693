// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/bsconv.hpp>

#include "support/golden.hpp"

namespace zoo_create_model_test {
namespace {

using bsconv::create_model;
using bsconv::ModelOptions;
using bsconv_test::message_of;

const std::vector<std::string> one_of_each = {"cifar_resnet20",
                                              "cifar_resnet20_bsconvu",
                                              "cifar_resnet20_bsconvs_p1d4",
                                              "cifar_preresnet20_bsconvu",
                                              "cifar_wrn16_1_bsconvs_p1d8",
                                              "cifar_mobilenetv1_w1d4",
                                              "cifar_mobilenetv1_w1d4_bsconvu",
                                              "cifar_mobilenetv2_w1d4_bsconvs_p1d6",
                                              "cifar_mobilenetv3_small_w7d20",
                                              "cifar_mobilenetv3_large_w7d20_bsconvs_p1d6"};

class CreateModel : public testing::TestWithParam<std::string> {};

TEST_P(CreateModel, ClonesDeeply) {
  torch::manual_seed(4);
  auto model = create_model(GetParam(), ModelOptions().num_classes(10));
  model->eval();
  const auto input = torch::rand({2, 3, 32, 32});
  const auto output = model->forward(input);
  bsconv::Layer copy(std::dynamic_pointer_cast<bsconv::LayerImpl>(model->clone()));
  EXPECT_EQ(copy->named_parameters().keys(), model->named_parameters().keys());
  EXPECT_EQ(copy->named_buffers().keys(), model->named_buffers().keys());
  EXPECT_TRUE(torch::equal(copy->forward(input), output));
  EXPECT_EQ(bsconv::has_regularization(*copy), bsconv::has_regularization(*model));
  {
    torch::NoGradGuard no_grad;
    for (auto& parameter : copy->parameters()) {
      parameter.fill_(0.5);
    }
  }
  EXPECT_TRUE(torch::equal(model->forward(input), output));
  EXPECT_FALSE(torch::equal(copy->forward(input), output));
}

TEST_P(CreateModel, SavesAndLoads) {
  auto model = create_model(GetParam(), ModelOptions().num_classes(10));
  auto other = create_model(GetParam(), ModelOptions().num_classes(10));
  bsconv_test::fill(*model, 8);
  std::stringstream stream;
  torch::save(model, stream);
  torch::load(other, stream);
  model->eval();
  other->eval();
  const auto input = torch::rand({2, 3, 32, 32});
  EXPECT_TRUE(torch::equal(model->forward(input), other->forward(input)));
}

TEST_P(CreateModel, TakesChannelsClassesAndDtype) {
  auto model =
      create_model(GetParam(), ModelOptions().num_classes(7).in_channels(1).dtype(torch::kDouble));
  const auto output = model->forward(torch::rand({2, 1, 32, 32}, torch::kDouble));
  EXPECT_EQ(output.sizes().vec(), (std::vector<int64_t>{2, 7}));
  EXPECT_EQ(output.scalar_type(), torch::kDouble);
}

TEST_P(CreateModel, FusesForEvaluation) {
  auto model = create_model(GetParam(), ModelOptions().num_classes(10));
  bsconv_test::fill(*model, 9);
  model->eval();
  const auto input = torch::rand({2, 3, 32, 32});
  const auto output = model->forward(input);
  bsconv::fuse(*model);
  const double scale = output.abs().mean().item<double>();
  EXPECT_TRUE(torch::allclose(model->forward(input), output, 1e-4, 1e-5 * scale));
}

TEST_P(CreateModel, EveryParameterGetsAGradient) {
  auto model = create_model(GetParam(), ModelOptions().num_classes(10));
  const auto loss =
      torch::nn::functional::cross_entropy(model->forward(torch::rand({4, 3, 32, 32})),
                                           torch::randint(0, 10, {4}, torch::kLong)) +
      bsconv::regularization_loss(*model);
  loss.backward();
  for (const auto& parameter : model->named_parameters()) {
    EXPECT_TRUE(parameter.value().grad().defined()) << parameter.key();
  }
}

INSTANTIATE_TEST_SUITE_P(Zoo, CreateModel, testing::ValuesIn(one_of_each));

TEST(CreateModelErrors, SayWhatIsWrong) {
  const auto expect = [](auto&& make, const char* part) {
    const auto message = message_of(make);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect([] { create_model("cifar_resnet20", ModelOptions().num_classes(0)); },
         "num_classes must be at least 1, got 0");
  expect([] { create_model("cifar_resnet20", ModelOptions().in_channels(-3)); },
         "in_channels must be at least 1, got -3");
  expect([] { create_model("cifar_resnet20", ModelOptions().dtype(torch::kLong)); },
         "dtype must be a floating-point type");
  expect([] { create_model("cifar_resnet20", ModelOptions().device(torch::kMeta)); },
         "device must be a CPU or CUDA device, got meta");
  expect([] { create_model("cifar_mobilenetv1_w1d100"); }, "use a wider one");
  expect([] { create_model("cifar_mobilenetv3_small_w1d16"); }, "SqueezeExcite: channels");
  expect([] { create_model("resnet"); }, "expected a depth of resnet");
}

struct MineImpl : bsconv::LayerImpl {
  torch::nn::Linear fc{nullptr};
  explicit MineImpl(int64_t classes) { fc = register_module("fc", torch::nn::Linear(4, classes)); }
  torch::Tensor forward(const torch::Tensor& x) override { return fc(x); }
};

TEST(ModelRegistry, TakesBuildersOfOnesOwn) {
  bsconv::register_model("Mine", [](const ModelOptions& options) {
    return bsconv::Layer(std::make_shared<MineImpl>(options.num_classes()));
  });
  EXPECT_EQ(bsconv::list_models("mine"), std::vector<std::string>{"mine"});
  EXPECT_EQ(
      create_model("MINE", ModelOptions().num_classes(3))->forward(torch::ones({2, 4})).size(1), 3);
  const auto builder = [](const ModelOptions&) { return bsconv::Layer(nullptr); };
  EXPECT_NE(message_of([&] {
              bsconv::register_model("mine", builder);
            }).find("'mine' is registered already"),
            std::string::npos);
  EXPECT_NE(
      message_of([&] { bsconv::register_model("resnet18", builder); }).find("is a name of the zoo"),
      std::string::npos);
  EXPECT_NE(message_of([&] { bsconv::register_model("", builder); }).find("the name is empty"),
            std::string::npos);
  EXPECT_NE(message_of([] { bsconv::register_model("other", nullptr); }).find("has no builder"),
            std::string::npos);
  EXPECT_TRUE(bsconv::unregister_model("mine"));
  EXPECT_FALSE(bsconv::unregister_model("mine"));
  bsconv::register_model("empty", builder);
  EXPECT_NE(message_of([] { create_model("empty"); }).find("returned no model"), std::string::npos);
  bsconv::unregister_model("empty");
}

}  // namespace
}  // namespace zoo_create_model_test
