// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// The kernels of batch normalization for training on GPUs, as text that is compiled once the sizes
/// are known.

namespace bsconv::gpu {

/// What follows `kernel_source` for training: batch normalization with the activation and residual
/// behind it, forward and backward. Images are `[N, H, W, C]` of `T`, everything else is of floats.
///
/// A block takes `G::quads` adjacent quads of channels; `G::lanes` of its threads have the same
/// quad. Sums over pixels go from threads to blocks to `partial`, in an order that is always the
/// same, so that results are.
inline constexpr const char* normalization_source = R"cuda(
// The first channel and the lane of a thread.
template <class G>
struct Place {
  int channel = static_cast<int>(blockIdx.y * G::quads + threadIdx.x % G::quads) * 4;
  int lane = static_cast<int>(threadIdx.x / G::quads);
  __device__ bool is_inside() const { return channel < G::channels; }
  // The first pixel, and how far it is to the next one.
  __device__ unsigned pixel() const { return blockIdx.x * static_cast<unsigned>(G::lanes) + lane; }
  static constexpr unsigned step = static_cast<unsigned>(G::blocks * G::lanes);
};

// Adds up `values` of all lanes in lane 0. `shared` holds n * (G::lanes / 2) * G::quads numbers.
template <class G, int n>
__device__ inline void add_lanes(float (&values)[n], float* shared, int lane) {
  constexpr int quads = static_cast<int>(G::quads);
  // Lanes of one warp meet without shared memory.
  constexpr bool shuffles = quads < 32 && (quads & (quads - 1)) == 0 && G::threads % 32 == 0;
  const int quad = threadIdx.x % quads;
  bool takes_part = true;
  int active = G::lanes;
  if (shuffles) {
#pragma unroll
    for (int distance = quads; distance < 32; distance *= 2)
#pragma unroll
      for (int i = 0; i < n; ++i) values[i] += __shfl_xor_sync(0xffffffffu, values[i], distance);
    takes_part = threadIdx.x % 32 < quads;
    active = G::threads / 32;
    lane = threadIdx.x / 32;
  }
  while (active > 1) {
    const int half = (active + 1) / 2;
    const int slots = (active - half) * quads;
    __syncthreads();
    if (takes_part && lane >= half && lane < active)
#pragma unroll
      for (int i = 0; i < n; ++i) shared[i * slots + (lane - half) * quads + quad] = values[i];
    __syncthreads();
    if (takes_part && lane < active - half)
#pragma unroll
      for (int i = 0; i < n; ++i) values[i] += shared[i * slots + lane * quads + quad];
    active = half;
  }
}

template <class G>
__device__ inline void read_channels(const float* from, int first, float* to) {
  for (int c = 0; c < 4; ++c) to[c] = first + c < G::channels ? from[first + c] : 0.0f;
}

template <class G>
__device__ inline void write_channels(const float* from, int first, float* to) {
  for (int c = 0; c < 4; ++c) if (first + c < G::channels) to[first + c] = from[c];
}

// What values of four channels differ from the first ones by: sums, and sums of squares. Of values far from zero, sums
// of their own squares would keep few digits of what differs between them.
struct Moments {
  float first[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  float squares[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  int count = 0;

  __device__ void add(const float (&value)[4]) {
    for (int c = 0; c < 4; ++c) {
      if (count == 0) first[c] = value[c];
      const float difference = value[c] - first[c];
      sums[c] += difference;
      squares[c] += difference * difference;
    }
    ++count;
  }
};

// How many pixels a block of `Place<G>` has.
template <class G>
__device__ inline int pixels_of_block(int block) {
  constexpr int lanes = static_cast<int>(G::lanes);
  constexpr int step = static_cast<int>(G::blocks) * lanes;
  constexpr int pixels = static_cast<int>(G::pixels);
  const int rest = pixels % step - block * lanes;
  return pixels / step * lanes + (rest < 0 ? 0 : rest < lanes ? rest : lanes);
}

// By block, a shift, and the sums of what values differ from it by and of the squares: partial [blocks, 3, C].
template <class G>
__device__ inline void write_moments(const Moments& own, float* shared, const Place<G>& place, float* partial) {
  // What the first lane saw first; every block has a pixel there.
  __shared__ float first[4 * G::quads];
  const int quad = static_cast<int>(threadIdx.x % G::quads) * 4;
  if (place.lane == 0)
    for (int c = 0; c < 4; ++c) first[quad + c] = own.first[c];
  __syncthreads();
  const float count = static_cast<float>(own.count);
  float sums[8];
  for (int c = 0; c < 4; ++c) {
    const float shift = own.first[c] - first[quad + c];
    sums[c] = own.sums[c] + count * shift;
    sums[4 + c] = own.squares[c] + shift * (2.0f * own.sums[c] + count * shift);
  }
  add_lanes<G>(sums, shared, place.lane);
  if (place.lane == 0 && place.is_inside()) {
    float* to = partial + static_cast<long long>(blockIdx.x) * 3 * G::channels;
    write_channels<G>(first + quad, place.channel, to);
    write_channels<G>(sums, place.channel, to + G::channels);
    write_channels<G>(sums + 4, place.channel, to + 2 * G::channels);
  }
}

// By block, two sums a channel: partial [blocks, 2, C].
template <class G>
__device__ inline void write_sums(float (&sums)[8], float* shared, const Place<G>& place, float* partial) {
  add_lanes<G>(sums, shared, place.lane);
  if (place.lane == 0 && place.is_inside()) {
    float* to = partial + static_cast<long long>(blockIdx.x) * 2 * G::channels;
    write_channels<G>(sums, place.channel, to);
    write_channels<G>(sums + 4, place.channel, to + G::channels);
  }
}

template <class T, class G>
__device__ inline void moments(const T* input, float* partial) {
  alignas(16) __shared__ float shared[8 * (G::lanes / 2) * G::quads + 1];
  const Place<G> place;
  Moments seen;
  if (place.is_inside())
    for (unsigned p = place.pixel(); p < G::pixels; p += place.step) {
      float value[4];
      load_quad<T, G::channels>(input + static_cast<long long>(p) * G::channels, place.channel, value);
      seen.add(value);
    }
  write_moments<G>(seen, shared, place, partial);
}

// Adds up `sum` over the G::height warps of a block, for n sums of G::width columns side by side: `sums` are those of the
// thread's column.
template <class G, int n>
__device__ inline void add_warps(double sum, double (&sums)[n]) {
  static_assert(G::width * n == 32, "a warp reads a row");
  __shared__ double shared[32 * G::height];
  const int lane = threadIdx.x % 32;
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x / 32 == 0) {
    sum = 0.0;
#pragma unroll 8
    for (int i = 0; i < G::height; ++i) sum += shared[i * 32 + lane];
    shared[lane] = sum;
  }
  __syncthreads();
  for (int k = 0; k < n; ++k) sums[k] = shared[k * static_cast<int>(G::width) + lane % static_cast<int>(G::width)];
}

// The sums of the rows of `from` [G::rows, n, G::columns] for the G::width columns of a block of G::height warps. Columns
// are those of threads 0 to G::width - 1.
template <class G, int n>
__device__ inline void add_rows(const float* from, double (&sums)[n]) {
  const int lane = threadIdx.x % 32;
  const long long at = blockIdx.x * G::width + lane % static_cast<int>(G::width);
  double sum = 0.0;
  if (at < G::columns)
#pragma unroll 8
    for (int i = threadIdx.x / 32; i < G::rows; i += static_cast<int>(G::height))
      sum += from[(static_cast<long long>(i) * n + lane / static_cast<int>(G::width)) * G::columns + at];
  add_warps<G>(sum, sums);
}

// The same of what `write_moments` left, from [G::rows, 3, G::columns]: over all pixels, the sums of what values differ
// from the first block's shift by, and of the squares.
template <class G>
__device__ inline void add_moments(const float* from, double (&sums)[2]) {
  const int lane = threadIdx.x % 32;
  const bool squares = lane >= G::width;
  const long long at = blockIdx.x * G::width + lane % static_cast<int>(G::width);
  double sum = 0.0;
  if (at < G::columns) {
    const double first = from[at];
#pragma unroll 4
    for (int i = threadIdx.x / 32; i < G::rows; i += static_cast<int>(G::height)) {
      const float* row = from + static_cast<long long>(i) * 3 * G::columns + at;
      const double count = pixels_of_block<G>(i);
      const double shift = row[0] - first;
      const double own = row[G::columns];
      sum += squares ? row[2 * G::columns] + shift * (2.0 * own + count * shift) : own + count * shift;
    }
  }
  add_warps<G>(sum, sums);
}

// Of shifted sums and sums of squares, what a batch normalization does: statistics [4, C] are mean, deviation, scale
// and shift. Brings running statistics up to date.
template <class T, class G>
__device__ inline void finish_moments(const float* partial, const float* weight, const float* bias,
                                      float* running_mean, float* running_var, long long* batches,
                                      float* statistics) {
  const long long c = blockIdx.x * G::width + threadIdx.x;
  const bool is_column = threadIdx.x < G::width && c < G::columns;
  // Read before the sums are known, so that nothing waits for it.
  const double first = is_column ? partial[c] : 0.0f;
  const float own_weight = G::weight && is_column ? weight[c] : 1.0f;
  const float own_bias = G::bias && is_column ? bias[c] : 0.0f;
  const float old_mean = G::running_mean && is_column ? running_mean[c] : 0.0f;
  const float old_var = G::running_var && is_column ? running_var[c] : 0.0f;
  double sums[2];
  add_moments<G>(partial, sums);
  if (!is_column) return;
  const double off = sums[0] * G::share;
  const double mean = first + off;
  const double raw = sums[1] * G::share - off * off;
  const double variance = raw > 0.0 ? raw : raw != raw ? raw : 0.0;
  const float deviation = sqrtf(static_cast<float>(variance + G::eps));
  const float scale = own_weight / deviation;
  statistics[c] = static_cast<float>(mean);
  statistics[G::columns + c] = deviation;
  statistics[2 * G::columns + c] = scale;
  statistics[3 * G::columns + c] = static_cast<float>(own_bias - mean * scale);
  if (G::running_mean) running_mean[c] = static_cast<float>((1.0 - G::momentum) * old_mean + G::momentum * mean);
  if (G::running_var)
    running_var[c] = static_cast<float>((1.0 - G::momentum) * old_var + G::momentum * G::unbiased * variance);
  if (G::batches && c == 0) *batches += 1;
}

// activation(input * scale + shift + residual)
template <class T, class G>
__device__ inline void normalize(const T* input, const float* statistics, const T* residual, T* output) {
  const Place<G> place;
  if (!place.is_inside()) return;
  float scale[4];
  float shift[4];
  read_channels<G>(statistics + 2 * G::channels, place.channel, scale);
  read_channels<G>(statistics + 3 * G::channels, place.channel, shift);
  for (unsigned p = place.pixel(); p < G::pixels; p += place.step) {
    float value[4];
    float other[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    load_quad<T, G::channels>(input + static_cast<long long>(p) * G::channels, place.channel, value);
    if (G::residual) load_quad<T, G::channels>(residual + static_cast<long long>(p) * G::channels, place.channel, other);
    for (int c = 0; c < 4; ++c) {
      const float sum = value[c] * scale[c] + shift[c] + other[c];
      // A NaN stays one.
      value[c] = sum != sum ? sum : activate<G::activation>(sum);
    }
    store_quad<T, G::channels>(value, place.channel, output + static_cast<long long>(p) * G::channels);
  }
}

// Whether an activation whose result is `value`, or whose argument it is, lets a gradient pass.
template <int activation>
__device__ inline bool passes(float value) {
  if (activation == 1) return !(value <= 0.0f);
  if (activation == 2) return !(value <= 0.0f) && !(value >= 6.0f);
  return true;
}

// The gradient behind the activation, and by block its sums, and those times input - mean: partial [blocks, 2, C].
// With a residual the activation's result tells what passes, and what passes is written, else the input tells it.
template <class T, class G>
__device__ inline void gradient_sums(const T* gradient, const T* input, const T* output, const float* statistics,
                                     T* passed, float* partial) {
  alignas(16) __shared__ float shared[8 * (G::lanes / 2) * G::quads + 1];
  const Place<G> place;
  float sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  if (place.is_inside()) {
    float mean[4];
    float scale[4];
    float shift[4];
    read_channels<G>(statistics, place.channel, mean);
    read_channels<G>(statistics + 2 * G::channels, place.channel, scale);
    read_channels<G>(statistics + 3 * G::channels, place.channel, shift);
    for (unsigned p = place.pixel(); p < G::pixels; p += place.step) {
      float g[4];
      float value[4];
      load_quad<T, G::channels>(gradient + static_cast<long long>(p) * G::channels, place.channel, g);
      load_quad<T, G::channels>(input + static_cast<long long>(p) * G::channels, place.channel, value);
      if (G::activation != 0) {
        float result[4];
        if (G::residual) load_quad<T, G::channels>(output + static_cast<long long>(p) * G::channels, place.channel, result);
        for (int c = 0; c < 4; ++c)
          if (!passes<G::activation>(G::residual ? result[c] : value[c] * scale[c] + shift[c])) g[c] = 0.0f;
        if (G::residual) store_quad<T, G::channels>(g, place.channel, passed + static_cast<long long>(p) * G::channels);
      }
      for (int c = 0; c < 4; ++c) {
        sums[c] += g[c];
        sums[4 + c] += g[c] * (value[c] - mean[c]);
      }
    }
  }
  write_sums<G>(sums, shared, place, partial);
}

// Gradients of a batch normalization's weight and bias, and with what the gradient of its input is
// gradient * factors[0] + input * factors[1] + factors[2]: factors [3, C].
template <class T, class G>
__device__ inline void finish_gradient_sums(const float* partial, const float* statistics, float* by_weight,
                                            float* by_bias, float* factors) {
  const long long c = blockIdx.x * G::width + threadIdx.x;
  const bool is_column = threadIdx.x < G::width && c < G::columns;
  const float mean = is_column ? statistics[c] : 0.0f;
  const float deviation = is_column ? statistics[G::columns + c] : 1.0f;
  const float scale = is_column ? statistics[2 * G::columns + c] : 0.0f;
  double sums[2];
  add_rows<G>(partial, sums);
  if (!is_column) return;
  const float inverse = 1.0f / deviation;
  const double weight = sums[1] * inverse;
  if (G::weight) by_weight[c] = static_cast<float>(weight);
  if (G::bias) by_bias[c] = static_cast<float>(sums[0]);
  const double by_input = -scale * weight * inverse * G::share;
  factors[c] = scale;
  factors[G::columns + c] = static_cast<float>(by_input);
  factors[2 * G::columns + c] = static_cast<float>(-scale * sums[0] * G::share - by_input * mean);
}

// What the gradient of a normalization's result becomes, for the channels of a thread.
template <class T, class G>
struct NormalizationGradient {
  float scale[4];
  float shift[4];
  float by_gradient[4];
  float by_input[4];
  float constant[4];

  __device__ NormalizationGradient(const float* statistics, const float* factors, int channel) {
    if (!G::norm) return;
    read_channels<G>(statistics + 2 * G::channels, channel, scale);
    read_channels<G>(statistics + 3 * G::channels, channel, shift);
    read_channels<G>(factors, channel, by_gradient);
    read_channels<G>(factors + G::channels, channel, by_input);
    read_channels<G>(factors + 2 * G::channels, channel, constant);
  }

  __device__ void at(const T* gradient, const T* input, long long pixel, int channel, float* to) const {
    load_quad<T, G::channels>(gradient + pixel * G::channels, channel, to);
    if (!G::norm) return;
    float value[4];
    load_quad<T, G::channels>(input + pixel * G::channels, channel, value);
    for (int c = 0; c < 4; ++c) {
      if (G::activation != 0 && !G::residual && !passes<G::activation>(value[c] * scale[c] + shift[c])) to[c] = 0.0f;
      to[c] = to[c] * by_gradient[c] + value[c] * by_input[c] + constant[c];
    }
  }
};

template <class T, class G>
__device__ inline void normalize_backward(const T* gradient, const T* input, const float* statistics,
                                          const float* factors, T* by_input) {
  const Place<G> place;
  if (!place.is_inside()) return;
  const NormalizationGradient<T, G> normalization(statistics, factors, place.channel);
  for (unsigned p = place.pixel(); p < G::pixels; p += place.step) {
    float value[4];
    normalization.at(gradient, input, p, place.channel, value);
    store_quad<T, G::channels>(value, place.channel, by_input + static_cast<long long>(p) * G::channels);
  }
}
)cuda";

}  // namespace bsconv::gpu
