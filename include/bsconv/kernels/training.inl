// SPDX-License-Identifier: BSD-3-Clause-Clear
//
// The kernels for gradients on one kind of processor. kernels/training.hpp includes this file
// once a kind, with the macros that simd.inl takes, whose vectors it uses.

#define BSCONV_SIMD_INLINE inline __attribute__((always_inline)) BSCONV_SIMD_TARGET

namespace bsconv::kernels::BSCONV_SIMD_NAMESPACE {

template <int Rows, int Vectors>
BSCONV_SIMD_TARGET __attribute__((noinline)) inline void outer_tile(const OuterProducts& o,
                                                                    const float* left,
                                                                    const float* right, float* to,
                                                                    int64_t pixels) {
  const int64_t to_row = o.vectors * width;
  Vector sums[Rows * Vectors];
  const float* start = to;
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      sums[r * Vectors + v] = load(start + v * width);
    }
    start = opaque(start + to_row);
  }
  for (int64_t p = 0; p < pixels; ++p) {
    Vector values[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      values[v] = in_register(load(right + v * width));
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      Vector value = broadcast(left[r]);
      if constexpr (Vectors > 1) {
        value = in_register(value);
      }
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) {
        sums[r * Vectors + v] = multiply_add(value, values[v], sums[r * Vectors + v]);
      }
    }
    left += o.left_pixel;
    right += o.right_pixel;
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      store(to + v * width, sums[r * Vectors + v]);
    }
    to = opaque(to + to_row);
  }
}

constexpr int largest_outer_tile = registers >= 32 ? 8 : 6;

using OuterTile = void (*)(const OuterProducts&, const float*, const float*, float*, int64_t);

template <int Vectors, std::size_t... Rows>
constexpr std::array<OuterTile, sizeof...(Rows)> outer_tiles(std::index_sequence<Rows...>) {
  return {&outer_tile<static_cast<int>(Rows) + 1, Vectors>...};
}

BSCONV_SIMD_TARGET inline void outer_products(const OuterProducts& o) {
  static constexpr auto single = outer_tiles<1>(std::make_index_sequence<largest_outer_tile>());
  static constexpr auto paired = outer_tiles<2>(std::make_index_sequence<largest_outer_tile>());
  // What all tiles read again and again stays in the first-level cache.
  constexpr int64_t cached_floats = 6144;
  const int64_t block =
      std::max<int64_t>(64, cached_floats / std::max<int64_t>(1, o.rows + o.vectors * width));
  for (int64_t begin = 0; begin < o.pixels; begin += block) {
    const int64_t pixels = std::min(block, o.pixels - begin);
    for (int64_t v = 0; v < o.vectors;) {
      const bool pair = o.vectors - v >= 2;
      const float* right = o.right + begin * o.right_pixel + v * width;
      int64_t row = 0;
      for (int64_t tile = (o.rows + largest_outer_tile - 1) / largest_outer_tile; tile > 0;
           --tile) {
        const int64_t rows = (o.rows - row + tile - 1) / tile;
        const auto& tiles = pair ? paired : single;
        tiles[static_cast<std::size_t>(rows - 1)](o, o.left + begin * o.left_pixel + row, right,
                                                  o.sums + row * o.vectors * width + v * width,
                                                  pixels);
        row += rows;
      }
      v += pair ? 2 : 1;
    }
  }
}

template <int Vectors, int Pixels>
BSCONV_SIMD_INLINE void add_moments_of(const float* input, int64_t pixel, const Vector* shift,
                                       Vector* sums, Vector* squares) {
#pragma GCC unroll 8
  for (int p = 0; p < Pixels; ++p) {
#pragma GCC unroll 4
    for (int i = 0; i < Vectors; ++i) {
      const Vector value = load(input + p * pixel + i * width) - shift[i];
      sums[p * Vectors + i] += value;
      squares[p * Vectors + i] = multiply_add(value, value, squares[p * Vectors + i]);
    }
  }
}

