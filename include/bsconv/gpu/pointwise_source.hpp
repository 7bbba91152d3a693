// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// The kernels of pointwise convolutions for training on GPUs, as text.

namespace bsconv::gpu {

/// What follows `depthwise_source`: a pointwise convolution, forward and backward. Images are
/// `[pixels, C]` of `T`, everything else is of floats.
inline constexpr const char* pointwise_source = R"cuda(
// A pointwise convolution of images [pixels, G::in] with weights [G::out, G::in], or, G::transposed, [G::in, G::out].
// A block makes G::tile pixels of G::group channels; a thread four of each.
template <class T, class G>
__device__ inline void pointwise(const T* input, const float* weight, T* output) {
  constexpr int in = static_cast<int>(G::in);
  constexpr int out = static_cast<int>(G::out);
  constexpr int tile = static_cast<int>(G::tile);
  constexpr int group = static_cast<int>(G::group);
  constexpr int depth = static_cast<int>(G::depth);
  constexpr int threads = static_cast<int>(G::threads);
  constexpr int quads = group / 4;
  // Rows lie four banks apart, so that quads of channels are written without conflict.
  constexpr int line = (tile + 27) / 32 * 32 + 4;
  alignas(16) __shared__ float values[depth * line];
  alignas(16) __shared__ float weights[depth * group];
  const long long first = static_cast<long long>(blockIdx.x) * tile;
  const int n0 = static_cast<int>(blockIdx.y) * group;
  const int quad = static_cast<int>(threadIdx.x) % quads * 4;
  const int strip = static_cast<int>(threadIdx.x) / quads * 4;
  float sums[4][4];
  for (int p = 0; p < 4; ++p)
    for (int c = 0; c < 4; ++c) sums[p][c] = 0.0f;
  for (int k0 = 0; k0 < in; k0 += depth) {
    if (k0 > 0) __syncthreads();
    for (int i = threadIdx.x; i < tile * (depth / 4); i += threads) {
      const int k = i % (depth / 4) * 4;
      const int pixel = i / (depth / 4);
      float value[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (first + pixel < G::pixels && k0 + k < in) load_quad<T, in>(input + (first + pixel) * in, k0 + k, value);
      for (int c = 0; c < 4; ++c) values[(k + c) * line + pixel] = value[c];
    }
    for (int i = threadIdx.x; i < depth * group; i += threads) {
      const int k = k0 + (G::transposed ? i / group : i % depth);
      const int n = G::transposed ? i % group : i / depth;
      weights[(k - k0) * group + n] =
          k < in && n0 + n < out ? weight[G::transposed ? k * out + n0 + n : (n0 + n) * in + k] : 0.0f;
    }
    __syncthreads();
    if (strip < tile)
#pragma unroll 8
      for (int k = 0; k < depth; ++k) {
        const Quad<float> v = *reinterpret_cast<const Quad<float>*>(values + k * line + strip);
        const Quad<float> w = *reinterpret_cast<const Quad<float>*>(weights + k * group + quad);
        for (int p = 0; p < 4; ++p)
          for (int c = 0; c < 4; ++c) sums[p][c] += v.at[p] * w.at[c];
      }
  }
  if (strip < tile && n0 + quad < out)
    for (int p = 0; p < 4; ++p)
      if (first + strip + p < G::pixels) store_quad<T, out>(sums[p], n0 + quad, output + (first + strip + p) * out);
}

// G::chunk pixels of images [pixels, channels] from `first` on, `width` of their channels from `from` on, and zeros
// where there are no more.
template <class T, class G, int channels, int width>
__device__ inline void stage_pixels(const T* images, long long first, int from, float* to) {
  constexpr int quads = width / 4;
  for (int k = threadIdx.x; k < G::chunk * quads; k += static_cast<int>(G::threads)) {
    const int pixel = k / quads;
    const int c = k % quads * 4;
    float value[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (first + pixel < G::pixels && from + c < channels)
      load_quad<T, channels>(images + (first + pixel) * channels, from + c, value);
    for (int v = 0; v < 4; ++v) to[pixel * width + c + v] = value[v];
  }
}

// By block, the gradient of a pointwise convolution's weights: partial [blocks, G::out, G::in]. A thread takes four by
// four of them; G::quads threads take those of a block, G::lanes of them each. Where a block takes all of them, with
// G::with_input, it makes the gradient of the input as well, unless `by_input` is null.
template <class T, class G>
__device__ inline void pointwise_backward(const T* gradient, const T* input, const float* weight, T* by_input,
                                          float* partial) {
  constexpr int in = static_cast<int>(G::in);
  constexpr int out = static_cast<int>(G::out);
  constexpr int rows = static_cast<int>(G::tile_out);
  constexpr int columns = static_cast<int>(G::tile_in);
  constexpr int chunk = static_cast<int>(G::chunk);
  constexpr int threads = static_cast<int>(G::threads);
  constexpr int staged = chunk * (rows + columns);
  constexpr int summed = static_cast<int>(16 * (G::lanes / 2) * G::quads);
  alignas(16) __shared__ float shared[staged > summed ? staged : summed];
  alignas(16) __shared__ float weights[G::with_input ? rows * columns : 1];
  if (G::with_input)
    for (int k = threadIdx.x; k < rows * columns; k += threads)
      weights[k] = k / columns < out && k % columns < in ? weight[k / columns * in + k % columns] : 0.0f;
  float* const gradients = shared;
  float* const inputs = shared + chunk * rows;
  const int o0 = static_cast<int>(blockIdx.y) * rows;
  const int i0 = static_cast<int>(blockIdx.z) * columns;
  const int at = static_cast<int>(threadIdx.x % G::quads);
  const int lane = static_cast<int>(threadIdx.x / G::quads);
  const int o = at % (rows / 4) * 4;
  const int i = at / (rows / 4) * 4;
  float sums[16];
  for (int k = 0; k < 16; ++k) sums[k] = 0.0f;
  for (long long first = static_cast<long long>(blockIdx.x) * chunk; first < G::pixels; first += G::blocks * chunk) {
    __syncthreads();
    stage_pixels<T, G, out, rows>(gradient, first, o0, gradients);
    stage_pixels<T, G, in, columns>(input, first, i0, inputs);
    __syncthreads();
#pragma unroll 4
    for (int p = lane; p < chunk; p += static_cast<int>(G::lanes)) {
      const Quad<float> a = *reinterpret_cast<const Quad<float>*>(gradients + p * rows + o);
      const Quad<float> b = *reinterpret_cast<const Quad<float>*>(inputs + p * columns + i);
      for (int x = 0; x < 4; ++x)
        for (int y = 0; y < 4; ++y) sums[x * 4 + y] += a.at[x] * b.at[y];
    }
    if (G::with_input && by_input != nullptr)
      for (int k = threadIdx.x; k < (chunk + 3) / 4 * (columns / 4); k += threads) {
        const int c = k % (columns / 4) * 4;
        const int p = k / (columns / 4) * 4;
        float made[4][4];
        for (int x = 0; x < 4; ++x)
          for (int y = 0; y < 4; ++y) made[x][y] = 0.0f;
#pragma unroll 4
        for (int r = 0; r < rows; r += 4) {
          Quad<float> g[4];
          Quad<float> w[4];
          for (int x = 0; x < 4; ++x) g[x] = *reinterpret_cast<const Quad<float>*>(gradients + (p + x) * rows + r);
          for (int x = 0; x < 4; ++x) w[x] = *reinterpret_cast<const Quad<float>*>(weights + (r + x) * columns + c);
          for (int x = 0; x < 4; ++x)
            for (int z = 0; z < 4; ++z)
              for (int y = 0; y < 4; ++y) made[x][y] += g[x].at[z] * w[z].at[y];
        }
        for (int x = 0; x < 4; ++x)
          if (p + x < chunk && first + p + x < G::pixels && c < in) store_quad<T, in>(made[x], c, by_input + (first + p + x) * in);
      }
  }
  add_lanes<G>(sums, shared, lane);
  if (lane == 0)
    for (int x = 0; x < 4; ++x)
      for (int y = 0; y < 4; ++y)
        if (o0 + o + x < out && i0 + i + y < in)
          partial[(static_cast<long long>(blockIdx.x) * out + o0 + o + x) * in + i0 + i + y] = sums[x * 4 + y];
}
)cuda";

}  // namespace bsconv::gpu
