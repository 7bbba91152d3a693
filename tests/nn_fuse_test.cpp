// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/nn.hpp>
#include <bsconv/replace.hpp>
#include <bsconv/zoo.hpp>

#include "support/device.hpp"
#include "support/golden.hpp"
#include "support/layers.hpp"

namespace nn_fuse_test {
namespace {

using bsconv::BSConvS;
using bsconv::BSConvSOptions;
using bsconv::BSConvU;
using bsconv::BSConvUOptions;
using bsconv_test::Draw;
using bsconv_test::message_of;
using Names = std::vector<std::string>;

double distance(const torch::Tensor& a, const torch::Tensor& b) {
  return ((a - b).abs().max() / (1.0 + b.abs().max())).item<double>();
}

class FuseOnDevice : public bsconv_test::DeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, FuseOnDevice, bsconv_test::devices(), bsconv_test::device_name);

TEST_P(FuseOnDevice, KeepsTheOutputsOfAnyGeometry) {
  Draw draw(3);
  for (int round = 0; round < 40; ++round) {
    const auto geometry = bsconv_test::random_convolution(draw);
    const auto bn = torch::nn::BatchNormOptions(1).affine(draw.flip()).eps(0.03);
    BSConvU u(BSConvUOptions(geometry).with_bn(true).bn_options(bn));
    BSConvS s(BSConvSOptions(geometry)
                  .with_bn(true)
                  .bn_options(bn)
                  .p(0.1 * static_cast<double>(draw(0, 10)))
                  .min_mid_channels(draw(1, 3)));
    const auto input = torch::randn({2, geometry.in_channels(), 14, 15}).to(device());
    const auto check = [&](auto& layer) {
      bsconv_test::randomize(*layer);
      layer->to(device());
      layer->eval();
      SCOPED_TRACE(testing::Message() << *layer);
      const auto expected = layer->forward(input);
      layer->fuse();
      EXPECT_TRUE(layer->is_fused());
      EXPECT_LT(distance(layer->forward(input), expected), 1e-5);
      layer->fuse();
      EXPECT_LT(distance(layer->forward(input), expected), 1e-5);
      for (const auto& name : bsconv_test::parameter_names(*layer)) {
        EXPECT_EQ(name.find("bn"), std::string::npos) << name;
      }
      EXPECT_TRUE(layer->buffers().empty());
      EXPECT_FALSE(layer->is_training());
    };
    check(u);
    check(s);
  }
}

TEST_P(FuseOnDevice, FusesReplacedLayersInPlace) {
  struct NetImpl : torch::nn::Module {
    torch::nn::Conv2d conv =
        register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).padding(1)));
    torch::Tensor forward(const torch::Tensor& x) { return conv(x); }
  };
  for (const bool subspace : {false, true}) {
    NetImpl net;
    net.to(device());
    if (subspace) {
      bsconv::replace_with_bsconv_s(net, bsconv::BSConvSReplacementOptions().with_bn(true));
    } else {
      bsconv::replace_with_bsconv_u(net, bsconv::BSConvUReplacementOptions().with_bn(true));
    }
    bsconv_test::randomize(net);
    net.eval();
    const auto input = torch::randn({2, 3, 9, 9}).to(device());
    const auto expected = net.forward(input);
    EXPECT_EQ(bsconv::fuse(net), 1U);
    EXPECT_LT(distance(net.forward(input), expected), 1e-5);
    EXPECT_EQ(bsconv_test::parameter_names(net),
              (Names{"conv.pw.weight", "conv.pw.bias", "conv.dw.weight", "conv.dw.bias"}));
    EXPECT_TRUE(net.buffers().empty());
    EXPECT_EQ(bsconv::fuse(net), 0U);
    EXPECT_FALSE(bsconv::has_regularization(net));
  }
}

TEST_P(FuseOnDevice, FusesModelsOfTheZoo) {
  auto model = bsconv::create_model("cifar_resnet20_bsconvs_p1d4",
                                    bsconv::ModelOptions().num_classes(10).device(device()));
  bsconv_test::randomize(*model);
  model->eval();
  const auto input = torch::rand({2, 3, 32, 32}).to(device());
  const auto expected = model->forward(input);
  EXPECT_EQ(bsconv::fuse(*model), 19U);
  EXPECT_LT(distance(model->forward(input), expected), 1e-4);
  const auto copy = std::dynamic_pointer_cast<bsconv::LayerImpl>(model->clone());
  EXPECT_LT(distance(copy->forward(input), expected), 1e-4);
}

TEST(Fuse, MergesWhereTheProductTakesFewerMultiplications) {
  for (const int64_t mid : {1, 7, 8, 9, 16}) {
    BSConvS layer(BSConvSOptions(16, 16, 3)
                      .p(static_cast<double>(mid) / 16.0)
                      .min_mid_channels(1)
                      .with_bn(true));
    layer->eval();
    layer->fuse();
    // 16 * mid + mid * 16 against 16 * 16.
    EXPECT_EQ(static_cast<bool>(layer->pw), mid > 8) << mid;
    EXPECT_EQ(layer->named_children().keys(),
              mid > 8 ? (Names{"pw", "dw"}) : (Names{"pw1", "pw2", "dw"}));
    EXPECT_EQ(bsconv::describe(*layer).find("fused)") != std::string::npos, true);
  }
}