// Adds `Pixels` adjacent pixels at a time, each to sums of its own, since an addition has to wait
// for the one before it.
template <int Vectors, int Pixels>
BSCONV_SIMD_INLINE void moments_of(const Moments& m, int64_t v) {
  Vector shift[Vectors];
  Vector sums[Pixels * Vectors];
  Vector squares[Pixels * Vectors];
#pragma GCC unroll 4
  for (int i = 0; i < Vectors; ++i) {
    shift[i] = load_or(m.shift, (v + i) * width, 0.0F);
  }
#pragma GCC unroll 8
  for (int i = 0; i < Pixels * Vectors; ++i) {
    sums[i] = squares[i] = Vector{};
  }
  const int64_t pixel = m.vectors * width;
  const float* input = m.input + v * width;
  int64_t left = m.pixels;
  for (; left >= Pixels; left -= Pixels) {
    add_moments_of<Vectors, Pixels>(input, pixel, shift, sums, squares);
    input += Pixels * pixel;
  }
  for (; left > 0; --left) {
    add_moments_of<Vectors, 1>(input, pixel, shift, sums, squares);
    input += pixel;
  }
#pragma GCC unroll 4
  for (int i = 0; i < Vectors; ++i) {
#pragma GCC unroll 8
    for (int p = 1; p < Pixels; ++p) {
      sums[i] += sums[p * Vectors + i];
      squares[i] += squares[p * Vectors + i];
    }
    const int64_t at = (v + i) * width;
    store(m.sums + at, load(m.sums + at) + sums[i]);
    if (m.squares != nullptr) {
      store(m.squares + at, load(m.squares + at) + squares[i]);
    }
  }
}

BSCONV_SIMD_TARGET inline void moments(const Moments& m) {
  int64_t v = 0;
  for (; v + 4 <= m.vectors; v += 4) {
    moments_of<4, 1>(m, v);
  }
  for (; v + 2 <= m.vectors; v += 2) {
    moments_of<2, 2>(m, v);
  }
  for (; v < m.vectors; ++v) {
    moments_of<1, 4>(m, v);
  }
}

// `gradient` where `x * scale + shift` lies on the slope of the activation, zero elsewhere. A NaN
// passes, as in LibTorch.
template <Activation Kind>
BSCONV_SIMD_INLINE Vector pass(Vector gradient, Vector x, Vector scale, Vector shift) {
  if constexpr (Kind == Activation::identity) {
    return gradient;
  } else {
    const Vector value = multiply_add(x, scale, shift);
    Vector passed = value <= Vector{} ? Vector{} : gradient;
    if constexpr (Kind == Activation::relu6) {
      passed = value >= broadcast(6.0F) ? Vector{} : passed;
    }
    return passed;
  }
}

// Where the vectors of a pixel are that `gradient_sums_of` reads and writes.
struct GradientPixel {
  const float* gradient;
  const float* input;
  const float* slope_input;
  float* passed;
};

inline void move(GradientPixel& pixel, int64_t by) {
  pixel.gradient += by;
  pixel.input += by;
  pixel.slope_input += by;
  pixel.passed = moved(pixel.passed, by);
}

template <Activation Kind, int Vectors, int Pixels>
BSCONV_SIMD_INLINE void add_gradient_sums(const GradientPixel& from, int64_t pixel,
                                          const Vector* scale, const Vector* shift,
                                          const Vector* mean, Vector* sums, Vector* products) {
#pragma GCC unroll 8
  for (int p = 0; p < Pixels; ++p) {
#pragma GCC unroll 4
    for (int i = 0; i < Vectors; ++i) {
      const int64_t at = p * pixel + i * width;
      fetch_ahead(from.gradient + at);
      fetch_ahead(from.input + at);
      if (from.slope_input != from.input) {
        fetch_ahead(from.slope_input + at);
      }
      const Vector x = Kind == Activation::identity ? Vector{} : load(from.slope_input + at);
      const Vector passed = pass<Kind>(load(from.gradient + at), x, scale[i], shift[i]);
      const int sum = p * Vectors + i;
      sums[sum] += passed;
      products[sum] = multiply_add(passed, load(from.input + at) - mean[i], products[sum]);
      if (from.passed != nullptr) {
        fetch_ahead(from.passed + at);
        store(from.passed + at, passed);
      }
    }
  }
}

