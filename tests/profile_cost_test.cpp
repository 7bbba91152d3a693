// SPDX-License-Identifier: BSD-3-Clause-Clear
// Costs against numbers worked out by hand.
#include <bsconv/nn.hpp>
#include <bsconv/profile/profiler.hpp>
#include <bsconv/replace.hpp>

#include "support/device.hpp"
#include "support/golden.hpp"

namespace profile_cost_test {
namespace {

using bsconv::Convention;
using bsconv::Profile;
using bsconv::profile;
using bsconv::ProfileOptions;
using bsconv::ProfileRow;
using Shape = std::vector<int64_t>;

const ProfileRow& row(const Profile& profile, const std::string& path) {
  for (const auto& candidate : profile.rows) {
    if (candidate.path == path) {
      return candidate;
    }
  }
  ADD_FAILURE() << "there is no row '" << path << "'";
  return profile.rows.front();
}

ProfileOptions complete() { return ProfileOptions().convention(Convention::complete); }

/// A network as users write them, with typed members and functional operations.
struct ClassicImpl : torch::nn::Module {
  torch::nn::Conv2d conv =
      register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).padding(1)));
  torch::nn::BatchNorm2d bn = register_module("bn", torch::nn::BatchNorm2d(8));
  torch::nn::ReLU relu = register_module("relu", torch::nn::ReLU());
  torch::nn::MaxPool2d pool = register_module("pool", torch::nn::MaxPool2d(2));
  torch::nn::Dropout dropout = register_module("dropout", torch::nn::Dropout(0.5));
  torch::nn::Linear fc = register_module("fc", torch::nn::Linear(128, 10));
  torch::nn::Linear unused = register_module("unused", torch::nn::Linear(2, 2));

  torch::Tensor forward(torch::Tensor x) {
    x = pool(relu(bn(conv(x))));
    return fc(dropout(x.flatten(1)));
  }
};
TORCH_MODULE(Classic);

class ProfileOnDevice : public bsconv_test::DeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, ProfileOnDevice, bsconv_test::devices(), bsconv_test::device_name);

TEST_P(ProfileOnDevice, CountsEachLayerInTheReferencesConvention) {
  Classic net;
  net->to(device());
  const auto result = profile(net, torch::zeros({2, 3, 8, 8}).to(device()));
  EXPECT_EQ(row(result, "conv").own.flops, 2 * 64 * 216 + 1024);
  EXPECT_EQ(row(result, "bn").own.flops, 2 * 1024);
  EXPECT_EQ(row(result, "relu").own.flops, 1024);
  EXPECT_EQ(row(result, "pool").own.flops, 1024);
  EXPECT_EQ(row(result, "dropout").own.flops, 0);
  EXPECT_EQ(row(result, "fc").own.flops, 256 * 10 + 20);
  EXPECT_EQ(row(result, "unused").own.flops, 0);
  EXPECT_EQ(result.flops(), 28672 + 2048 + 1024 + 1024 + 2580);
  EXPECT_EQ(result.parameters(), 224 + 16 + 1290 + 6);
  EXPECT_EQ(row(result, "unused").own.parameters, 6);
  EXPECT_TRUE(result.uncounted.empty());
  EXPECT_EQ(result.convention, Convention::reference);
}

TEST_P(ProfileOnDevice, DescribesEachModule) {
  Classic net;
  net->to(device());
  const auto result = profile(net, torch::zeros({2, 3, 8, 8}).to(device()));
  ASSERT_EQ(result.rows.size(), 8U);
  EXPECT_EQ(result.rows[0].path, "");
  EXPECT_EQ(result.rows[0].type, "Classic");
  EXPECT_EQ(result.rows[0].depth, 0);
  EXPECT_FALSE(result.rows[0].is_leaf);
  EXPECT_EQ(result.rows[0].input_shape, (Shape{2, 3, 8, 8}));
  EXPECT_EQ(result.rows[0].output_shape, (Shape{2, 10}));
  const auto& conv = row(result, "conv");
  EXPECT_EQ(conv.type, "Conv2d");
  EXPECT_EQ(conv.info, "3x3");
  EXPECT_EQ(conv.depth, 1);
  EXPECT_TRUE(conv.is_leaf);
  EXPECT_EQ(conv.input_shape, (Shape{2, 3, 8, 8}));
  EXPECT_EQ(conv.output_shape, (Shape{2, 8, 8, 8}));
  EXPECT_EQ(row(result, "bn").input_shape, (Shape{2, 8, 8, 8}));
  EXPECT_EQ(row(result, "relu").input_shape, (Shape{2, 8, 8, 8}));
  EXPECT_EQ(row(result, "pool").output_shape, (Shape{2, 8, 4, 4}));
  EXPECT_EQ(row(result, "fc").input_shape, (Shape{2, 128}));
  EXPECT_EQ(row(result, "fc").output_shape, (Shape{2, 10}));
  EXPECT_TRUE(row(result, "unused").input_shape.empty());
}

