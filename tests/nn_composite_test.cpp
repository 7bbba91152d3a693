// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/nn.hpp>

#include "support/golden.hpp"
#include "support/layers.hpp"

namespace nn_composite_test {
namespace {

using bsconv::Chain;
using bsconv::Layer;
using bsconv_test::message_of;
using torch::nn::AnyModule;
using Names = std::vector<std::string>;

struct ResidualImpl : bsconv::Composite<ResidualImpl> {
  explicit ResidualImpl(int64_t channels) : channels(channels) {
    conv_ = add("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(channels, channels, 1)));
    norm_ = add("norm", AnyModule(torch::nn::BatchNorm2d(channels)));
  }
  torch::Tensor forward(const torch::Tensor& x) override {
    return missing_ ? call(missing_, x) : x + call(norm_, call(conv_, x));
  }
  std::shared_ptr<torch::nn::Module> conv() const { return module(conv_); }
  int64_t channels;

 private:
  Child conv_, norm_, missing_;
};
TORCH_MODULE(Residual);

struct ParentImpl : torch::nn::Cloneable<ParentImpl> {
  ParentImpl() { reset(); }
  void reset() override {
    residual = register_module("residual", Residual(2));
    chain = register_module("chain", Chain());
    chain->push_back("inner", Residual(2));
  }
  torch::Tensor forward(const torch::Tensor& x) { return chain(residual(x)); }
  Residual residual{nullptr};
  Chain chain{nullptr};
};
TORCH_MODULE(Parent);

TEST(Composite, RegistersWhatItAdds) {
  Residual residual(2);
  EXPECT_EQ(bsconv::weights::state_dict(*residual).keys(),
            (Names{"conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean",
                   "norm.running_var", "norm.num_batches_tracked"}));
  residual->eval();
  const auto input = torch::randn({1, 2, 3, 3});
  const auto conv = residual->conv()->as<torch::nn::Conv2d>();
  ASSERT_NE(conv, nullptr);
  const auto scale = 1.0 / std::sqrt(1.0 + 1e-5);
  EXPECT_TRUE(torch::allclose(residual(input), input + scale * conv->forward(input), 1e-4, 1e-5));
}

TEST(Composite, ExchangesChildrenInRegistryAndForward) {
  Residual residual(2);
  residual->eval();
  const auto input = torch::randn({1, 2, 3, 3});
  bsconv::BSConvU other(2, 2, 1);
  residual->replace_child("conv", AnyModule(other));
  EXPECT_EQ(residual->conv(), other.ptr());
  EXPECT_EQ(residual->named_children().keys(), (Names{"conv", "norm"}));
  residual->replace_child("norm", AnyModule(torch::nn::Identity()));
  EXPECT_TRUE(torch::equal(residual(input), input + other(input)));
  const auto message =
      message_of([&] { residual->replace_child("bn", AnyModule(torch::nn::Identity())); });
  EXPECT_NE(message.find("has no child 'bn'"), std::string::npos) << message;
}

TEST(Composite, ClonesDeeplyWhateverIsThere) {
  torch::manual_seed(1);
  const auto input = torch::randn({2, 2, 3, 3});
  Residual residual(2);
  residual->eval();
  const auto run = [&](auto module) { return module->forward(input); };
  bsconv_test::expect_deep_clone(residual, run);
  residual->replace_child("conv", AnyModule(bsconv::BSConvS(2, 2, 1)));
  bsconv_test::expect_deep_clone(residual, run);
  Chain chain;
  chain->push_back("a", residual).push_back("b", torch::nn::ReLU());
  chain->eval();
  bsconv_test::expect_deep_clone(chain, run);
  const auto copy = residual->clone();
  EXPECT_EQ(dynamic_cast<const ResidualImpl&>(*copy).channels, 2);
  EXPECT_FALSE(copy->is_training());
}

struct ScaledImpl : bsconv::Composite<ScaledImpl> {
  explicit ScaledImpl(int what) {
    if (what == 1) {
      register_parameter("scale", torch::ones({1}));
    } else if (what == 2) {
      register_buffer("scale", torch::ones({1}));
    } else if (what == 3) {
      register_module("scale", torch::nn::ReLU());
    }
    add("conv", torch::nn::Conv2d(2, 2, 1));
  }
  torch::Tensor forward(const torch::Tensor& x) override { return call_all(x); }
};

TEST(Composite, RefusesToShareWhatItCannotClone) {
  EXPECT_EQ(message_of([] { ScaledImpl(0).clone(); }), "(nothing was thrown)");
  for (const int what : {1, 2, 3}) {
    const auto message = message_of([&] { ScaledImpl(what).clone(); });
    EXPECT_NE(message.find("has a parameter, a buffer or a child that no add() made"),
              std::string::npos)
        << message;
  }
}

TEST(Composite, ClonesInsideATypedParent) {
  torch::manual_seed(2);
  const auto input = torch::randn({2, 2, 3, 3});
  const auto run = [&](Parent module) { return module->forward(input); };
  Parent parent;
  parent->residual->replace_child("conv", AnyModule(bsconv::BSConvU(2, 2, 1)));
  parent->chain->replace_child("inner", AnyModule(bsconv::BSConvU(2, 2, 1)));
  parent->eval();
  bsconv_test::expect_deep_clone(parent, run);
  const auto copy = std::dynamic_pointer_cast<ParentImpl>(parent->clone());
  EXPECT_EQ(copy->residual->parameters()[0].data_ptr(), copy->parameters()[0].data_ptr());
  EXPECT_NE(copy->residual->parameters()[0].data_ptr(), parent->parameters()[0].data_ptr());
}

TEST(Composite, ChainsRunInOrderAndNest) {
  Chain inner;
  inner->push_back("relu", torch::nn::ReLU());
  Chain chain;
  const auto input = torch::randn({5});
  EXPECT_TRUE(torch::equal(chain(input), input));
  chain->push_back("tanh", torch::nn::Tanh()).push_back("inner", inner);
  EXPECT_TRUE(torch::equal(chain(input), input.tanh().relu()));
  torch::nn::Sequential sequential(chain, torch::nn::Sigmoid());
  EXPECT_TRUE(torch::equal(sequential->forward(input), input.tanh().relu().sigmoid()));
  EXPECT_NE(message_of([&] { chain->push_back("tanh", torch::nn::ReLU()); }),
            "(nothing was thrown)");
  EXPECT_TRUE(torch::equal(chain(input), input.tanh().relu()));
}

TEST(Layer, HoldsAnyLayer) {
  Layer empty = nullptr;
  EXPECT_TRUE(empty.is_empty());
  Residual residual(2);
  residual->eval();
  Layer layer = residual;
  const auto input = torch::randn({1, 2, 3, 3});
  EXPECT_TRUE(torch::equal(layer->forward(input), residual->forward(input)));
  layer = std::make_shared<bsconv::ChainImpl>();
  EXPECT_TRUE(torch::equal(layer(input), input));
}

class Recorder : public bsconv::CallObserver {
 public:
  void enter(const torch::nn::Module& module) override { calls.push_back("+" + module.name()); }
  void leave(const torch::nn::Module& module) override { calls.push_back("-" + module.name()); }
  Names calls;