// `Pixels` adjacent pixels at a time, as in `moments_of`.
template <Activation Kind, int Vectors, int Pixels>
BSCONV_SIMD_INLINE void gradient_sums_of(const GradientSums& g, int64_t v) {
  Vector scale[Vectors];
  Vector shift[Vectors];
  Vector mean[Vectors];
  Vector sums[Pixels * Vectors];
  Vector products[Pixels * Vectors];
#pragma GCC unroll 4
  for (int i = 0; i < Vectors; ++i) {
    scale[i] = load_or(g.slope.scale, (v + i) * width, 1.0F);
    shift[i] = load_or(g.slope.shift, (v + i) * width, 0.0F);
    mean[i] = load(g.mean + (v + i) * width);
  }
#pragma GCC unroll 8
  for (int i = 0; i < Pixels * Vectors; ++i) {
    sums[i] = products[i] = Vector{};
  }
  const int64_t pixel = g.vectors * width;
  const int64_t at = v * width;
  GradientPixel from = {g.gradient + at, g.input + at, g.slope_input + at, moved(g.passed, at)};
  int64_t left = g.pixels;
  for (; left >= Pixels; left -= Pixels) {
    add_gradient_sums<Kind, Vectors, Pixels>(from, pixel, scale, shift, mean, sums, products);
    move(from, Pixels * pixel);
  }
  for (; left > 0; --left) {
    add_gradient_sums<Kind, Vectors, 1>(from, pixel, scale, shift, mean, sums, products);
    move(from, pixel);
  }
#pragma GCC unroll 4
  for (int i = 0; i < Vectors; ++i) {
#pragma GCC unroll 8
    for (int p = 1; p < Pixels; ++p) {
      sums[i] += sums[p * Vectors + i];
      products[i] += products[p * Vectors + i];
    }
    float* to = g.sums + (v + i) * width;
    store(to, load(to) + sums[i]);
    to = g.products + (v + i) * width;
    store(to, load(to) + products[i]);
  }
}

template <Activation Kind>
BSCONV_SIMD_TARGET inline void gradient_sums_with(const GradientSums& g) {
  constexpr int pixels = registers >= 32 ? 2 : 1;
  int64_t v = 0;
  for (; v + 2 <= g.vectors; v += 2) {
    gradient_sums_of<Kind, 2, pixels>(g, v);
  }
  for (; v < g.vectors; ++v) {
    gradient_sums_of<Kind, 1, 2 * pixels>(g, v);
  }
}

BSCONV_SIMD_TARGET inline void gradient_sums(const GradientSums& g) {
  switch (g.slope.activation) {
    case Activation::relu:
      return gradient_sums_with<Activation::relu>(g);
    case Activation::relu6:
      return gradient_sums_with<Activation::relu6>(g);
    default:
      return gradient_sums_with<Activation::identity>(g);
  }
}

template <Activation Kind, bool Normalized, bool Added, int Vectors>
BSCONV_SIMD_INLINE void normalization_gradient_vectors(const NormalizationGradient& n, int64_t v) {
  Vector scale[Vectors];
  Vector shift[Vectors];
  Vector by_gradient[Vectors];
  Vector by_input[Vectors];
  Vector constant[Vectors];
#pragma GCC unroll 4
  for (int i = 0; i < Vectors; ++i) {
    const int64_t at = (v + i) * width;
    scale[i] = load_or(n.slope.scale, at, 1.0F);
    shift[i] = load_or(n.slope.shift, at, 0.0F);
    by_gradient[i] = load_or(n.by_gradient, at, 1.0F);
    by_input[i] = Normalized ? load(n.by_input + at) : Vector{};
    constant[i] = Normalized ? load(n.constant + at) : Vector{};
  }
  // Copies of their own, which no store can change.
  const int64_t gradient_pixel = n.gradient.pixel;
  const int64_t input_pixel = n.input.pixel;
  const int64_t slope_pixel = n.slope_input.pixel;
  const int64_t added_pixel = n.added.pixel;
  const int64_t output_pixel = n.output.pixel;
  const int64_t output_vector = n.output_vector;
  const int64_t pixels = n.pixels;
  for (int64_t row = 0; row < n.rows; ++row) {
    const float* gradient = n.gradient.data + row * n.gradient.row + v * width;
    const float* input = Normalized ? n.input.data + row * n.input.row + v * width : nullptr;
    const float* slope_input = Kind == Activation::identity
                                   ? nullptr
                                   : n.slope_input.data + row * n.slope_input.row + v * width;
    const float* added = Added ? n.added.data + row * n.added.row + v * width : nullptr;
    float* output = n.output.data + row * n.output.row + v * output_vector;
    for (int64_t p = 0; p < pixels; ++p) {
#pragma GCC unroll 4
      for (int i = 0; i < Vectors; ++i) {
        const Vector x = Kind == Activation::identity ? Vector{} : load(slope_input + i * width);
        Vector value = pass<Kind>(load(gradient + i * width), x, scale[i], shift[i]);
        if constexpr (Normalized) {
          const Vector rest = multiply_add(load(input + i * width), by_input[i], constant[i]);
          value = multiply_add(value, by_gradient[i], rest);
        }
        if constexpr (Added) {
          value += load(added + i * width);
        }
        store(output + i * output_vector, value);
      }
      gradient += gradient_pixel;
      output += output_pixel;
      if constexpr (Normalized) {
        input += input_pixel;
      }
      if constexpr (Kind != Activation::identity) {
        slope_input += slope_pixel;
      }
      if constexpr (Added) {
        added += added_pixel;
      }
    }
  }
}