TEST_P(ProfileOnDevice, CountsGraftedLayersByTheirParts) {
  Classic net;
  net->to(device());
  bsconv::replace_with_bsconv_u(net);
  const auto result = profile(net, torch::zeros({2, 3, 8, 8}).to(device()));
  EXPECT_EQ(row(result, "conv.pw").own.flops, 128 * 24);
  EXPECT_EQ(row(result, "conv.dw").own.flops, 128 * 72 + 1024);
  EXPECT_EQ(row(result, "conv").own.flops, 0);
  EXPECT_EQ(row(result, "conv").total.flops, 128 * 96 + 1024);
  EXPECT_EQ(row(result, "conv").total.parameters, 24 + 72 + 8);
  EXPECT_EQ(row(result, "conv").info, "3x3 replaced");
  EXPECT_EQ(row(result, "conv.pw").info, "1x1 PW");
  EXPECT_EQ(row(result, "conv.dw").info, "3x3 DW");
  EXPECT_EQ(row(result, "conv").input_shape, (Shape{2, 3, 8, 8}));
  EXPECT_EQ(row(result, "conv").output_shape, (Shape{2, 8, 8, 8}));
  EXPECT_EQ(row(result, "bn").own.flops, 2 * 1024);
  EXPECT_EQ(row(result, "relu").own.flops, 1024);
  EXPECT_EQ(result.flops(), 128 * 96 + 1024 + 2048 + 1024 + 1024 + 2580);
}

/// Runs `forward` on one tensor, as a model without modules.
template <class Forward>
struct Functional : torch::nn::Module {
  explicit Functional(Forward forward) : run(std::move(forward)) {}
  torch::Tensor forward(const torch::Tensor& x) { return run(x); }
  Forward run;
};

template <class Forward>
Profile of(Forward forward, const torch::Tensor& input, const ProfileOptions& options) {
  Functional<Forward> model(std::move(forward));
  return profile(model, options, input);
}

struct Splitting : torch::nn::Module {
  torch::Tensor weight = register_parameter("weight", torch::ones({8, 4}));
  torch::Tensor forward(const torch::Tensor& x) {
    const auto halves = weight.chunk(2);
    return x.matmul(halves[0].t()) + x.matmul(weight.split(4)[1].t()) + weight.unbind(0)[0];
  }
};

TEST(ProfileReference, TakesModelsThatSplitTheirParameters) {
  Splitting model;
  const auto result = profile(model, ProfileOptions().convention(bsconv::Convention::complete),
                              torch::zeros({3, 4}));
  EXPECT_EQ(result.flops(), 2 * 3 * 4 * 4 + 2 * 3 * 4);
  EXPECT_EQ(result.parameters(), 32);
}