 private:
  bsconv::CallObserverGuard guard_{*this};
};

struct ThrowerImpl : torch::nn::Module {
  torch::Tensor forward(const torch::Tensor& /*x*/) { throw std::runtime_error("no"); }
};
TORCH_MODULE(Thrower);

TEST(CallObserver, SeesCallsAlsoThoseThatThrow) {
  Chain inner;
  inner->push_back("relu", torch::nn::ReLU());
  Chain chain;
  chain->push_back("inner", inner).push_back("tanh", torch::nn::Tanh());
  Recorder recorder;
  chain(torch::ones({2}));
  EXPECT_EQ(recorder.calls,
            (Names{"+bsconv::ChainImpl", "+torch::nn::ReLUImpl", "-torch::nn::ReLUImpl",
                   "-bsconv::ChainImpl", "+torch::nn::TanhImpl", "-torch::nn::TanhImpl"}));
  recorder.calls.clear();
  inner->push_back("thrower", Thrower());
  EXPECT_THROW(chain(torch::ones({2})), std::runtime_error);
  ASSERT_EQ(recorder.calls.size(), 6U);
  EXPECT_EQ(recorder.calls.back(), "-bsconv::ChainImpl");
}

TEST(CallObserver, SeesSubstitutes) {
  torch::nn::Conv2d conv(2, 3, 3);
  bsconv::graft(*conv, AnyModule(bsconv::BSConvU(2, 3, 3)));
  Recorder recorder;
  conv(torch::ones({1, 2, 3, 3}));
  EXPECT_EQ(recorder.calls, (Names{"+bsconv::BSConvUImpl", "-bsconv::BSConvUImpl"}));
}

}  // namespace
}  // namespace nn_composite_test
