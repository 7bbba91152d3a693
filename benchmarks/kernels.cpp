// SPDX-License-Identifier: BSD-3-Clause-Clear
// The compute kernels alone, on rows that stay in the first-level cache. "MACs" counts
// multiply-adds a second; `peak` is what the processor can do at most.
#include <benchmark/benchmark.h>
#include <bsconv/kernels/aligned.hpp>
#include <bsconv/kernels/table.hpp>

#include <cstdint>
#include <string>

namespace {

using bsconv::kernels::AlignedFloats;
using bsconv::kernels::KernelTable;

void set_rate(benchmark::State& state, double multiply_adds) {
  state.counters["MACs"] = benchmark::Counter(
      multiply_adds * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

void peak(benchmark::State& state, const KernelTable* table) {
  constexpr int64_t rounds = 1000;
  for (auto _ : state) {
    benchmark::DoNotOptimize(table->multiply_adds(rounds));
  }
  set_rate(state, static_cast<double>(rounds * 16 * table->width));
}

// Eight rows: width, input channels, output channels.
void convolve(benchmark::State& state, const KernelTable* table) {
  constexpr int64_t rows = 8;
  const int64_t pixels = state.range(0);
  const int64_t in = state.range(1);
  const int64_t vectors = std::min<int64_t>(4, std::max<int64_t>(1, state.range(2) / table->width));
  const int64_t out = vectors * table->width;
  const AlignedFloats input(static_cast<std::size_t>(rows * pixels * in));
  const AlignedFloats weights(static_cast<std::size_t>((in + 1) * out));
  const AlignedFloats output(static_cast<std::size_t>(rows * pixels * out));
  const int64_t segment = 0;
  bsconv::kernels::Convolution c;
  c.input = {input.data(), pixels * in, in};
  c.segments = &segment;
  c.depth = in;
  c.weights = weights.data() + out;
  c.bias = weights.data();
  c.output = {output.data(), pixels * out, out};
  c.output_vector = table->width;
  c.rows = rows;
  c.pixels = pixels;
  c.vectors = vectors;
  for (auto _ : state) {
    table->convolve(c);
    benchmark::ClobberMemory();
  }
  set_rate(state, static_cast<double>(rows * pixels * in * out));
}

// Eight rows of one vector: width, kernel, stride.
void depthwise(benchmark::State& state, const KernelTable* table) {
  constexpr int64_t rows = 8;
  const int64_t pixels = state.range(0);
  const int64_t kernel = state.range(1);
  const int64_t stride = state.range(2);
  const int64_t columns = (pixels - 1) * stride + kernel;
  const AlignedFloats input(
      static_cast<std::size_t>(((rows - 1) * stride + kernel) * columns * table->width));
  const AlignedFloats weights(static_cast<std::size_t>((kernel * kernel + 1) * table->width));
  const AlignedFloats output(static_cast<std::size_t>(rows * pixels * table->width));
  bsconv::kernels::Depthwise d;
  d.input = input.data();
  d.input_row = columns * table->width;
  d.kernel[0] = d.kernel[1] = kernel;
  d.stride[0] = d.stride[1] = stride;
  d.weights = weights.data() + table->width;
  d.bias = weights.data();
  d.output = {output.data(), pixels * table->width, table->width};
  d.rows = rows;
  d.pixels = pixels;
  d.epilogue.after = bsconv::kernels::Activation::relu;
  for (auto _ : state) {
    table->depthwise(d);
    benchmark::ClobberMemory();
  }
  set_rate(state, static_cast<double>(rows * pixels * kernel * kernel * table->width));
}

}  // namespace

int main(int argc, char** argv) {
  for (const auto* table : bsconv::kernels::available_kernels()) {
    const std::string name = table->name;
    benchmark::RegisterBenchmark((name + "/peak").c_str(), peak, table);
    benchmark::RegisterBenchmark((name + "/convolve").c_str(), convolve, table)
        ->Args({32, 16, 16})
        ->Args({16, 32, 32})
        ->Args({8, 64, 64})
        ->Args({16, 8, 32})
        ->Args({14, 96, 48})
        ->Args({7, 160, 64});
    benchmark::RegisterBenchmark((name + "/depthwise").c_str(), depthwise, table)
        ->Args({32, 3, 1})
        ->Args({16, 3, 1})
        ->Args({8, 3, 1})
        ->Args({14, 3, 1})
        ->Args({7, 3, 1})
        ->Args({16, 3, 2})
        ->Args({14, 5, 1})
        ->Args({14, 5, 2});
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 1;
  }
  benchmark::RunSpecifiedBenchmarks();
}
