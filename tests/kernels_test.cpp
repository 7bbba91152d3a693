// SPDX-License-Identifier: BSD-3-Clause-Clear
// Every kernel of every kind of processor against LibTorch's operators.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <bsconv/kernels/pack.hpp>
#include <bsconv/kernels/table.hpp>

#include <string>
#include <vector>

namespace kernels_test {
namespace {

using bsconv::kernels::Activation;
using bsconv::kernels::KernelTable;

int64_t padded(int64_t channels, const KernelTable& table) {
  return (channels + table.width - 1) / table.width * table.width;
}

// [1, C, H, W] as [H, W, padded C].
torch::Tensor to_image(const torch::Tensor& x, const KernelTable& table) {
  auto image = torch::zeros({x.size(2), x.size(3), padded(x.size(1), table)});
  image.slice(2, 0, x.size(1)).copy_(x[0].permute({1, 2, 0}));
  return image;
}

torch::Tensor from_image(const torch::Tensor& image, int64_t channels) {
  return image.slice(2, 0, channels).permute({2, 0, 1}).unsqueeze(0);
}

template <class Float>
bsconv::kernels::Image<Float> region(const torch::Tensor& image) {
  return {image.data_ptr<float>(), image.stride(0), image.stride(1)};
}

torch::Tensor activated(const torch::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::relu:
      return torch::relu(x);
    case Activation::relu6:
      return torch::clamp(x, 0, 6);
    case Activation::hardswish:
      return torch::hardswish(x);
    case Activation::hardsigmoid:
      return torch::hardsigmoid(x);
    default:
      return x;
  }
}

// Where a kernel writes: floats, numbers in bf16, or both.
struct Output {
  bsconv::kernels::Image<float> floats;
  bsconv::kernels::Image<uint16_t> rounded;

  Output from(int64_t channel) const {
    auto moved = *this;
    moved.floats.data += floats.data == nullptr ? 0 : channel;
    moved.rounded.data += rounded.data == nullptr ? 0 : channel;
    return moved;
  }
};

class Kernels : public testing::TestWithParam<const KernelTable*> {
 protected:
  void SetUp() override { torch::manual_seed(4); }
  const KernelTable& table() const { return *GetParam(); }

