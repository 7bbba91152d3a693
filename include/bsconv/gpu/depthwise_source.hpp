// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// The kernels of depthwise convolutions for training on GPUs, as text that is compiled once the
/// sizes are known.

namespace bsconv::gpu {

/// What follows `normalization_source`: a depthwise convolution, forward with the sums for the
/// batch normalization behind it, and backward through that. Images are `[N, H, W, C]` of `T`,
/// everything else is of floats.
inline constexpr const char* depthwise_source = R"cuda(
// Weights [C, taps] of the block's channels as [taps, channels of the block].
template <class G>
__device__ inline void stage_weights(const float* weight, float* to) {
  constexpr int group = static_cast<int>(G::quads * 4);
  constexpr int taps = static_cast<int>(G::kernel_height * G::kernel_width);
  const int first = static_cast<int>(blockIdx.y) * group;
  for (int i = threadIdx.x; i < taps * group; i += G::threads) {
    const int c = first + i / taps;
    to[i % taps * group + i / taps] = c < G::channels ? weight[first * taps + i] : 0.0f;
  }
}

template <class T, class G>
__device__ inline void depthwise_forward(const T* input, const float* weight, const float* bias, T* output,
                                         float* partial) {
  constexpr int group = static_cast<int>(G::quads * 4);
  alignas(16) __shared__ float weights[G::kernel_height * G::kernel_width * group];
  alignas(16) __shared__ float shared[8 * (G::lanes / 2) * G::quads + 1];
  stage_weights<G>(weight, weights);
  __syncthreads();
  const Place<G> place;
  const float* own = weights + place.channel % group;
  Moments seen;
  if (place.is_inside()) {
    float start[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (G::bias) read_channels<G>(bias, place.channel, start);
    for (unsigned p = place.pixel(); p < G::pixels; p += place.step) {
      constexpr unsigned size = static_cast<unsigned>(G::out_height * G::out_width);
      const int at = static_cast<int>(p % size);
      const long long image = p / size;
      const int top = at / static_cast<int>(G::out_width) * static_cast<int>(G::stride_y) - static_cast<int>(G::padding_y);
      const int left = at % static_cast<int>(G::out_width) * static_cast<int>(G::stride_x) - static_cast<int>(G::padding_x);
      const T* from = input + image * G::in_height * G::in_width * G::channels;
      float sum[4];
      for (int c = 0; c < 4; ++c) sum[c] = start[c];
#pragma unroll
      for (int ky = 0; ky < G::kernel_height; ++ky)
#pragma unroll
        for (int kx = 0; kx < G::kernel_width; ++kx) {
          const int y = top + ky * static_cast<int>(G::dilation_y);
          const int x = left + kx * static_cast<int>(G::dilation_x);
          if (y < 0 || y >= G::in_height || x < 0 || x >= G::in_width) continue;
          float value[4];
          load_quad<T, G::channels>(from + (y * G::in_width + x) * G::channels, place.channel, value);
          const float* w = own + (ky * static_cast<int>(G::kernel_width) + kx) * group;
          for (int c = 0; c < 4; ++c) sum[c] += value[c] * w[c];
        }
      store_quad<T, G::channels>(sum, place.channel, output + static_cast<long long>(p) * G::channels);
      if (G::norm) seen.add(sum);
    }
  }
  if (G::norm) write_moments<G>(seen, shared, place, partial);
}

// Gradients of a depthwise convolution behind which, with G::norm, a normalization lies: of its input, and by block
// of its weights: partial [blocks, taps, C]. `before_norm` is the convolution's output. A tile is of input pixels.
template <class T, class G>
__device__ inline void depthwise_backward(const T* gradient, const T* before_norm, const float* statistics,
                                          const float* factors, const T* input, const float* weight, T* by_input,
                                          float* partial) {
  constexpr int group = static_cast<int>(G::quads * 4);
  constexpr int quads = static_cast<int>(G::quads);
  constexpr int lanes = static_cast<int>(G::lanes);
  constexpr int kernel_height = static_cast<int>(G::kernel_height);
  constexpr int kernel_width = static_cast<int>(G::kernel_width);
  constexpr int taps = kernel_height * kernel_width;
  constexpr int stride_y = static_cast<int>(G::stride_y);
  constexpr int stride_x = static_cast<int>(G::stride_x);
  constexpr int dilation_y = static_cast<int>(G::dilation_y);
  constexpr int dilation_x = static_cast<int>(G::dilation_x);
  constexpr int reach_y = dilation_y * (kernel_height - 1);
  constexpr int reach_x = dilation_x * (kernel_width - 1);
  constexpr int tile_height = static_cast<int>(G::tile_height);
  constexpr int tile_width = static_cast<int>(G::tile_width);
  // Outputs that a tile's pixels go into.
  constexpr int rows = (tile_height - 1 + reach_y) / stride_y + 1;
  constexpr int columns = (tile_width - 1 + reach_x) / stride_x + 1;
  constexpr int tiles_y = static_cast<int>((G::in_height + tile_height - 1) / tile_height);
  constexpr int tiles_x = static_cast<int>((G::in_width + tile_width - 1) / tile_width);
  constexpr int window_size = rows * columns * group;
  constexpr int sums_size = taps * 4 * (lanes / 2) * quads;
  alignas(16) __shared__ float weights[taps * group];
  alignas(16) __shared__ float window[window_size > sums_size ? window_size : sums_size];
  stage_weights<G>(weight, weights);
  const Place<G> place;
  const int quad = place.channel % group;
  const NormalizationGradient<T, G> normalization(statistics, factors, place.channel);
  float sums[taps * 4];
#pragma unroll
  for (int i = 0; i < taps * 4; ++i) sums[i] = 0.0f;
  for (int tile = blockIdx.x; tile < G::images * tiles_y * tiles_x; tile += static_cast<int>(G::blocks)) {
    const long long image = tile / (tiles_y * tiles_x);
    const int y0 = static_cast<int>(tile / tiles_x % tiles_y) * tile_height;
    const int x0 = static_cast<int>(tile % tiles_x) * tile_width;
    // Divisions that round up, of numbers that may be negative.
    const int first_y = (y0 + static_cast<int>(G::padding_y) - reach_y + stride_y - 1 + stride_y * reach_y) / stride_y - reach_y;
    const int first_x = (x0 + static_cast<int>(G::padding_x) - reach_x + stride_x - 1 + stride_x * reach_x) / stride_x - reach_x;
    __syncthreads();
    for (int i = place.lane; i < rows * columns; i += lanes) {
      const int y = first_y + i / columns;
      const int x = first_x + i % columns;
      float value[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (y >= 0 && y < G::out_height && x >= 0 && x < G::out_width && place.is_inside())
        normalization.at(gradient, before_norm, (image * G::out_height + y) * G::out_width + x, place.channel, value);
      Quad<float> stored;
      for (int c = 0; c < 4; ++c) stored.at[c] = value[c];
      *reinterpret_cast<Quad<float>*>(window + i * group + quad) = stored;
    }
    __syncthreads();
    if (!place.is_inside()) continue;
    for (int i = place.lane; i < tile_height * tile_width; i += lanes) {
      const int y = y0 + i / tile_width;
      const int x = x0 + i % tile_width;
      if (y >= G::in_height || x >= G::in_width) continue;
      const long long at = ((image * G::in_height + y) * G::in_width + x) * G::channels;
      float value[4];
      load_quad<T, G::channels>(input + at, place.channel, value);
      float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
      for (int ky = 0; ky < kernel_height; ++ky)
#pragma unroll
        for (int kx = 0; kx < kernel_width; ++kx) {
          const int to_y = y + static_cast<int>(G::padding_y) - ky * dilation_y;
          const int to_x = x + static_cast<int>(G::padding_x) - kx * dilation_x;
          if (to_y % stride_y != 0 || to_x % stride_x != 0) continue;
          const int row = to_y / stride_y - first_y;
          const int column = to_x / stride_x - first_x;
          const int tap = ky * kernel_width + kx;
          const Quad<float> g = *reinterpret_cast<const Quad<float>*>(window + (row * columns + column) * group + quad);
          const Quad<float> w = *reinterpret_cast<const Quad<float>*>(weights + tap * group + quad);
          for (int c = 0; c < 4; ++c) {
            sum[c] += g.at[c] * w.at[c];
            sums[tap * 4 + c] += g.at[c] * value[c];
          }
        }
      store_quad<T, G::channels>(sum, place.channel, by_input + at);
    }
  }
  add_lanes<G>(sums, window, place.lane);
  if (place.lane == 0 && place.is_inside())
    for (int tap = 0; tap < taps; ++tap)
      write_channels<G>(sums + tap * 4, place.channel,
                        partial + (static_cast<long long>(blockIdx.x) * taps + tap) * G::channels);
}

// Sums of partial [rows, taps, C] as [C, taps].
template <class T, class G>
__device__ inline void finish_weights(const float* partial, float* by_weight) {
  double sums[1];
  add_rows<G>(partial, sums);
  const long long at = blockIdx.x * G::width + threadIdx.x;
  if (threadIdx.x >= G::width || at >= G::columns) return;
  by_weight[at % G::channels * G::taps + at / G::channels] = static_cast<float>(sums[0]);
}
)cuda";

}  // namespace bsconv::gpu
