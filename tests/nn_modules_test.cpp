// SPDX-License-Identifier: BSD-3-Clause-Clear
// BSConvU and BSConvS: options, printing, cloning, fusing, errors.
#include <bsconv/nn.hpp>

#include <random>

#include "support/golden.hpp"

namespace nn_modules_test {
namespace {

using bsconv::BSConvS;
using bsconv::BSConvSOptions;
using bsconv::BSConvU;
using bsconv::BSConvUOptions;
using bsconv_test::message_of;

TEST(NnOptions, RefuseWhatIsOutOfRange) {
  const auto expect = [](auto&& make, const char* part) {
    const auto message = message_of(make);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect([] { BSConvU(0, 8, 3); }, "BSConvU: in_channels must be at least 1, got 0");
  expect([] { BSConvU(3, -1, 3); }, "BSConvU: out_channels must be at least 1, got -1");
  expect([] { BSConvU(3, 8, 0); }, "BSConvU: kernel_size must be at least 1, got [0, 0]");
  expect([] { BSConvU(BSConvUOptions(3, 8, 3).stride(0)); }, "stride must be at least 1");
  expect([] { BSConvU(BSConvUOptions(3, 8, 3).dilation(0)); }, "dilation must be at least 1");
  expect([] { BSConvU(BSConvUOptions(3, 8, 3).padding(-1)); }, "padding must be at least 0");
  expect([] { BSConvS(BSConvSOptions(3, 8, 3).p(-0.1)); }, "p must lie between 0 and 1, got -0.1");
  expect([] { BSConvS(BSConvSOptions(3, 8, 3).p(std::nan(""))); }, "p must lie between 0 and 1");
  expect([] { BSConvS(BSConvSOptions(3, 8, 3).min_mid_channels(0)); },
         "min_mid_channels must be at least 1, got 0");
  expect([] { BSConvUOptions(torch::nn::Conv2dOptions(4, 4, 3).groups(2)); },
         "groups must be 1 (the pointwise part mixes all channels), got 2");
  expect([] { BSConvU(BSConvUOptions(3, 8, 3).stride(2).padding(torch::kSame)); },
         "padding='same' is not supported for strided convolutions");
}

TEST(NnOptions, MidChannelsFollowTheFormula) {
  EXPECT_EQ(BSConvSOptions(64, 1, 1).p(0.25).mid_channels(), 16);
  EXPECT_EQ(BSConvSOptions(10, 1, 1).p(0.25).mid_channels(), 4);
  EXPECT_EQ(BSConvSOptions(3, 1, 1).p(0.25).mid_channels(), 3);
  EXPECT_EQ(BSConvSOptions(8, 1, 1).p(0.0).min_mid_channels(1).mid_channels(), 1);
  EXPECT_EQ(BSConvSOptions(9, 1, 1).p(1.0).mid_channels(), 9);
}

TEST(NnModules, TakeAllOfConv2dOptions) {
  BSConvU from_conv(BSConvUOptions(torch::nn::Conv2dOptions(4, 6, {3, 5})
                                       .padding(torch::kSame)
                                       .padding_mode(torch::kReplicate)
                                       .bias(false)));
  const auto output = from_conv->forward(torch::ones({2, 4, 7, 9}));
  EXPECT_EQ(output.sizes().vec(), (std::vector<int64_t>{2, 6, 7, 9}));
  EXPECT_FALSE(from_conv->dw->bias.defined());
  EXPECT_EQ(from_conv->forward(torch::ones({4, 7, 9})).dim(), 3);
  BSConvU valid(BSConvUOptions(4, 6, 3).padding(torch::kValid).stride(2));
  EXPECT_EQ(valid->forward(torch::ones({2, 4, 7, 9})).size(2), 3);
}

TEST(NnModules, RefuseWrongInputs) {
  BSConvU u(3, 8, 3);
  EXPECT_NE(message_of([&] {
              u->forward(torch::ones({1, 4, 9, 9}));
            }).find("BSConvU: expected 3 input channels, got 4 in a tensor of shape [1, 4, 9, 9]"),
            std::string::npos);
  BSConvS s(3, 8, 3);
  EXPECT_NE(message_of([&] {
              s->forward(torch::ones({9, 9}));
            }).find("BSConvS: expected an input of shape [N, 3, H, W], got [9, 9]"),
            std::string::npos);
}

TEST(NnModules, PrintWhatTheyAre) {
  EXPECT_EQ(bsconv::describe(*BSConvU(BSConvUOptions(3, 8, 3).padding(1).with_bn(true))),
            "bsconv::BSConvU(3, 8, kernel_size=[3, 3], stride=[1, 1], padding=[1, 1], "
            "with_bn=true)");
  EXPECT_EQ(bsconv::describe(*BSConvS(BSConvSOptions(16, 8, 5)
                                          .padding(torch::kSame)
                                          .dilation(2)
                                          .bias(false)
                                          .padding_mode(torch::kCircular)
                                          .p(0.5))),
            "bsconv::BSConvS(16, 8, kernel_size=[5, 5], stride=[1, 1], padding='same', "
            "dilation=[2, 2], bias=false, padding_mode=kCircular, p=0.5, mid_channels=8, "
            "regularization_loss=attached)");
}

template <class Module>
void randomize(Module& module) {
  torch::NoGradGuard no_grad;
  for (const auto& item : module->named_buffers()) {
    if (item.value().is_floating_point()) {
      item.value().copy_(item.key().find("var") != std::string::npos
                             ? torch::rand(item.value().sizes()) + 0.5
                             : torch::randn(item.value().sizes()));
    }
  }
  for (auto& parameter : module->parameters()) {
    parameter.add_(0.3 * torch::randn(parameter.sizes()));
  }
}

template <class Module>
void expect_deep_clone(Module& module, const torch::Tensor& input) {
  module->eval();
  const auto output = module->forward(input);
  const auto copy = std::dynamic_pointer_cast<typename Module::ContainedType>(module->clone());
  ASSERT_NE(copy, nullptr);
  EXPECT_EQ(copy->named_parameters().keys(), module->named_parameters().keys());
  EXPECT_TRUE(torch::equal(copy->forward(input), output));
  torch::NoGradGuard no_grad;
  for (auto& parameter : copy->parameters()) {
    parameter.zero_();
  }
  EXPECT_TRUE(torch::equal(module->forward(input), output));
}

TEST(NnModules, FuseAndCloneKeepTheOutputs) {
  std::mt19937 random(1);
  const auto draw = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  torch::manual_seed(2);
  int merged = 0;
  int folded = 0;
  for (int round = 0; round < 40; ++round) {
    const int64_t in = draw(1, 20);
    const int64_t out = draw(1, 20);
    const int64_t kernel = draw(1, 5);
    const auto input = torch::randn({2, in, 12, 13});
    BSConvU u(BSConvUOptions(in, out, kernel)
                  .stride(draw(1, 2))
                  .padding(draw(0, 2))
                  .with_bn(draw(0, 1) == 1));
    BSConvS s(BSConvSOptions(in, out, kernel)
                  .padding(draw(0, 2))
                  .with_bn(draw(0, 1) == 1)
                  .p(0.1 * static_cast<double>(draw(0, 10)))
                  .min_mid_channels(draw(1, 4)));
    randomize(u);
    randomize(s);
    expect_deep_clone(u, input);
    expect_deep_clone(s, input);
    const auto output_u = u->forward(input);
    const auto output_s = s->forward(input);
    const int64_t mid = s->options.mid_channels();
    u->fuse();
    s->fuse();
    EXPECT_TRUE(torch::allclose(u->forward(input), output_u, 1e-5, 1e-5));
    EXPECT_TRUE(torch::allclose(s->forward(input), output_s, 1e-5, 1e-5));
    const bool merges = mid * (in + out) > in * out;
    EXPECT_EQ(static_cast<bool>(s->pw), merges);
    EXPECT_EQ(u->is_fused(), u->options.with_bn());
    merged += merges ? 1 : 0;
    folded += s->is_fused() && !merges ? 1 : 0;
    EXPECT_FALSE(u->bn);
    EXPECT_FALSE(s->bn1);
    expect_deep_clone(u, input);
    expect_deep_clone(s, input);
    if (s->is_fused()) {
      EXPECT_EQ(s->named_children().keys(), merges
                                                ? (std::vector<std::string>{"pw", "dw"})
                                                : (std::vector<std::string>{"pw1", "pw2", "dw"}));
      EXPECT_NE(message_of([&] { s->regularization_loss(); }).find("no regularization loss"),
                std::string::npos);
    }
  }
  EXPECT_GT(merged, 0);
  EXPECT_GT(folded, 0);
}

TEST(NnModules, FuseIsForEvaluation) {
  BSConvU u(BSConvUOptions(3, 8, 3).with_bn(true));
  BSConvS s(BSConvSOptions(3, 8, 3).with_bn(true));
  EXPECT_NE(message_of([&] { u->fuse(); }).find("fuse() is for evaluation"), std::string::npos);
  EXPECT_NE(message_of([&] { s->fuse(); }).find("fuse() is for evaluation"), std::string::npos);
  BSConvU untracked(BSConvUOptions(3, 8, 3).with_bn(true).bn_options(
      torch::nn::BatchNormOptions(1).track_running_stats(false)));
  untracked->eval();
  EXPECT_NE(message_of([&] { untracked->fuse(); }).find("track_running_stats=false"),
            std::string::npos);
}

TEST(NnRegularization, SumsOverAllModules) {
  BSConvS first(4, 4, 3);
  BSConvS second(8, 4, 3);
  torch::nn::Sequential net(first, second);
  const double sum =
      first->regularization_loss().item<double>() + second->regularization_loss().item<double>();
  EXPECT_NEAR(bsconv::regularization_loss(*net, 0.5).item<double>(), 0.5 * sum, 1e-6);
  EXPECT_EQ(bsconv::regularization_loss(*torch::nn::Linear(2, 2)).item<double>(), 0.0);
  EXPECT_NE(message_of([&] {
              bsconv::regularization_loss(*net, -1.0);
            }).find("alpha must be finite and at least 0, got -1"),
            std::string::npos);
  const auto rows = torch::eye(3, 5).view({3, 5, 1, 1}).requires_grad_();
  const auto loss = bsconv::orthonormality_loss(rows);
  loss.backward();
  EXPECT_EQ(loss.item<double>(), 0.0);
  EXPECT_TRUE(torch::isfinite(rows.grad()).all().item<bool>());
}

struct DoublerImpl : bsconv::Composite<DoublerImpl> {
  Child conv = add("conv", torch::nn::Conv2d(2, 2, 1));
  torch::Tensor forward(const torch::Tensor& x) override { return 2 * call(conv, x); }
};
TORCH_MODULE(Doubler);

struct ParentImpl : torch::nn::Cloneable<ParentImpl> {
  Doubler doubler{nullptr};
  ParentImpl() { reset(); }
  void reset() override { doubler = register_module("doubler", Doubler()); }
  torch::Tensor forward(const torch::Tensor& x) { return doubler(x); }
};
TORCH_MODULE(Parent);

TEST(NnComposite, ClonesWhateverIsThere) {
  const auto input = torch::randn({1, 2, 3, 3});
  Doubler doubler;
  expect_deep_clone(doubler, input);
  doubler->replace_child("conv", torch::nn::AnyModule(BSConvU(2, 2, 1)));
  expect_deep_clone(doubler, input);
  Parent parent;
  expect_deep_clone(parent, input);
  parent->doubler->replace_child("conv", torch::nn::AnyModule(BSConvU(2, 2, 1)));
  expect_deep_clone(parent, input);
}

TEST(NnFuse, FusesAWholeModel) {
  torch::nn::Sequential net(BSConvU(BSConvUOptions(3, 8, 3).with_bn(true)),
                            BSConvU(BSConvUOptions(8, 8, 3)),
                            BSConvS(BSConvSOptions(8, 8, 3).with_bn(true)));
  randomize(net);
  net->eval();
  const auto input = torch::randn({2, 3, 12, 12});
  const auto output = net->forward(input);
  EXPECT_EQ(bsconv::fuse(*net), 2U);
  EXPECT_TRUE(torch::allclose(net->forward(input), output, 1e-5, 1e-5));
  EXPECT_EQ(bsconv::fuse(*net), 0U);
}

}  // namespace
}  // namespace nn_modules_test