TEST(ProfileReference, CountsWhatTheReferenceCounts) {
  const auto flops = [](auto module, const torch::Tensor& input) {
    torch::nn::Sequential net(module);
    return profile(net, input).flops();
  };
  namespace nn = torch::nn;
  const auto image = torch::zeros({2, 4, 6, 6});
  EXPECT_EQ(flops(nn::Conv2d(nn::Conv2dOptions(4, 8, 3).groups(2).bias(false)), image),
            2 * 16 * 8 * 2 * 9);
  EXPECT_EQ(flops(nn::Conv2d(nn::Conv2dOptions(4, 8, 3).stride(2)), image),
            2 * 4 * 8 * 4 * 9 + 2 * 8 * 4);
  EXPECT_EQ(flops(nn::Conv2d(nn::Conv2dOptions(4, 8, 3).padding(torch::kSame)), image),
            2 * 36 * 8 * 4 * 9 + 2 * 8 * 36);
  EXPECT_EQ(
      flops(nn::Conv2d(nn::Conv2dOptions(4, 8, 3).padding(1).padding_mode(torch::kReflect)), image),
      2 * 36 * 8 * 4 * 9 + 2 * 8 * 36);
  EXPECT_EQ(flops(nn::Conv2d(nn::Conv2dOptions(4, 8, 3)), image[0]), 16 * 8 * 4 * 9 + 8 * 16);
  EXPECT_EQ(flops(nn::Conv1d(nn::Conv1dOptions(4, 8, 3).bias(false)), torch::zeros({2, 4, 6})),
            2 * 4 * 8 * 4 * 3);
  EXPECT_EQ(
      flops(nn::ConvTranspose2d(nn::ConvTranspose2dOptions(4, 8, 2).stride(2).bias(false)), image),
      2 * 36 * 4 * 8 * 4);
  EXPECT_EQ(flops(nn::Linear(6, 5), torch::zeros({2, 6})), 12 * 5 + 10);
  EXPECT_EQ(flops(nn::Linear(nn::LinearOptions(6, 5).bias(false)), torch::zeros({2, 6})), 12 * 5);
  EXPECT_EQ(flops(nn::Linear(6, 5), torch::zeros({2, 3, 6})), 36 * 5 + 30);
  EXPECT_EQ(flops(nn::Linear(nn::LinearOptions(6, 5).bias(false)), torch::zeros({2, 3, 6})),
            36 * 5);
  EXPECT_EQ(flops(nn::Linear(6, 5), torch::zeros({6})), 6 * 5 + 5);
  EXPECT_EQ(flops(nn::BatchNorm2d(4), image), 2 * 288);
  EXPECT_EQ(flops(nn::BatchNorm2d(nn::BatchNorm2dOptions(4).affine(false)), image), 288);
  EXPECT_EQ(flops(nn::ReLU(), image), 288);
  EXPECT_EQ(flops(nn::ReLU(nn::ReLUOptions().inplace(true)), image.clone()), 288);
  EXPECT_EQ(flops(nn::MaxPool2d(2), image), 288);
  EXPECT_EQ(flops(nn::AvgPool2d(3), image), 288);
  EXPECT_EQ(flops(nn::AdaptiveAvgPool2d(1), image), 288);
  EXPECT_EQ(flops(nn::AdaptiveMaxPool2d(2), image), 288);
  EXPECT_EQ(flops(nn::Dropout(0.5), image), 0);
  EXPECT_EQ(flops(nn::Identity(), image), 0);
  EXPECT_EQ(flops(nn::ReLU6(), image), 0);
  EXPECT_EQ(flops(nn::Sigmoid(), image), 0);
}

// As compilers of graphs call convolutions.
TEST(ProfileReference, ConvolutionsSayByAnArgumentWhetherTheyAreTransposed) {
  const auto image = torch::zeros({2, 4, 6, 6});
  const auto weight = torch::zeros({4, 8, 2, 2});
  const auto flops = [&](bool transposed, const torch::Tensor& filters, const torch::Tensor& bias) {
    return of(
               [&](const torch::Tensor& x) {
                 return torch::convolution(x, filters, bias, {2, 2}, {0, 0}, {1, 1}, transposed,
                                           {0, 0}, 1);
               },
               image, ProfileOptions())
        .flops();
  };
  EXPECT_EQ(flops(true, weight, torch::Tensor()), 2 * 36 * 4 * 8 * 4);
  EXPECT_EQ(flops(true, weight, torch::zeros({8})), 2 * 36 * 4 * 8 * 4 + 2 * 8 * 144);
  EXPECT_EQ(flops(false, weight.transpose(0, 1), torch::Tensor()), 2 * 9 * 4 * 8 * 4);
}

TEST(ProfileReference, NamesWhatItDoesNotCount) {
  torch::nn::Sequential net(torch::nn::Conv2d(3, 4, 1), torch::nn::ReLU6(), torch::nn::Sigmoid(),
                            torch::nn::ReLU6());
  const auto result = profile(net, torch::zeros({1, 3, 2, 2}));
  EXPECT_EQ(result.flops(), 4 * 12 + 16);
  EXPECT_EQ(result.uncounted, (std::map<std::string, int64_t>{{"relu6", 2}, {"sigmoid", 1}}));
  EXPECT_EQ(row(result, "1").own.operators, 1);
  EXPECT_EQ(row(result, "3").own.operators, 1);
  EXPECT_EQ(row(result, "2").type, "Sigmoid");
  EXPECT_EQ(row(result, "2").own.operators, 1);
}