template <Activation Kind, bool Normalized, bool Added>
BSCONV_SIMD_TARGET inline void normalization_gradient_with(const NormalizationGradient& n) {
  int64_t v = 0;
  if constexpr (registers >= 32) {
    for (; v + 4 <= n.vectors; v += 4) {
      normalization_gradient_vectors<Kind, Normalized, Added, 4>(n, v);
    }
  }
  for (; v + 2 <= n.vectors; v += 2) {
    normalization_gradient_vectors<Kind, Normalized, Added, 2>(n, v);
  }
  for (; v < n.vectors; ++v) {
    normalization_gradient_vectors<Kind, Normalized, Added, 1>(n, v);
  }
}

template <Activation Kind>
BSCONV_SIMD_TARGET inline void normalization_gradient_of(const NormalizationGradient& n) {
  if (n.input.data == nullptr) {
    return normalization_gradient_with<Kind, false, false>(n);
  }
  return n.added.data != nullptr ? normalization_gradient_with<Kind, true, true>(n)
                                 : normalization_gradient_with<Kind, true, false>(n);
}

BSCONV_SIMD_TARGET inline void normalization_gradient(const NormalizationGradient& n) {
  switch (n.slope.activation) {
    case Activation::relu:
      return normalization_gradient_of<Activation::relu>(n);
    case Activation::relu6:
      return normalization_gradient_of<Activation::relu6>(n);
    default:
      return normalization_gradient_of<Activation::identity>(n);
  }
}

// One pixel of the input: its gradient, and what it adds to the weights'. `weights` is null where
// they are in registers.
template <int Kernel>
BSCONV_SIMD_INLINE Vector depthwise_gradient_pixel(const float* gradient, int64_t gradient_row,
                                                   Vector x, const float* weights,
                                                   const Vector (&kept)[Kernel * Kernel],
                                                   Vector (&by_tap)[Kernel * Kernel]) {
  Vector sum{};
#pragma GCC unroll 8
  for (int i = 0; i < Kernel; ++i) {
    Vector row_sum{};
#pragma GCC unroll 8
    for (int j = 0; j < Kernel; ++j) {
      // The last tap of a window meets the first pixel.
      const int tap = Kernel * Kernel - 1 - (i * Kernel + j);
      const Vector g = in_register(load(gradient + i * gradient_row + j * width));
      row_sum =
          multiply_add(g, weights == nullptr ? kept[tap] : load(weights + tap * width), row_sum);
      by_tap[tap] = multiply_add(g, x, by_tap[tap]);
    }
    sum += row_sum;
  }
  return sum;
}

