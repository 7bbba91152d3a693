// SPDX-License-Identifier: BSD-3-Clause-Clear
// What a model does must be captured wholly, or not at all.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <bsconv/infer.hpp>
#include <bsconv/util/autocast_scope.hpp>
#include <bsconv/util/parallel.hpp>
#include <bsconv/zoo.hpp>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "support/function.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace infer_capture_test {
namespace {

using bsconv::OptimizedModel;
using bsconv::OptimizeOptions;
using bsconv_test::error_of;
using bsconv_test::Function;
using testing::HasSubstr;
using torch::Tensor;
using Call = bsconv_test::FunctionImpl::Call;

OptimizedModel optimized(const Call& call, const Tensor& example,
                         const OptimizeOptions& options = {}) {
  Function model(call);
  model->eval();
  return bsconv::optimize(model, example, options);
}

/// Expects results of the model for images that the plan was not made from, laid out as LibTorch
/// lays them out.
void expect_same(const OptimizedModel& fast, const Call& call, const Tensor& example) {
  const torch::NoGradGuard no_grad;
  for (const double scale : {1.0, -2.0}) {
    const auto x = torch::randn_like(example) * scale;
    const auto expected = call(x);
    const auto found = fast(x);
    ASSERT_EQ(found.sizes(), expected.sizes());
    EXPECT_EQ(found.strides(), expected.strides());
    EXPECT_EQ(found.scalar_type(), expected.scalar_type());
    const auto exact = expected.to(torch::kDouble);
    const auto error = (found.to(torch::kDouble) - exact).abs().max();
    EXPECT_LE(error.item<double>(), 1e-4 * exact.abs().mean().item<double>() + 1e-6);
  }
}

/// Expects that as well, and that a plan was made.
void expect_planned(const Call& call, const Tensor& example, const OptimizeOptions& options = {}) {
  const auto fast = optimized(call, example, options);
  EXPECT_EQ(fast.report().eager, "");
  expect_same(fast, call, example);
}

TEST(Capture, OperatorsThatChangeShapesReadMemoryAsLibTorchHadIt) {
  torch::manual_seed(1);
  const auto x = torch::randn({2, 3, 9, 8});
  const auto first = torch::randn({20, 3, 3, 3});
  const auto grouped = torch::randn({20, 5, 3, 3});
  const auto second = torch::randn({4, 20, 3, 3});
  const auto matrix = torch::randn({6, 20 * 12});
  // As AlexNet ends.
  const Call ends_like_alexnet = [=](const Tensor& image) {
    const auto y = torch::max_pool2d(torch::conv2d(image, first, {}, 1, 1), 2);
    return torch::linear(torch::dropout(y.view({y.size(0), -1}).narrow(1, 0, 240), 0.5, false),
                         matrix);
  };
  const auto wide = torch::randn({2, 3, 6, 8});
  expect_planned(ends_like_alexnet, wide);
  const Call flattened = [=](const Tensor& image) {
    const auto y = torch::max_pool2d(torch::conv2d(image, first, {}, 1, 1), 2);
    return torch::linear(torch::dropout(y.view({y.size(0), -1}), 0.5, false), matrix);
  };
  const auto fast = optimized(flattened, wide);
  EXPECT_EQ(fast.report().fallbacks(), 0U) << fast.report();
  EXPECT_EQ(fast.report().eager, "");
  expect_same(fast, flattened, wide);
  expect_planned(
      [=](const Tensor& image) {
        const auto y = torch::conv2d(image, first);
        const auto z = torch::conv2d(y, second, {}, 1, 1);
        return y.view({y.size(0), 20, -1}).sum(2).narrow(1, 0, 4) + z.flatten(2).sum(2);
      },
      x);
  expect_planned(
      [=](const Tensor& image) {
        const auto y = torch::conv2d(torch::conv2d(image, first), grouped, {}, 1, 1, 1, 4);
        return y.permute({0, 2, 3, 1}).contiguous().view({y.size(0), -1});
      },
      x);
  expect_planned([=](const Tensor& image) { return torch::conv2d(image, first).tanh(); }, x);
}

TEST(Capture, ResultsMayBeOfAnyType) {
  const auto x = torch::randn({2, 3, 9, 8});
  const auto weight = torch::randn({20, 3, 3, 3});
  expect_planned([=](const Tensor& image) { return torch::conv2d(image, weight).argmax(1); }, x);
  expect_planned([=](const Tensor& image) { return torch::conv2d(image, weight) > 0.5; }, x);
  EXPECT_THAT(
      error_of([&] {
        optimized([](const Tensor& image) { return image.relu(); }, torch::zeros({0, 3, 8, 8}));
      }),
      HasSubstr("the example input must have an image, got [0, 3, 8, 8]"));
}

TEST(Capture, SeesWhatAnOptimizedPartDoes) {
  const auto x = torch::randn({2, 3, 9, 8});
  const auto weight = torch::randn({20, 3, 3, 3});
  const auto inner =
      optimized([=](const Tensor& image) { return torch::conv2d(image, weight).relu(); }, x);
  const Call outer = [=](const Tensor& image) {
    return 0.5 * inner(image) + 0.5 * torch::conv2d(image, weight);
  };
  const auto fast = optimized(outer, x);
  EXPECT_EQ(fast.report().fallbacks(), 0U) << fast.report();
  EXPECT_EQ(fast.report().eager, "");
  expect_same(fast, outer, x);
}

TEST(Capture, NumbersDrawnFromNothingAreDrawnEveryTime) {
  const auto x = torch::zeros({1, 3, 4, 4});
  for (const Call& call :
       {Call([](const Tensor& image) {
          return image + torch::normal(0.0, 1.0, {4, 4});
        }),
        Call([](const Tensor& image) {
          return image + torch::empty({4, 4}).uniform_();
        }),
        Call([](const Tensor& image) { return image + torch::bernoulli(torch::full({4}, 0.5)); }),
        Call([](const Tensor& image) { return image + torch::rand({4}); })}) {
    const auto fast = optimized(call, x);
    EXPECT_THAT(fast.report().eager, HasSubstr("draws random numbers"));
    EXPECT_FALSE(fast(x).equal(fast(x)) && fast(x).equal(fast(x)));
  }
}

TEST(Capture, AModelThatChangesItsTensorsIsLeftToLibTorch) {
  const auto x = torch::zeros({1, 3, 4, 4});
  const auto counter = torch::zeros({});
  const Call counts = [=](const Tensor& image) {
    counter.add_(1);
    return image.relu();
  };
  const auto fast = optimized(counts, x);
  EXPECT_THAT(fast.report().eager, HasSubstr("aten::add_ changes a tensor of the model"));
  const auto before = counter.item<float>();
  fast(x);
  fast(torch::zeros({2, 3, 4, 4}));
  EXPECT_GE(counter.item<float>(), before + 2);
  // What it makes itself it may change.
  expect_planned(
      [](const Tensor& image) {
        auto own = torch::zeros({3, 1, 1});
        own.add_(1);
        own.mul_(2);
        return image.relu() + own;
      },
      x);
}

TEST(Capture, WhatIsComputedFromTheInputIsNoConstant) {
  torch::manual_seed(2);
  const auto x = torch::randn({2, 3, 5, 4});
  const auto mean = torch::randn({3});
  const auto variance = torch::rand({3}) + 0.5;
  expect_planned(
      [=](const Tensor& image) {
        const auto own = image.mean(torch::IntArrayRef({0, 2, 3}));
        return torch::batch_norm(image, own, own, mean, variance, false, 0.1, 1e-5, false);
      },
      x);
  expect_planned(
      [=](const Tensor& image) {
        const auto own = image.square().mean(torch::IntArrayRef({0, 2, 3}));
        return torch::batch_norm(image, {}, {}, mean, own, false, 0.1, 1e-5, false);
      },
      x);
}

TEST(Capture, SharedWeightsTimesNumbersArePackedApart) {
  torch::manual_seed(3);
  const auto x = torch::randn({2, 3, 9, 8});
  const auto weight = torch::randn({20, 3, 3, 3});
  const auto mean = torch::randn({20});
  const auto variance = torch::rand({20}) * 0.01;
  const auto options = OptimizeOptions().verify(false);
  expect_planned(
      [=](const Tensor& image) {
        return torch::conv2d(image, weight) * 0.4 + torch::conv2d(image.relu(), weight) * 0.6;
      },
      x, options);
  expect_planned(
      [=](const Tensor& image) {
        return torch::conv2d(image, weight) + 0.4 + (torch::conv2d(image.relu(), weight) + 0.6);
      },
      x, options);
  const auto normalized = [=](const Tensor& y, double eps) {
    return torch::batch_norm(y, {}, {}, mean, variance, false, 0.1, eps, false);
  };
  expect_planned(
      [=](const Tensor& image) {
        return normalized(torch::conv2d(image, weight), 1e-5) +
               normalized(torch::conv2d(image.relu(), weight), 1e-2);
      },
      x, options);
}

TEST(Capture, OneWeightUsedInSeveralWaysIsPackedForEach) {
  torch::manual_seed(4);
  const auto options = OptimizeOptions().verify(false);
  const auto square = torch::randn({20, 20}) / 4;
  expect_planned(
      [=](const Tensor& x) { return torch::matmul(torch::linear(x, square).relu(), square); },
      torch::randn({3, 20}), options);
  const auto weight = torch::randn({24, 6, 1, 1});
  const auto bias = torch::randn({24});
  expect_planned(
      [=](const Tensor& x) {
        return torch::conv2d(x * 2, weight, bias) +
               (torch::conv2d(x.relu(), weight, bias) * 2).relu();
      },
      torch::randn({2, 6, 5, 7}), options);
}

// A border of zeros above and below, but not beside, and a step in front that takes an image as one
// row of pixels.
TEST(Capture, BordersStayZeroInEveryRun) {
  torch::manual_seed(5);
  const auto point = torch::randn({16, 16, 1, 1}) / 4;
  const auto tall = torch::randn({16, 16, 3, 1}) / 7;
  expect_planned(
      [=](const Tensor& x) {
        const auto y = torch::conv2d(torch::conv2d(x, point).relu(), tall, {}, 1, {1, 0}).relu();
        return torch::conv2d(y, point);
      },
      torch::randn({3, 16, 6, 5}), OptimizeOptions().verify(false));
}

TEST(Capture, ValuesOfAnotherBatchAreLeftToLibTorch) {
  torch::manual_seed(6);
  const auto weight = torch::randn({8, 6, 3, 3}) / 7;
  const auto x = torch::randn({2, 6, 9, 8});
  for (const Call& call : {
           Call([=](const Tensor& image) { return torch::conv2d(image.narrow(0, 0, 1), weight); }),
           Call([=](const Tensor& image) { return torch::conv2d(image.mean(0, true), weight); }),
           Call([=](const Tensor& image) {
             const auto halves = image.chunk(2, 0);
             return torch::conv2d(halves[0], weight) - torch::conv2d(halves[1], weight);
           }),
           Call([=](const Tensor& image) {
             return torch::conv2d(torch::cat({image, image.flip(3)}, 0), weight).relu();
           }),
           Call([=](const Tensor& image) {
             const auto groups = image.reshape({image.size(0) * 3, 2, 9, 8});
             return torch::conv2d(groups, weight.narrow(1, 0, 2)).relu();
           }),
       }) {
    expect_planned(call, x);
  }
}

TEST(Capture, ConstantsAreKeptAsTheyWere) {
  const auto x = torch::randn({2, 3, 5, 4});
  const auto options = OptimizeOptions().verify(false);
  expect_planned(
      [](const Tensor& image) {
        const std::vector<float> mean = {1, 2, 3};
        return image - torch::from_blob(const_cast<float*>(mean.data()), {1, 3, 1, 1});
      },
      x, options);
  expect_planned(
      [](const Tensor& image) {
        auto own = torch::zeros({1, 3, 1, 1});
        const auto first = image + own;
        own.add_(1);
        return torch::cat({first + own, own.expand_as(image)}, 1);
      },
      x, options);
}

// Of another name space, with other arguments.
TORCH_LIBRARY(bsconv_capture_test, library) {
  library.def("conv2d(Tensor x, Tensor w) -> Tensor",
              [](const Tensor& x, const Tensor& w) { return torch::conv2d(x, w) + 1; });
}

TEST(Capture, ShapesThatDependOnNumbersAreLeftToLibTorch) {
  torch::manual_seed(3);
  const auto weight = torch::randn({5, 3, 3, 3});
  const Call by_mask = [=](const Tensor& image) {
    const auto bright = image.index({image.flatten(1).sum(1) > -1});
    return torch::conv2d(bright, weight);
  };
  const auto fast = optimized(by_mask, torch::zeros({4, 3, 6, 6}));
  EXPECT_THAT(fast.report().eager, HasSubstr("aten::index gives depends on numbers"));
  auto x = torch::rand({4, 3, 6, 6});
  x[1].fill_(-1);
  EXPECT_TRUE(fast(x).equal(by_mask(x)));
  EXPECT_EQ(fast(x).size(0), 3);
  // Of an operator that doesn't say that its shapes depend on numbers.
  const Call by_place = [=](const Tensor& image) {
    return torch::conv2d(image, weight)
        .flatten()
        .index_select(0, torch::where(image.flatten() > -1)[0].remainder(9));
  };
  const auto other = optimized(by_place, torch::zeros({1, 3, 6, 6}));
  const auto y = torch::randn({1, 3, 6, 6}) * 3;
  EXPECT_TRUE(torch::allclose(other(y), by_place(y), 1e-4, 1e-5));
  // A mask that is the same in every run, and places, are no obstacle.
  const auto mask = torch::tensor({true, false, true});
  const auto place = torch::tensor({2, 0});
  expect_planned(
      [=](const Tensor& image) {
        return torch::relu(image.index({torch::indexing::Slice(), mask})) +
               image.index({torch::indexing::Slice(), place});
      },
      torch::randn({2, 3, 4, 4}));
}

TEST(Capture, OperatorsWithoutResultsAndOnListsAreNoObstacle) {
  torch::manual_seed(4);
  const auto weight = torch::randn({5, 3, 3, 3});
  const Call checked = [=](const Tensor& image) {
    torch::_assert_async(image.isfinite().all());
    return torch::conv2d(image, weight);
  };
  const auto x = torch::randn({2, 3, 6, 6});
  expect_same(optimized(checked, x), checked, x);
  const Call doubled = [=](const Tensor& image) {
    const auto y = torch::conv2d(image, weight);
    std::vector<Tensor> list = {y.relu(), y.tanh()};
    torch::_foreach_mul_(list, 2);
    return list[0] + list[1];
  };
  const auto fast = optimized(doubled, x, OptimizeOptions().verify(false));
  EXPECT_THAT(fast.report().eager, HasSubstr("changes a list of tensors"));
  expect_same(fast, doubled, x);
}

TEST(Capture, IndicesOfTheModelsOwnAreKept) {
  const auto weight = torch::randn({5, 3, 3, 3});
  const Call reversed = [=](const Tensor& image) {
    std::vector<int64_t> order = {2, 1, 0};
    const auto channels = torch::from_blob(order.data(), {3}, torch::kLong);
    const auto turned = image.index({torch::indexing::Slice(), channels});
    std::fill(order.begin(), order.end(), int64_t{99});
    return torch::conv2d(turned, weight);
  };
  expect_planned(reversed, torch::randn({2, 3, 6, 6}));
  const Call moved = [=](const Tensor& image) {
    auto place = torch::arange(2);
    const auto first = image.index({torch::indexing::Slice(), place});
    place.add_(1);
    return first - 2 * image.index({torch::indexing::Slice(), place});
  };
  expect_planned(moved, torch::randn({2, 3, 6, 6}), OptimizeOptions().verify(false));
}

TEST(Capture, WeightsInMemoryOfTheUsersArePackedApart) {
  const auto blurred = [](const Tensor& image, float strength) {
    float kernel[9];
    std::fill(std::begin(kernel), std::end(kernel), strength);
    return torch::conv2d(image, torch::from_blob(kernel, {1, 1, 3, 3}), {}, 1, 1);
  };
  expect_planned(
      [blurred](const Tensor& image) { return blurred(blurred(image, 1).relu(), 0.25F); },
      torch::randn({2, 1, 6, 6}), OptimizeOptions().verify(false));
}

TEST(Capture, AModelThatChangesItsInputIsPlanned) {
  const auto weight = torch::randn({5, 3, 3, 3});
  const auto fast = optimized(
      [=](const Tensor& image) {
        auto normalized = image;
        normalized.div_(255).sub_(0.5);
        return torch::conv2d(normalized, weight);
      },
      torch::rand({2, 3, 6, 6}));
  EXPECT_EQ(fast.report().eager, "");
  const auto x = torch::rand({2, 3, 6, 6}) * 255;
  EXPECT_TRUE(torch::allclose(fast(x), torch::conv2d(x / 255 - 0.5, weight), 1e-4, 1e-4));
}

TEST(Capture, EmptyResultsAreResults) {
  const auto weight = torch::randn({5, 3, 3, 3});
  const auto fast = optimized(
      [=](const Tensor& image) { return torch::conv2d(image, weight).flatten(1).narrow(1, 0, 0); },
      torch::rand({2, 3, 6, 6}));
  EXPECT_EQ(fast(torch::rand({2, 3, 6, 6})).sizes(), torch::IntArrayRef({2, 0}));
  EXPECT_EQ(fast(torch::rand({0, 3, 6, 6})).sizes(), torch::IntArrayRef({0, 0}));
  EXPECT_THAT(error_of([&] {
                (void)fast.report(torch::rand({0, 3, 6, 6}));
              }),
              HasSubstr("there is no plan for an empty input, got [0, 3, 6, 6]"));
}

TEST(Capture, TheCallersAutocastHasNoSay) {
  torch::manual_seed(5);
  const auto weight = torch::randn({16, 3, 3, 3});
  const Call call = [=](const Tensor& image) {
    return torch::conv2d(torch::conv2d(image, weight).sigmoid().narrow(1, 0, 3), weight);
  };
  const auto x = torch::randn({2, 3, 9, 9});
  const auto expected = call(x);
  const auto inside = [&] {
    const bsconv::detail::AutocastScope scope(torch::kCPU, torch::kBFloat16);
    const auto fast = optimized(call, x);
    EXPECT_EQ(fast.report().fallbacks(), 2U) << fast.report();
    return fast(x);
  }();
  EXPECT_EQ(inside.scalar_type(), torch::kFloat);
  EXPECT_TRUE(torch::allclose(inside, expected, 1e-4, 1e-4));
}

TEST(Capture, OperatorsOfTheUsersAreTheirs) {
  const auto weight = torch::randn({4, 3, 3, 3});
  const auto own = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("bsconv_capture_test::conv2d", "")
                       .typed<Tensor(const Tensor&, const Tensor&)>();
  const Call call = [=](const Tensor& image) { return own.call(image, weight); };
  // Otherwise a wrong plan would give way to LibTorch.
  const auto fast = optimized(call, torch::randn({2, 3, 6, 6}), OptimizeOptions().verify(false));
  expect_same(fast, call, torch::randn({2, 3, 6, 6}));
}

TEST(Capture, PoolsToNothingAreLibTorchs) {
  const Call call = [](const Tensor& image) {
    return torch::cat({torch::adaptive_avg_pool2d(image, {0, 0}).flatten(1), image.flatten(1)}, 1);
  };
  expect_planned(call, torch::randn({2, 3, 4, 4}));
}

TEST(Capture, ABiasOfOneNumberIsThatOfAllChannels) {
  const auto x = torch::randn({2, 12});
  const auto matrix = torch::randn({12, 40});
  const auto bias = torch::ones({1});
  expect_planned([=](const Tensor& rows) { return torch::addmm(bias, rows, matrix).relu(); }, x);
}

TEST(Capture, PlansRunWithinTheCallersParallelRegion) {
  const auto x = torch::randn({2, 3, 9, 8});
  const auto pointwise = torch::randn({40, 3, 1, 1});
  const auto depthwise = torch::randn({40, 1, 3, 3});
  const Call call = [=](const Tensor& image) {
    return torch::conv2d(torch::conv2d(image, pointwise), depthwise, {}, 1, 1, 1, 40).tanh();
  };
  const auto fast = optimized(call, x);
  EXPECT_EQ(fast.report().fallbacks(), 1U) << fast.report();
  const auto expected = call(x);
  std::vector<Tensor> found(8);
  const int threads = torch::get_num_threads();
  torch::set_num_threads(2);
  bsconv::detail::parallel_for(8, [&](int64_t begin, int64_t end) {
    EXPECT_TRUE(at::in_parallel_region());
    for (int64_t i = begin; i < end; ++i) {
      found[static_cast<std::size_t>(i)] = fast(x);
    }
  });
  torch::set_num_threads(threads);
  for (const auto& result : found) {
    EXPECT_TRUE(torch::allclose(result, expected, 1e-4, 1e-5));
  }
}

TEST(Capture, PacksLiveAsLongAsAPlan) {
  bsconv::infer::PackCache packs;
  int made = 0;
  const auto get = [&](int64_t origin) {
    return packs.depthwise({{origin}, {}, 0, 0}, [&] {
      ++made;
      return bsconv::kernels::PackedDepthwise();
    });
  };
  auto first = get(1);
  EXPECT_EQ(get(1), first);
  EXPECT_EQ(made, 1);
  EXPECT_NE(get(2), first);
  first.reset();
  EXPECT_NE(get(1), nullptr);
  EXPECT_EQ(made, 3);
}

}  // namespace
}  // namespace infer_capture_test
