// SPDX-License-Identifier: BSD-3-Clause-Clear
// Replacement from sample inputs: against LibTorch's own least squares, and sums of terms, which
// are exact once there are enough.
#include <gmock/gmock.h>
#include <bsconv/bsconv.hpp>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "support/golden.hpp"
#include "support/layers.hpp"

namespace replace_data_test {
namespace {

using bsconv::BSConvSReplacementOptions;
using bsconv::BSConvUReplacementOptions;
using bsconv::Calibration;
using bsconv::Initialization;
using bsconv_test::message_of;
using testing::HasSubstr;
namespace F = torch::nn::functional;

torch::nn::Conv2dOptions same(int64_t in, int64_t out) {
  return torch::nn::Conv2dOptions(in, out, 3).padding(1);
}

/// Typed members, registered in another order than they run, every geometry, one of them twice.
struct TypedImpl : torch::nn::Module {
  torch::nn::Conv2d last{nullptr}, strided{nullptr}, first{nullptr}, twice{nullptr};
  TypedImpl() {
    last = register_module(
        "last", torch::nn::Conv2d(torch::nn::Conv2dOptions(6, 4, {5, 3}).padding(torch::kSame)));
    strided = register_module("strided", torch::nn::Conv2d(same(8, 6).stride(2).dilation(2)));
    first = register_module("first", torch::nn::Conv2d(same(3, 8).bias(false)));
    twice = register_module("twice", torch::nn::Conv2d(same(6, 6).padding_mode(torch::kReflect)));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    auto y = torch::relu(strided(torch::relu(first(x))));
    y = torch::relu(twice(torch::relu(twice(y))));
    return last(y);
  }
};
TORCH_MODULE(Typed);

std::vector<torch::Tensor> batches_of(int64_t channels, int64_t side = 12) {
  return {torch::rand({6, channels, side, side}), torch::rand({3, channels, side, side})};
}

template <class Options>
Options data(Options options, Calibration calibration) {
  return options.kernel_sizes({})
      .initialization(Initialization::data)
      .calibration(std::move(calibration));
}

double distance(const torch::Tensor& a, const torch::Tensor& b) {
  return ((a - b).square().mean() / (b - b.mean({0, 2, 3}, true)).square().mean()).item<double>();
}

TEST(ReplaceTerms, AreExactOnceThereAreEnough) {
  for (const auto initialization : {Initialization::svd, Initialization::data}) {
    torch::manual_seed(1);
    Typed net;
    const auto batches = batches_of(3);
    const torch::NoGradGuard no_grad;
    const auto expected = net->forward(batches[0]);
    const auto report =
        bsconv::replace_with_bsconv_u(net, BSConvUReplacementOptions()
                                               .kernel_sizes({})
                                               .terms(100)
                                               .initialization(initialization)
                                               .calibration(Calibration(net, batches)));
    EXPECT_EQ(report.replaced(), 4U);
    EXPECT_LT(distance(net->forward(batches[0]), expected), 1e-8);
    EXPECT_TRUE(net->named_parameters().contains("last.term6.pw.weight"));
    EXPECT_FALSE(net->named_parameters().contains("last.term7.pw.weight"));
    for (const auto& row : report.rows) {
      EXPECT_NEAR(row.explained_variance.value(), 1.0, 1e-9) << row.path;
      EXPECT_LT(row.output_error.value_or(0.0), 1e-5) << row.path;
    }
  }
}

// LibTorch's tutorials hold a model by a pointer.
TEST(ReplaceData, TakesPointersToModels) {
  torch::manual_seed(5);
  const auto net = std::make_shared<TypedImpl>();
  const auto report = bsconv::replace_with_bsconv_u(
      *net, data(BSConvUReplacementOptions(), Calibration(net, batches_of(3))));
  EXPECT_EQ(report.replaced(), 4U);
  for (const auto& row : report.rows) {
    EXPECT_TRUE(row.output_error.has_value()) << row.path;
  }
}

TEST(ReplaceTerms, SubspaceTermsAreExactTooAndMoreComeNearer) {
  double last = 0.0;
  for (const int64_t terms : {1, 2, 4, 9}) {
    torch::manual_seed(2);
    torch::nn::Sequential net(torch::nn::Conv2d(same(12, 5)));
    const auto report = bsconv::replace_with_bsconv_s(
        net, BSConvSReplacementOptions().p(1.0).terms(terms).initialization(Initialization::svd));
    EXPECT_GT(report.rows[0].explained_variance.value(), last);
    last = report.rows[0].explained_variance.value();
    EXPECT_LT(bsconv::regularization_loss(*net).item<double>(), 1e-4);
  }
  EXPECT_NEAR(last, 1.0, 1e-9);
}

TEST(ReplaceTerms, AreChosenByTheVarianceTheyExplain) {
  torch::manual_seed(3);
  torch::nn::Conv2d easy(same(8, 8)), hard(same(8, 8));
  const torch::NoGradGuard no_grad;
  easy->weight.copy_(torch::randn({8, 8, 1, 1}) * torch::randn({8, 1, 3, 3}));
  torch::nn::Sequential net(easy, hard);
  const auto components = bsconv::kernel_components(hard->weight, 8);
  const int64_t before = bsconv::parameter_count(*net);
  const auto report = bsconv::replace_with_bsconv_u(
      net, BSConvUReplacementOptions().initialization(Initialization::svd).explained_variance(0.7));
  EXPECT_NE(net[0]->as<bsconv::BSConvU>(), nullptr);
  const auto* sum = net[1]->as<bsconv::BSConvSum>();
  ASSERT_NE(sum, nullptr);
  EXPECT_GE(components.explained_variance(sum->terms()), 0.7);
  EXPECT_LT(components.explained_variance(sum->terms() - 1), 0.7);
  EXPECT_LT(report.parameters_after, before);
  // Never more parameters than before: 4 * (8 + 9) < 8 * 9 < 5 * (8 + 9).
  torch::nn::Sequential other(torch::nn::Conv2d(same(8, 8)));
  bsconv::replace_with_bsconv_u(other, BSConvUReplacementOptions().explained_variance(1.0));
  EXPECT_EQ(other[0]->as<bsconv::BSConvSum>()->terms(), 4);
}

TEST(ReplaceTerms, AreRepeatedToLoadTheWeights) {
  torch::manual_seed(12);
  Typed net;
  Typed other;
  const auto options =
      BSConvUReplacementOptions().kernel_sizes({}).initialization(Initialization::svd);
  const auto report = bsconv::replace_with_bsconv_u(
      net, BSConvUReplacementOptions(options).explained_variance(0.8).exclude({"last"}));
  EXPECT_EQ(report.layer_terms().size(), 3U);
  const auto again = bsconv::replace_with_bsconv_u(
      other, BSConvUReplacementOptions(options).layer_terms(report.layer_terms()));
  EXPECT_EQ(again.layer_terms(), report.layer_terms());
  EXPECT_EQ(bsconv_test::parameter_names(*other), bsconv_test::parameter_names(*net));
  Typed untouched;
  EXPECT_EQ(bsconv::replace_with_bsconv_u(untouched, BSConvUReplacementOptions().layer_terms({}))
                .replaced(),
            0U);
  EXPECT_THAT(
      message_of([&] {
        bsconv::replace_with_bsconv_u(other, BSConvUReplacementOptions().layer_terms({{"a", 0}}));
      }),
      HasSubstr("the terms of 'a' must be at least 1, got 0"));
}

TEST(ReplaceData, ReportsTheErrorThatItHasAndBeatsTheSvd) {
  for (const bool subspace : {false, true}) {
    for (const bool bias : {false, true}) {
      torch::manual_seed(4);
      torch::nn::Conv2d conv(same(10, 12).bias(bias));
      // Inputs whose channels go together, as activations do.
      const auto mixing = torch::randn({10, 10, 1, 1});
      const auto x = torch::relu(torch::conv2d(torch::randn({8, 10, 9, 9}), mixing));
      const torch::NoGradGuard no_grad;
      const auto expected = conv->forward(x);
      const auto error = [&](Initialization initialization) {
        torch::nn::Sequential net(std::dynamic_pointer_cast<torch::nn::Conv2dImpl>(conv->clone()));
        const auto run = [&](auto options) {
          options.initialization(initialization).calibration(Calibration(net, {x}));
          return options;
        };
        const auto report =
            subspace ? bsconv::replace_with_bsconv_s(net, run(BSConvSReplacementOptions().p(0.5)))
                     : bsconv::replace_with_bsconv_u(net, run(BSConvUReplacementOptions()));
        const double got = distance(net->forward(x), expected);
        if (initialization == Initialization::data) {
          EXPECT_NEAR(report.rows[0].output_error.value(), got, 1e-4);
          EXPECT_THAT(report.to_string(2), HasSubstr("; output error "));
          EXPECT_LT(bsconv::regularization_loss(*net).item<double>(), 1e-5);
        }
        return got;
      };
      EXPECT_LT(error(Initialization::data), 0.8 * error(Initialization::svd)) << subspace << bias;
    }
  }
}

// With one input channel every kernel is a blueprint: then the fit is ordinary least squares, from
// what the replaced first layer gives to what the second used to put out.
TEST(ReplaceData, EqualsOrdinaryLeastSquaresBehindAReplacedLayer) {
  torch::manual_seed(5);
  torch::nn::Sequential net(torch::nn::Conv2d(same(6, 1)), torch::nn::ReLU(),
                            torch::nn::Conv2d(same(1, 5)));
  net->to(torch::kDouble);
  const auto x = torch::rand({10, 6, 12, 12}, torch::kDouble);
  const torch::NoGradGuard no_grad;
  const auto expected = net->forward(x);
  bsconv::replace_with_bsconv_u(
      net, data(BSConvUReplacementOptions(), Calibration(net, {x}).damping(1e-9)));
  const auto hidden = torch::relu(net[0]->as<bsconv::BSConvU>()->forward(x));
  auto patches =
      F::unfold(hidden, F::UnfoldFuncOptions(3).padding(1)).transpose(1, 2).reshape({-1, 9});
  patches = torch::cat({patches, torch::ones({patches.size(0), 1}, torch::kDouble)}, 1);
  const auto targets = expected.flatten(2).transpose(1, 2).reshape({-1, 5});
  const auto solution = std::get<0>(torch::linalg_lstsq(patches, targets)).t();
  const auto layer = net[2]->as<bsconv::BSConvU>();
  const auto kernel = (layer->pw->weight * layer->dw->weight).flatten(1);
  EXPECT_TRUE(torch::allclose(kernel, solution.slice(1, 0, 9), 1e-4, 1e-5));
  EXPECT_TRUE(torch::allclose(layer->dw->bias, solution.select(1, 9), 1e-4, 1e-5));
}

TEST(ReplaceData, WorksOnTypedMembersInRunningOrder) {
  torch::manual_seed(6);
  Typed net;
  const auto batches = batches_of(3);
  const torch::NoGradGuard no_grad;
  const auto expected = net->forward(batches[0]);
  Typed plain;
  for (std::size_t i = 0; i < net->parameters().size(); ++i) {
    plain->parameters()[i].copy_(net->parameters()[i]);
  }
  net->train();
  const auto report =
      bsconv::replace_with_bsconv_u(net, data(BSConvUReplacementOptions(), {net, batches}));
  bsconv::replace_with_bsconv_u(
      plain, BSConvUReplacementOptions().kernel_sizes({}).initialization(Initialization::svd));
  EXPECT_EQ(report.replaced(), 4U);
  EXPECT_TRUE(net->is_training());
  EXPECT_LT(distance(net->forward(batches[0]), expected),
            0.7 * distance(plain->forward(batches[0]), expected));
}

/// Calls its convolution as a function, with one number for both axes.
struct FunctionalImpl : torch::nn::Module {
  torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(same(4, 5)));
  torch::Tensor forward(const torch::Tensor& x) {
    return torch::conv2d(x, conv->weight, conv->bias, 1, 1);
  }
};
TORCH_MODULE(Functional);

TEST(ReplaceData, WorksOnConvolutionsThatAreCalledAsFunctions) {
  torch::manual_seed(7);
  Functional net;
  const auto batches = batches_of(4);
  const torch::NoGradGuard no_grad;
  const auto expected = net->forward(batches[0]);
  bsconv::replace_with_bsconv_u(net, data(BSConvUReplacementOptions(), {net, batches}));
  EXPECT_LT(distance(net->forward(batches[0]), expected), 0.9);
}

TEST(ReplaceData, InnerBatchNormalizationsChangeNothingAtFirst) {
  for (const bool subspace : {false, true}) {
    torch::manual_seed(7);
    torch::nn::Sequential net(torch::nn::Conv2d(same(8, 6)), torch::nn::ReLU(),
                              torch::nn::Conv2d(same(6, 5)));
    torch::nn::Sequential with_bn(
        std::dynamic_pointer_cast<torch::nn::SequentialImpl>(net->clone()));
    const auto batches = batches_of(8);
    const auto replace = [&](torch::nn::Sequential& model, bool bn) {
      const auto calibration = Calibration(model, batches).batch_norm_statistics(false);
      if (subspace) {
        bsconv::replace_with_bsconv_s(model,
                                      data(BSConvSReplacementOptions().with_bn(bn), calibration));
      } else {
        bsconv::replace_with_bsconv_u(model,
                                      data(BSConvUReplacementOptions().with_bn(bn), calibration));
      }
      model->eval();
    };
    replace(net, false);
    replace(with_bn, true);
    const torch::NoGradGuard no_grad;
    const auto expected = net->forward(batches[0]);
    EXPECT_TRUE(torch::allclose(with_bn->forward(batches[0]), expected, 1e-4, 1e-5));
    // The statistics are those of what comes: in training it is nearly the same.
    with_bn->train();
    EXPECT_LT(distance(with_bn->forward(torch::cat({batches[0], batches[1]})),
                       net->forward(torch::cat({batches[0], batches[1]}))),
              1e-4);
  }
}

TEST(ReplaceData, LeavesTheModelAloneIfItFails) {
  torch::manual_seed(8);
  Typed net;
  const auto batches = batches_of(3);
  std::vector<torch::Tensor> before;
  for (const auto& parameter : net->parameters()) {
    before.push_back(parameter.detach().clone());
  }
  int runs = 0;
  const bsconv::ForwardFunction fails_late = [&](const torch::Tensor& batch) {
    TORCH_CHECK(++runs < 9, "out of luck");
    return net->forward(batch);
  };
  EXPECT_THAT(message_of([&] {
                bsconv::replace_with_bsconv_u(
                    net, data(BSConvUReplacementOptions(), Calibration(fails_late, batches)));
              }),
              HasSubstr("out of luck"));
  const auto after = net->parameters();
  ASSERT_EQ(after.size(), before.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(torch::equal(after[i], before[i]));
  }
  EXPECT_TRUE(net->is_training());
}

TEST(ReplaceData, SaysWhatIsMissing) {
  Typed net;
  const auto message = [&](const BSConvUReplacementOptions& options) {
    return message_of([&] { bsconv::replace_with_bsconv_u(net, options); });
  };
  const auto batches = batches_of(3);
  EXPECT_THAT(message(BSConvUReplacementOptions().initialization(Initialization::data)),
              HasSubstr("there is no function that runs the model"));
  EXPECT_THAT(message(data(BSConvUReplacementOptions(), Calibration(net, {}))),
              HasSubstr("there are no batches"));
  EXPECT_THAT(message(data(BSConvUReplacementOptions(), Calibration(net, {torch::Tensor()}))),
              HasSubstr("batch 0 is empty"));
  EXPECT_THAT(message(data(BSConvUReplacementOptions(), Calibration(net, batches).damping(0.0))),
              HasSubstr("damping must be finite and above 0, got 0"));
  EXPECT_THAT(message(data(BSConvUReplacementOptions(), Calibration(net, batches).iterations(0))),
              HasSubstr("iterations must be at least 1, got 0"));
  EXPECT_THAT(
      message(data(BSConvUReplacementOptions(),
                   Calibration([&](const torch::Tensor& x) { return net->first(x); }, batches))),
      HasSubstr("'last': the calibration doesn't run this convolution"));
  EXPECT_THAT(message(BSConvUReplacementOptions().terms(0)), HasSubstr("terms must be at least 1"));
  EXPECT_THAT(message(BSConvUReplacementOptions().explained_variance(2.0)),
              HasSubstr("explained_variance must be 0 to 1, got 2"));
  EXPECT_TRUE(net->named_parameters().contains("last.weight"));
}

torch::nn::Sequential normalized_network() {
  return torch::nn::Sequential(torch::nn::BatchNorm2d(3), torch::nn::Conv2d(same(3, 4)),
                               torch::nn::BatchNorm2d(torch::nn::BatchNormOptions(4).momentum(0.3)),
                               torch::nn::Dropout(0.5));
}

TEST(ReplaceData, ASharedWeightNeedsASharedBias) {
  torch::nn::Conv2d first(same(4, 4));
  torch::nn::Conv2d second(same(4, 4));
  second->weight = first->weight;
  torch::nn::Sequential net{first, second};
  const auto options = data(BSConvUReplacementOptions(), {net, batches_of(4, 5)});
  EXPECT_THAT(message_of([&] { bsconv::replace_with_bsconv_u(*net, options); }),
              HasSubstr("'1': this convolution shares its weight with '0', but not its bias"));
  second->bias = first->bias;
  EXPECT_EQ(bsconv::replace_with_bsconv_u(*net, options).replaced(), 2U);
}

TEST(ReplaceTerms, KeepTheDigitsOfADoubleModel) {
  torch::manual_seed(4);
  torch::nn::Conv2d conv(same(3, 5));
  conv->to(torch::kDouble);
  {
    const torch::NoGradGuard no_grad;
    conv->weight.copy_(torch::randn({5, 3, 1, 1}, torch::kDouble) *
                       torch::randn({5, 1, 3, 3}, torch::kDouble));
  }
  torch::nn::Sequential net{conv};
  const auto x = torch::randn({2, 3, 6, 6}, torch::kDouble);
  const auto expected = net->forward(x);
  bsconv::replace_with_bsconv_u(*net,
                                BSConvUReplacementOptions().initialization(Initialization::svd));
  EXPECT_TRUE(torch::allclose(net->forward(x), expected, 1e-10, 1e-12));
}

TEST(BatchNormStatistics, AreTheMeanOverBatches) {
  torch::manual_seed(9);
  auto net = normalized_network();
  net->train();
  net[2]->eval();
  net->forward(torch::randn({2, 3, 5, 5}));
  const auto batches = batches_of(3, 5);
  torch::manual_seed(10);
  const auto expected_draw = torch::rand({1});
  torch::manual_seed(10);
  EXPECT_EQ(bsconv::estimate_batch_norm_statistics(net, batches), 2U);
  EXPECT_TRUE(torch::equal(torch::rand({1}), expected_draw));
  const auto* first = net[0]->as<torch::nn::BatchNorm2d>();
  const auto mean = 0.5 * (batches[0].mean({0, 2, 3}) + batches[1].mean({0, 2, 3}));
  const auto variance = 0.5 * (batches[0].var({0, 2, 3}) + batches[1].var({0, 2, 3}));
  EXPECT_TRUE(torch::allclose(first->running_mean, mean, 1e-5, 1e-6));
  EXPECT_TRUE(torch::allclose(first->running_var, variance, 1e-4, 1e-6));
  EXPECT_TRUE(first->is_training());
  EXPECT_EQ(first->num_batches_tracked.item<int64_t>(), 1);
  const auto* second = net[2]->as<torch::nn::BatchNorm2d>();
  EXPECT_FALSE(second->is_training());
  EXPECT_EQ(second->options.momentum(), 0.3);
  EXPECT_EQ(second->num_batches_tracked.item<int64_t>(), 0);
}

TEST(BatchNormStatistics, ArePutBackIfTheModelThrows) {
  torch::manual_seed(11);
  auto net = normalized_network();
  net->forward(torch::randn({2, 3, 5, 5}));
  std::vector<torch::Tensor> before;
  for (const auto& buffer : net->buffers()) {
    before.push_back(buffer.clone());
  }
  const auto throws = [&](const torch::Tensor& batch) {
    net->forward(batch);
    TORCH_CHECK(batch.size(0) > 3, "too small");
    return batch;
  };
  EXPECT_ANY_THROW(bsconv::estimate_batch_norm_statistics(*net, throws, batches_of(3, 5)));
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(torch::equal(net->buffers()[i], before[i]));
  }
  EXPECT_THAT(message_of([&] { bsconv::estimate_batch_norm_statistics(net, {}); }),
              HasSubstr("there are no batches"));
}

}  // namespace
}  // namespace replace_data_test
