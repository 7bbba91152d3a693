// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// The compute kernels for GPUs, as text that is compiled when a model is planned: all sizes are
/// then constants.

namespace bsconv::gpu {

/// CUDA C++ without any header. Images are `[N, H, W, C]` of elements `T`: `float`, `half_t` or
/// `bf16_t`; sums are of 32-bit floats. `G` has a kernel's sizes as constants.
///
/// Whoever compiles it defines `BSCONV_HAS_CONVERSIONS` if it brings its own `to_float` and
/// `from_float` (for a compiler other than CUDA's).
inline constexpr const char* kernel_source = R"cuda(
struct half_t { unsigned short bits; };
struct bf16_t { unsigned short bits; };

#ifndef BSCONV_HAS_CONVERSIONS
__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(half_t value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}
__device__ inline float to_float(bf16_t value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}
__device__ inline void from_float(float value, float& result) { result = value; }
__device__ inline void from_float(float value, half_t& result) {
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
}
__device__ inline void from_float(float value, bf16_t& result) {
  const unsigned bits = __float_as_uint(value);
  const unsigned rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  result.bits = static_cast<unsigned short>(value != value ? 0x7fffu : rounded >> 16);
}
#endif

// Four channels of a pixel, which are read and written at once.
template <class T>
struct alignas(4 * sizeof(T)) Quad { T at[4]; };

// Channels `first` to `first + 3` of the pixel at `from`; zeros beyond the last channel.
template <class T, int channels>
__device__ inline void load_quad(const T* from, int first, float* to) {
  if (channels % 4 == 0) {
    const Quad<T> quad = *reinterpret_cast<const Quad<T>*>(from + first);
    for (int c = 0; c < 4; ++c) to[c] = to_float(quad.at[c]);
  } else {
    for (int c = 0; c < 4; ++c) to[c] = first + c < channels ? to_float(from[first + c]) : 0.0f;
  }
}

template <class T, int channels>
__device__ inline void store_quad(const float* from, int first, T* to) {
  if (channels % 4 == 0) {
    Quad<T> quad;
    for (int c = 0; c < 4; ++c) from_float(from[c], quad.at[c]);
    *reinterpret_cast<Quad<T>*>(to + first) = quad;
  } else {
    for (int c = 0; c < 4; ++c) if (first + c < channels) from_float(from[c], to[first + c]);
  }
}

// Between 0 and 6; unlike what fminf and fmaxf make of it, NaN stays NaN.
__device__ inline float clamp6(float x) { return x < 0.0f ? 0.0f : x > 6.0f ? 6.0f : x; }

// identity, relu, relu6, hardswish, hardsigmoid
template <int activation>
__device__ inline float activate(float x) {
  if (activation == 1) return x < 0.0f ? 0.0f : x;
  if (activation == 2) return clamp6(x);
  if (activation == 3) return x * clamp6(x + 3.0f) * (1.0f / 6.0f);
  if (activation == 4) return clamp6(x + 3.0f) * (1.0f / 6.0f);
  return x;
}

// A pointwise convolution, a depthwise one, or the second on the results of the first, which stay
// in shared memory. A block makes a tile of pixels for G::group channels of one image.
template <class T, class G>
__device__ inline void convolve(const T* input, const float* pointwise, const float* pointwise_bias,
                                const float* depthwise, const float* depthwise_bias,
                                const T* residual, T* output) {
  constexpr int rows = (G::tile_height - 1) * G::stride_y + (G::kernel_height - 1) * G::dilation_y + 1;
  constexpr int columns = (G::tile_width - 1) * G::stride_x + (G::kernel_width - 1) * G::dilation_x + 1;
  constexpr int pixels = rows * columns;
  constexpr int quads = G::group / 4;
  constexpr int strips = (pixels + 3) / 4;
  alignas(16) __shared__ float middle[pixels * G::group];

  constexpr int tiles = (G::out_width + G::tile_width - 1) / G::tile_width;
  const int y0 = blockIdx.x / tiles * G::tile_height;
  const int x0 = blockIdx.x % tiles * G::tile_width;
  const int c0 = blockIdx.y * G::group;
  const int top = y0 * G::stride_y - G::padding_y;
  const int left = x0 * G::stride_x - G::padding_x;
  const long long image = blockIdx.z;
  input += image * G::in_height * G::in_width * G::in_channels;
  output += image * G::out_height * G::out_width * G::channels;
  if (G::residual) residual += image * G::out_height * G::out_width * G::channels;
  const int thread = threadIdx.x;

  if constexpr (G::pointwise) {
    // Rows of `values` lie four banks apart, so that quads of channels are written without conflict.
    constexpr int line = (strips * 4 + 27) / 32 * 32 + 4;
    constexpr int items = strips * quads;
    constexpr int turns = (items + G::threads - 1) / G::threads;
    alignas(16) __shared__ float values[G::depth * line];
    alignas(16) __shared__ float weights[G::depth * G::group];
    float sums[turns][4][4];
    for (int turn = 0; turn < turns; ++turn)
      for (int p = 0; p < 4; ++p)
        for (int c = 0; c < 4; ++c) sums[turn][p][c] = 0.0f;
    for (int k0 = 0; k0 < G::in_channels; k0 += G::depth) {
      for (int i = thread; i < strips * 4 * (G::depth / 4); i += G::threads) {
        const int k = i % (G::depth / 4) * 4;
        const int pixel = i / (G::depth / 4);
        const int y = (top + pixel / columns) * G::pointwise_stride_y;
        const int x = (left + pixel % columns) * G::pointwise_stride_x;
        float quad[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (pixel < pixels && y >= 0 && y < G::in_height && x >= 0 && x < G::in_width &&
            k0 + k < G::in_channels)
          load_quad<T, G::in_channels>(input + (y * G::in_width + x) * G::in_channels, k0 + k, quad);
        for (int c = 0; c < 4; ++c) values[(k + c) * line + pixel] = quad[c];
      }
      for (int i = thread; i < G::depth * G::group; i += G::threads) {
        const int k = k0 + i / G::group;
        const int c = c0 + i % G::group;
        weights[i] = k < G::in_channels && c < G::channels ? pointwise[k * G::channels + c] : 0.0f;
      }
      __syncthreads();
#pragma unroll
      for (int turn = 0; turn < turns; ++turn) {
        const int item = thread + turn * G::threads;
        if (item < items) {
          const float* value = values + item / quads * 4;
          const float* weight = weights + item % quads * 4;
#pragma unroll 4
          for (int k = 0; k < G::depth; ++k) {
            const Quad<float> v = *reinterpret_cast<const Quad<float>*>(value + k * line);
            const Quad<float> w = *reinterpret_cast<const Quad<float>*>(weight + k * G::group);
            for (int p = 0; p < 4; ++p)
              for (int c = 0; c < 4; ++c) sums[turn][p][c] += v.at[p] * w.at[c];
          }
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int turn = 0; turn < turns; ++turn) {
      const int item = thread + turn * G::threads;
      if (item < items) {
        const int quad = item % quads * 4;
        for (int p = 0; p < 4; ++p) {
          const int pixel = item / quads * 4 + p;
          if (pixel < pixels) {
            const int y = top + pixel / columns;
            const int x = left + pixel % columns;
            // What a depthwise kernel sees beyond the image is zero, not the bias.
            const bool inside = y >= 0 && y < G::middle_height && x >= 0 && x < G::middle_width;
            for (int c = 0; c < 4; ++c) {
              const float bias = c0 + quad + c < G::channels ? pointwise_bias[c0 + quad + c] : 0.0f;
              middle[pixel * G::group + quad + c] =
                  inside ? activate<G::between>(sums[turn][p][c] + bias) : 0.0f;
            }
          }
        }
      }
    }
  } else {
    for (int i = thread; i < pixels * quads; i += G::threads) {
      const int quad = i % quads * 4;
      const int pixel = i / quads;
      const int y = top + pixel / columns;
      const int x = left + pixel % columns;
      float value[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (y >= 0 && y < G::in_height && x >= 0 && x < G::in_width && c0 + quad < G::channels)
        load_quad<T, G::in_channels>(input + (y * G::in_width + x) * G::in_channels, c0 + quad, value);
      for (int c = 0; c < 4; ++c) middle[pixel * G::group + quad + c] = value[c];
    }
  }
  __syncthreads();

  for (int i = thread; i < G::tile_height * G::tile_width * quads; i += G::threads) {
    const int quad = i % quads * 4;
    const int pixel = i / quads;
    const int ty = pixel / G::tile_width;
    const int tx = pixel % G::tile_width;
    const int y = y0 + ty;
    const int x = x0 + tx;
    if (y >= G::out_height || x >= G::out_width || c0 + quad >= G::channels) continue;
    const float* from = middle + (ty * G::stride_y * columns + tx * G::stride_x) * G::group + quad;
    float sum[4];
    if (G::depthwise) {
      for (int c = 0; c < 4; ++c)
        sum[c] = c0 + quad + c < G::channels ? depthwise_bias[c0 + quad + c] : 0.0f;
      for (int ky = 0; ky < G::kernel_height; ++ky)
        for (int kx = 0; kx < G::kernel_width; ++kx) {
          const float* tap = from + (ky * G::dilation_y * columns + kx * G::dilation_x) * G::group;
          const float* weight = depthwise + (ky * G::kernel_width + kx) * G::channels + c0 + quad;
          for (int c = 0; c < 4; ++c)
            sum[c] += c0 + quad + c < G::channels ? tap[c] * weight[c] : 0.0f;
        }
    } else {
      for (int c = 0; c < 4; ++c) sum[c] = from[c];
    }
    const long long at = (static_cast<long long>(y) * G::out_width + x) * G::channels;
    float other[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (G::residual) load_quad<T, G::channels>(residual + at, c0 + quad, other);
    for (int c = 0; c < 4; ++c)
      sum[c] = activate<G::after>(activate<G::before>(sum[c]) + other[c]);
    store_quad<T, G::channels>(sum, c0 + quad, output + at);
  }
}

// after(before(input * scale + shift) * gate ... + residual): what a layer of single values does.
template <class T, class G>
__device__ inline void map(const T* input, const float* scale, const float* shift, const T* gate,
                           const T* residual, T* output) {
  const long long i = static_cast<long long>(blockIdx.x) * G::threads + threadIdx.x;
  if (i >= G::count) return;
  const int c = i % G::channels;
  float value = to_float(input[i]);
  if (G::scaled) value = value * scale[c] + shift[c];
  if (G::gated) value *= to_float(gate[i / (static_cast<long long>(G::pixels) * G::channels) * G::channels + c]);
  value = activate<G::before>(value);
  if (G::residual) value += to_float(residual[i]);
  from_float(activate<G::after>(value), output[i]);
}

template <class T, class G>
__device__ inline void pool(const T* input, T* output) {
  const long long i = static_cast<long long>(blockIdx.x) * G::threads + threadIdx.x;
  if (i >= G::count) return;
  const int c = i % G::channels;
  const int x = i / G::channels % G::out_width;
  const int y = i / G::channels / G::out_width % G::out_height;
  const T* image = input + i / G::channels / G::out_width / G::out_height * G::in_height * G::in_width * G::channels + c;
  const int top = y * G::stride_y - G::padding_y;
  const int left = x * G::stride_x - G::padding_x;
  float result = 0.0f;
  int inside = 0;
  int padded = 0;
  for (int ky = 0; ky < G::kernel_height; ++ky)
    for (int kx = 0; kx < G::kernel_width; ++kx) {
      const int at_y = top + ky * G::dilation_y;
      const int at_x = left + kx * G::dilation_x;
      padded += at_y < G::in_height + G::padding_y && at_x < G::in_width + G::padding_x ? 1 : 0;
      if (at_y < 0 || at_y >= G::in_height || at_x < 0 || at_x >= G::in_width) continue;
      const float value = to_float(image[(static_cast<long long>(at_y) * G::in_width + at_x) * G::channels]);
      // A NaN is greater than all.
      result = G::greatest ? (inside == 0 || value > result || value != value ? value : result) : result + value;
      ++inside;
    }
  if (!G::greatest) result /= G::divisor != 0 ? G::divisor : G::count_padding ? padded : inside;
  from_float(result, output[i]);
}

// An image [C, H, W] of floats as [H, W, C], times `scale` plus `shift`.
template <class T, class G>
__device__ inline void bring_in(const float* input, const float* scale, const float* shift, T* output) {
  const long long i = static_cast<long long>(blockIdx.x) * G::threads + threadIdx.x;
  if (i >= G::count) return;
  const int c = i % G::channels;
  const long long pixel = i / G::channels;
  float value = input[(pixel / G::pixels * G::channels + c) * G::pixels + pixel % G::pixels];
  if (G::scaled) value = value * scale[c] + shift[c];
  from_float(value, output[i]);
}

// The way back.
template <class T, class G>
__device__ inline void bring_out(const T* input, float* output) {
  const long long i = static_cast<long long>(blockIdx.x) * G::threads + threadIdx.x;
  if (i >= G::count) return;
  const long long channel = i / G::pixels;
  output[i] = to_float(input[(channel / G::channels * G::pixels + i % G::pixels) * G::channels + channel % G::channels]);
}
)cuda";

}  // namespace bsconv::gpu