  // The image of these sizes that `run(output)` makes; in bf16 it makes the same, rounded.
  template <class Run>
  torch::Tensor result_of(at::IntArrayRef sizes, const Run& run) const {
    auto result = torch::full(sizes, 99.0F);
    run(Output{region<float>(result), {}});
    for (int i = 0; i < 2 && table().round != nullptr; ++i) {
      auto again = torch::full(sizes, 99.0F);
      auto numbers = torch::full(sizes, 99.0F, torch::kBFloat16);
      Output output{region<float>(again),
                    {reinterpret_cast<uint16_t*>(numbers.data_ptr<c10::BFloat16>()),
                     numbers.stride(0), numbers.stride(1)}};
      if (i == 1) {
        output.floats.data = nullptr;
      }
      run(output);
      EXPECT_TRUE(torch::equal(numbers, result.to(torch::kBFloat16)));
      EXPECT_TRUE(i == 1 || torch::equal(again, result));
    }
    return result;
  }
};

std::vector<const KernelTable*> all_kernels() {
  auto tables = bsconv::kernels::available_kernels();
  if (bsconv::kernels::bf16_kernels() != nullptr) {
    tables.push_back(bsconv::kernels::bf16_kernels());
  }
  return tables;
}

TEST_P(Kernels, ConvolveAllTileSizesAndPanels) {
  for (const int64_t out : {3, 16, 17, 33, 64, 100}) {
    for (int64_t pixels = 1; pixels <= 30; ++pixels) {
      const int64_t in = 1 + (pixels * 7 + out) % 23;
      const auto x = torch::randn({1, in, 2, pixels});
      const auto weight = torch::randn({out, in, 1, 1});
      const auto bias = torch::randn({out});
      const auto residual = torch::randn({1, out, 2, pixels});
      const auto packed = bsconv::kernels::pack_convolution(
          weight, bias, bsconv::kernels::WindowOrder::channels_last, table().width, 4);
      const auto image = to_image(x, table());
      const auto added = to_image(residual, table());
      const auto run = [&](const Output& output) {
        for (const auto& panel : packed.panels) {
          bsconv::kernels::Convolution c;
          const int64_t segment = 0;
          const int64_t lane = panel.first * table().width;
          c.input = region<const float>(image);
          c.segments = &segment;
          c.depth = in;
          c.weights = packed.data.data() + panel.weights;
          c.bias = packed.data.data() + panel.bias;
          c.output = output.from(lane).floats;
          c.epilogue.rounded = output.from(lane).rounded;
          c.output_vector = table().width;
          c.rows = 2;
          c.pixels = pixels;
          c.vectors = panel.vectors;
          c.epilogue.before = Activation::relu6;
          c.epilogue.after = Activation::relu;
          c.epilogue.residual = region<const float>(added);
          c.epilogue.residual.data += lane;
          table().convolve(c);
        }
      };
      const auto result = result_of({2, pixels, padded(out, table())}, run);
      const auto expected =
          torch::relu(torch::clamp(torch::conv2d(x, weight, bias), 0, 6) + residual);
      ASSERT_TRUE(torch::allclose(from_image(result, out), expected, 1e-4, 1e-5))
          << out << " channels, " << pixels << " pixels";
    }
  }
}

TEST_P(Kernels, ConvolveInRoundsEqualsAtOnce) {
  const auto x = torch::randn({1, 24, 1, 9});
  const auto weight = torch::randn({16, 24, 1, 1});
  const auto bias = torch::randn({16});
  const auto packed = bsconv::kernels::pack_convolution(
      weight, bias, bsconv::kernels::WindowOrder::channels_last, table().width, 4);
  const auto image = to_image(x, table());
  auto result = torch::full({1, 9, 16}, 99.0F);
  const std::vector<int64_t> segments = {0, 8, 16};
  for (const auto& panel : packed.panels) {
    for (int64_t round = 0; round < 3; ++round) {
      bsconv::kernels::Convolution c;
      c.input = region<const float>(image);
      c.segments = &segments[static_cast<std::size_t>(round)];
      c.depth = 8;
      c.weights = packed.data.data() + panel.weights + round * 8 * panel.vectors * table().width;
      c.bias = packed.data.data() + panel.bias;
      c.output = region<float>(result);
      c.output.data += panel.first * table().width;
      c.output_vector = table().width;
      c.rows = 1;
      c.pixels = 9;
      c.vectors = panel.vectors;
      c.first = round == 0;
      c.last = round == 2;
      c.epilogue.after = Activation::hardswish;
      table().convolve(c);
    }
  }
  EXPECT_TRUE(torch::allclose(from_image(result, 16),
                              torch::hardswish(torch::conv2d(x, weight, bias)), 1e-4, 1e-5));
}

TEST_P(Kernels, DepthwiseOfEveryGeometry) {
  for (const int64_t kernel : {1, 2, 3, 5, 7}) {
    for (const int64_t stride : {1, 2, 3}) {
      for (const int64_t dilation : {1, 2}) {
        for (const int64_t channels : {5, 16, 40}) {
          for (const int64_t width : {14, 15, 21, 31}) {
            const auto x = torch::randn({1, channels, 15, width});
            const auto weight = torch::randn({channels, 1, kernel, kernel});
            const auto bias = torch::randn({channels});
            const auto expected = torch::conv2d(x, weight, bias, std::vector<int64_t>(2, stride),
                                                std::vector<int64_t>(2, 0),
                                                std::vector<int64_t>(2, dilation), channels);
            const auto packed = bsconv::kernels::pack_depthwise(weight, bias, table().width);
            const auto image = to_image(x, table());
            bsconv::kernels::Depthwise d;
            const auto vectors =
                image.view({15, width, -1, table().width}).permute({2, 0, 1, 3}).contiguous();
            d.input = vectors.data_ptr<float>();
            d.input_row = vectors.stride(1);
            d.input_vector = vectors.stride(0);
            for (int i = 0; i < 2; ++i) {
              d.kernel[i] = kernel;
              d.stride[i] = stride;
              d.dilation[i] = dilation;
            }
            d.weights = packed.weights.data();
            d.bias = packed.bias.data();
            d.rows = expected.size(2);
            d.pixels = expected.size(3);
            d.vectors = padded(channels, table()) / table().width;
            const auto result =
                result_of({d.rows, d.pixels, padded(channels, table())}, [&](const Output& output) {
                  d.output = output.floats;
                  d.epilogue.rounded = output.rounded;
                  table().depthwise(d);
                });
            ASSERT_TRUE(torch::allclose(from_image(result, channels), expected, 1e-4, 1e-5))
                << kernel << " " << stride << " " << dilation << " " << channels << " " << width;
          }
        }
      }
    }
  }
}

TEST_P(Kernels, PointwiseWithEveryActivation) {
  const auto x = 4 * torch::randn({1, 20, 3, 5});
  const auto scale = torch::randn({20});
  const auto shift = torch::randn({20});
  const auto residual = torch::randn({1, 20, 3, 5});
  const auto scales = bsconv::kernels::pack_channels(scale, table().width);
  const auto shifts = bsconv::kernels::pack_channels(shift, table().width);
  const auto image = to_image(x, table());
  const auto added = to_image(residual, table());
  const auto shape = [](const torch::Tensor& v) { return v.view({1, -1, 1, 1}); };
  for (const auto activation : {Activation::identity, Activation::relu, Activation::relu6,
                                Activation::hardswish, Activation::hardsigmoid}) {
    bsconv::kernels::Pointwise e;
    e.input = region<const float>(image);
    e.scale = scales.data();
    e.shift = shifts.data();
    e.rows = 3;
    e.pixels = 5;
    e.vectors = padded(20, table()) / table().width;
    e.epilogue.before = activation;
    e.epilogue.after = Activation::relu;
    e.epilogue.residual = region<const float>(added);
    const auto result = result_of(image.sizes(), [&](const Output& output) {
      e.output = output.floats;
      e.epilogue.rounded = output.rounded;
      table().pointwise(e);
    });
    const auto expected =
        torch::relu(activated(x * shape(scale) + shape(shift), activation) + residual);
    EXPECT_TRUE(torch::allclose(from_image(result, 20), expected, 1e-4, 1e-5))
        << static_cast<int>(activation);
  }
}

TEST_P(Kernels, PoolsClipTheirWindows) {
  const auto x = torch::randn({1, 90, 11, 13});
  const auto image = to_image(x, table());
  for (const bool greatest : {true, false}) {
    for (const bool count_padding : {true, false}) {
      for (const int64_t divisor : {0, 4}) {
        const auto expected = greatest ? torch::max_pool2d(x, 3, 2, 1)
                              : divisor == 0
                                  ? torch::avg_pool2d(x, 3, 2, 1, false, count_padding)
                                  : torch::avg_pool2d(x, 3, 2, 1, false, count_padding, divisor);
        auto result = torch::zeros({expected.size(2), expected.size(3), padded(90, table())});
        bsconv::kernels::Pool pool;
        pool.input = region<const float>(image);
        pool.height = 11;
        pool.width = 13;
        for (int i = 0; i < 2; ++i) {
          pool.kernel[i] = 3;
          pool.stride[i] = 2;
          pool.padding[i] = 1;
        }
        pool.greatest = greatest;
        pool.count_padding = count_padding;
        pool.divisor = divisor;
        pool.output = region<float>(result);
        pool.rows = expected.size(2);
        pool.pixels = expected.size(3);
        pool.vectors = padded(90, table()) / table().width;
        table().pool(pool);
        EXPECT_TRUE(torch::allclose(from_image(result, 90), expected, 1e-4, 1e-5))
            << greatest << count_padding << divisor;
      }
    }
  }
}

TEST_P(Kernels, GreatestOfAWindowKeepsNaN) {
  for (int64_t at = 0; at < 4; ++at) {
    auto x = torch::randn({1, 20, 2, 2});
    x.view({20, 4}).select(1, at).fill_(std::nanf(""));
    const auto image = to_image(x, table());
    auto result = torch::zeros({1, 1, padded(20, table())});
    bsconv::kernels::Pool pool;
    pool.input = region<const float>(image);
    pool.height = pool.width = 2;
    pool.kernel[0] = pool.kernel[1] = 2;
    pool.stride[0] = pool.stride[1] = 1;
    pool.greatest = true;
    pool.output = region<float>(result);
    pool.rows = pool.pixels = 1;
    pool.vectors = padded(20, table()) / table().width;
    table().pool(pool);
    EXPECT_TRUE(from_image(result, 20).isnan().all().item<bool>()) << at;
  }
}

TEST_P(Kernels, ActivationsKeepNaN) {
  const auto image = torch::full({1, 1, table().width}, std::nanf(""));
  for (const auto activation : {Activation::relu, Activation::relu6, Activation::hardswish}) {
    auto result = torch::zeros_like(image);
    bsconv::kernels::Pointwise e;
    e.input = region<const float>(image);
    e.output = region<float>(result);
    e.rows = e.pixels = e.vectors = 1;
    e.epilogue.after = activation;
    table().pointwise(e);
    EXPECT_TRUE(result.isnan().all().item<bool>()) << static_cast<int>(activation);
  }
}

INSTANTIATE_TEST_SUITE_P(Available, Kernels, testing::ValuesIn(all_kernels()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST(KernelTables, AreFoundByName) {
  for (const auto* table : bsconv::kernels::available_kernels()) {
    EXPECT_EQ(&bsconv::kernels::find_kernels(table->name), table);
  }
  EXPECT_EQ(&bsconv::kernels::find_kernels(), bsconv::kernels::available_kernels().front());
  try {
    bsconv::kernels::find_kernels("mmx");
    FAIL();
  } catch (const c10::ValueError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("no kernels 'mmx' for this processor; it has "));
    EXPECT_THAT(error.what(),
                testing::HasSubstr(bsconv::kernels::available_kernels().back()->name));
  }
}

}  // namespace
}  // namespace kernels_test