// Stride and dilation 1: gathers what meets each pixel of the input.
template <int Kernel>
BSCONV_SIMD_TARGET __attribute__((noinline)) inline void depthwise_gradient_square(
    const DepthwiseGradient& d) {
  constexpr int taps = Kernel * Kernel;
  constexpr bool in_registers = 2 * taps + 6 <= registers;
  constexpr int64_t together = 8;
  Prefetch ahead[2] = {d.prefetch[0], d.prefetch[1]};
  // Copies of their own, which no store can change.
  const int64_t gradient_row = d.gradient_row;
  const int64_t output_pixel = d.input_gradient_pixel;
  for (int64_t v = 0; v < d.vectors; ++v) {
    const float* weights = d.weights + v * taps * width;
    Vector kept[taps];
    Vector by_tap[taps];
#pragma GCC unroll 32
    for (int tap = 0; tap < taps; ++tap) {
      by_tap[tap] = Vector{};
      kept[tap] = in_registers ? in_register(load(weights + tap * width)) : Vector{};
    }
    for (int64_t row = 0; row < d.rows; ++row) {
      const float* gradient = d.gradient + v * d.gradient_plane + row * gradient_row;
      const float* input = d.input + v * d.input_plane + row * d.input_row;
      float* output = d.input_gradient + v * d.input_gradient_vector + row * d.input_gradient_row;
      for (int64_t left = d.pixels; left > 0; left -= together) {
        const int64_t pixels = std::min(left, together);
        if (v == 0) {
          fetch(ahead, pixels);
        }
        for (int64_t p = 0; p < pixels; ++p) {
          store(output,
                depthwise_gradient_pixel<Kernel>(gradient, gradient_row, in_register(load(input)),
                                                 in_registers ? nullptr : weights, kept, by_tap));
          gradient += width;
          input += width;
          output += output_pixel;
        }
      }
    }
    float* to = d.weight_gradient + v * taps * width;
#pragma GCC unroll 32
    for (int tap = 0; tap < taps; ++tap) {
      store(to + tap * width, load(to + tap * width) + by_tap[tap]);
    }
  }
}

// Any geometry: spreads each pixel of the gradient over its window.
BSCONV_SIMD_TARGET inline void depthwise_gradient_any(const DepthwiseGradient& d) {
  const int64_t taps = d.kernel[0] * d.kernel[1];
  for (int64_t v = 0; v < d.vectors; ++v) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t y = tap / d.kernel[1] * d.dilation[0];
      const int64_t x = tap % d.kernel[1] * d.dilation[1];
      const Vector weight = load(d.weights + (v * taps + tap) * width);
      Vector even{};
      Vector odd{};
      for (int64_t row = 0; row < d.rows; ++row) {
        const float* gradient = d.gradient + v * d.gradient_plane + row * d.gradient_row;
        const int64_t at = v * d.input_plane + (row * d.stride[0] + y) * d.input_row + x * width;
        const float* input = d.input + at;
        float* output = d.input_gradient + at;
        const int64_t step = d.stride[1] * width;
        int64_t p = 0;
        for (; p + 2 <= d.pixels; p += 2) {
          const Vector first = in_register(load(gradient + p * width));
          const Vector second = in_register(load(gradient + (p + 1) * width));
          even = multiply_add(first, load(input), even);
          odd = multiply_add(second, load(input + step), odd);
          store(output, multiply_add(first, weight, load(output)));
          store(output + step, multiply_add(second, weight, load(output + step)));
          input += 2 * step;
          output += 2 * step;
        }
        if (p < d.pixels) {
          const Vector first = in_register(load(gradient + p * width));
          even = multiply_add(first, load(input), even);
          store(output, multiply_add(first, weight, load(output)));
        }
      }
      float* to = d.weight_gradient + (v * taps + tap) * width;
      store(to, load(to) + even + odd);
    }
  }
}

BSCONV_SIMD_TARGET inline void depthwise_gradient(const DepthwiseGradient& d) {
  return d.gathers() ? depthwise_gradient_square<3>(d) : depthwise_gradient_any(d);
}

inline constexpr TrainingKernelTable training_table = {
    &table,         &outer_products,         &moments,
    &gradient_sums, &normalization_gradient, &depthwise_gradient};

}  // namespace bsconv::kernels::BSCONV_SIMD_NAMESPACE

#undef BSCONV_SIMD_INLINE