TEST(ProfileComplete, CountsEveryOperator) {
  const auto flops = [](auto forward, const torch::Tensor& input) {
    const auto result = of(forward, input, complete());
    EXPECT_TRUE(result.uncounted.empty()) << result.uncounted.begin()->first;
    return result.flops();
  };
  const auto x = torch::ones({4, 6});
  const auto w = torch::ones({6, 5});
  EXPECT_EQ(flops([](const torch::Tensor& t) { return t + t; }, x), 24);
  EXPECT_EQ(flops([](const torch::Tensor& t) { return 2 * t; }, x), 24);
  EXPECT_EQ(flops([](const torch::Tensor& t) { return t.clone().mul_(3); }, x), 24);
  EXPECT_EQ(flops([](const torch::Tensor& t) { return torch::hardswish(t); }, x), 24);
  EXPECT_EQ(flops([](const torch::Tensor& t) { return torch::hardtanh(t, 0, 6); }, x), 24);
  EXPECT_EQ(flops([](const torch::Tensor& t) { return t.sigmoid(); }, x), 24);
  EXPECT_EQ(flops([](const torch::Tensor& t) { return t.softmax(1); }, x), 72);
  EXPECT_EQ(flops([](const torch::Tensor& t) { return t.log_softmax(1); }, x), 72);
  EXPECT_EQ(flops([](const torch::Tensor& t) { return t.mean(); }, x), 24);
  EXPECT_EQ(flops([](const torch::Tensor& t) { return t.mean(0); }, x), 24);
  EXPECT_EQ(flops([](const torch::Tensor& t) { return t.sum(1); }, x), 24);
  EXPECT_EQ(flops([](const torch::Tensor& t) { return t.argmax(1); }, x), 24);
  EXPECT_EQ(flops([&](const torch::Tensor& t) { return t.matmul(w); }, x), 120);
  EXPECT_EQ(flops([&](const torch::Tensor& t) { return torch::mm(t, w); }, x), 120);
  EXPECT_EQ(flops([&](const torch::Tensor& t) { return t.unsqueeze(0).bmm(w.unsqueeze(0)); }, x),
            120);
  EXPECT_EQ(flops([&](const torch::Tensor& t) { return t.mv(torch::ones({6})); }, x), 24);
  EXPECT_EQ(flops([&](const torch::Tensor& t) { return torch::addmm(torch::ones({5}), t, w); }, x),
            140);
  EXPECT_EQ(flops([](const torch::Tensor& t) { return torch::layer_norm(t, {6}); }, x), 96);
  EXPECT_EQ(flops([](const torch::Tensor& t) { return torch::dropout(t, 0.5, false); }, x), 0);
}

TEST(ProfileReference, TakesModulesWithoutHolders) {
  const auto net = std::make_shared<ClassicImpl>();
  const auto input = torch::zeros({2, 3, 8, 8});
  EXPECT_EQ(profile(*net, input).flops(), profile(*net, ProfileOptions(), input).flops());
}

TEST(ProfileComplete, MovingDataCostsNothing) {
  const auto result = of(
      [](const torch::Tensor& t) {
        auto y = torch::cat({t, t}).view({2, 4, 6}).transpose(0, 1).contiguous();
        y = torch::stack({y, y}).flatten(1).reshape({-1}).unsqueeze(0).slice(1, 0, 9).clone();
        return torch::nn::functional::pad(y, torch::nn::functional::PadFuncOptions({1, 1}));
      },
      torch::ones({4, 6}), complete());
  EXPECT_EQ(result.flops(), 0);
  EXPECT_TRUE(result.uncounted.empty());
}

TEST(ProfileComplete, AddsToTheReferencesNumbers) {
  bsconv::Chain inner;
  inner->push_back("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 4, 3).padding(1)));
  struct ResidualImpl : bsconv::Composite<ResidualImpl> {
    explicit ResidualImpl(const bsconv::Chain& chain) { add("chain", chain); }
    torch::Tensor forward(const torch::Tensor& x) override { return x + 0.5 * call_all(x); }
  };
  ResidualImpl net(inner);
  const auto input = torch::zeros({1, 4, 5, 5});
  EXPECT_EQ(profile(net, ProfileOptions(), input).flops(), 25 * 144 + 100);
  const auto result = profile(net, complete(), input);
  EXPECT_EQ(result.flops(), 25 * 144 + 100 + 200);
  EXPECT_EQ(result.rows[0].own.flops, 200);
  EXPECT_EQ(row(result, "chain").total.flops, 3700);
  EXPECT_EQ(row(result, "chain").own.flops, 0);
  EXPECT_EQ(row(result, "chain.conv").own.flops, 3700);
}

}  // namespace
}  // namespace profile_cost_test