TEST(Fuse, LeavesWhatIsCheapestAsItIs) {
  BSConvU u(3, 8, 3);
  BSConvS s(BSConvSOptions(16, 16, 3).p(0.25));
  u->eval();
  s->eval();
  const auto weight = s->pw1->weight;
  u->fuse();
  s->fuse();
  EXPECT_FALSE(u->is_fused());
  EXPECT_FALSE(s->is_fused());
  EXPECT_TRUE(s->pw1->weight.is_same(weight));
  EXPECT_TRUE(s->is_regularized());
}

TEST(Fuse, AFusedLayerSavesLoadsAndHasNoLoss) {
  const auto make = [] {
    BSConvS layer(BSConvSOptions(4, 8, 3).with_bn(true));
    bsconv_test::randomize(*layer);
    layer->eval();
    layer->fuse();
    return layer;
  };
  torch::manual_seed(4);
  auto layer = make();
  auto other = make();
  const auto input = torch::randn({2, 4, 6, 6});
  bsconv_test::expect_round_trip(layer, other, [&](BSConvS m) { return m->forward(input); });
  EXPECT_FALSE(layer->is_regularized());
  EXPECT_FALSE(bsconv::has_regularization(*layer));
  EXPECT_EQ(bsconv::regularization_loss(*layer).item<double>(), 0.0);
  EXPECT_NE(message_of([&] { layer->regularization_loss(); }).find("fuse() is for evaluation"),
            std::string::npos);
}

TEST(Fuse, KeepsDtypeAndWhetherGradientsAreWanted) {
  BSConvU layer(BSConvUOptions(4, 8, 3).with_bn(true));
  layer->to(torch::kDouble);
  for (auto& parameter : layer->parameters()) {
    parameter.set_requires_grad(false);
  }
  layer->eval();
  layer->fuse();
  for (const auto& parameter : layer->parameters()) {
    EXPECT_EQ(parameter.scalar_type(), torch::kDouble);
    EXPECT_FALSE(parameter.requires_grad());
  }
}

struct SqueezedImpl : bsconv::BSConvSImpl {
  explicit SqueezedImpl(const BSConvSOptions& options) : BSConvSImpl(options) {}
  torch::Tensor forward(const torch::Tensor& x) {
    return dw(bn2(pw2(bn1(pw1(x)))).relu()) * scale(x.mean({2, 3}, true));
  }
  torch::nn::Conv2d scale = register_module("scale", torch::nn::Conv2d(4, 8, 1));
};
TORCH_MODULE(Squeezed);

TEST(Fuse, ClassesDerivedFromALayerStayAsTheyAre) {
  torch::nn::Sequential net(Squeezed(BSConvSOptions(4, 8, 3).with_bn(true)));
  net->eval();
  const auto x = torch::randn({2, 4, 6, 6});
  const auto expected = net->forward(x);
  const auto names = bsconv_test::parameter_names(*net);
  EXPECT_EQ(bsconv::fuse(*net), 0U);
  EXPECT_EQ(bsconv_test::parameter_names(*net), names);
  EXPECT_TRUE(torch::equal(net->forward(x), expected));
  // Asked for it, it keeps what is its own.
  net[0]->as<Squeezed>()->fuse();
  EXPECT_TRUE(net->named_parameters().contains("0.scale.weight"));
}

TEST(Fuse, ChangesAllOrNothing) {
  const auto layer = [] { return BSConvU(BSConvUOptions(3, 3, 3).with_bn(true)); };
  torch::nn::Sequential net(layer(), layer());
  net->eval();
  net[1]->as<BSConvU>()->bn->train();
  const auto names = bsconv_test::parameter_names(*net);
  EXPECT_NE(message_of([&] { bsconv::fuse(*net); }).find("call eval() first"), std::string::npos);
  EXPECT_EQ(bsconv_test::parameter_names(*net), names);
}

TEST(Fuse, OneSubstituteOfTwoConvolutionsIsFusedInBoth) {
  struct NetImpl : torch::nn::Module {
    torch::nn::Conv2d a = register_module("a", torch::nn::Conv2d(3, 3, 3));
    torch::nn::Conv2d b = register_module("b", torch::nn::Conv2d(3, 3, 3));
  };
  NetImpl net;
  const torch::nn::AnyModule both(BSConvU(BSConvUOptions(3, 3, 3).with_bn(true)));
  bsconv::graft(*net.a, both);
  bsconv::graft(*net.b, both);
  net.eval();
  EXPECT_EQ(bsconv::fuse(net), 1U);
  EXPECT_TRUE(net.buffers().empty());
  EXPECT_EQ(net.b->named_children().keys(), (Names{"pw", "dw"}));
}

TEST(Fuse, RefusesAModelInTrainingMode) {
  torch::nn::Sequential net(BSConvU(BSConvUOptions(3, 8, 3).with_bn(true)));
  EXPECT_NE(message_of([&] { bsconv::fuse(*net); }).find("call eval() first"), std::string::npos);
  EXPECT_EQ(bsconv_test::parameter_names(*net).size(), 5U);
  bsconv::BSConvS untracked(BSConvSOptions(3, 8, 3).with_bn(true).bn_options(
      torch::nn::BatchNormOptions(1).track_running_stats(false)));
  untracked->eval();
  const auto names = bsconv_test::parameter_names(*untracked);
  EXPECT_NE(message_of([&] { untracked->fuse(); }).find("track_running_stats=false"),
            std::string::npos);
  EXPECT_EQ(bsconv_test::parameter_names(*untracked), names);
}

}  // namespace
}  // namespace nn_fuse_test
