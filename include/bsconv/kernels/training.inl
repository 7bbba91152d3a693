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
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      sums[r * Vectors + v] = load(to + r * to_row + v * width);
    }
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
      store(to + r * to_row + v * width, sums[r * Vectors + v]);
    }
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

BSCONV_SIMD_INLINE Vector load_or(const float* from, int64_t offset, float otherwise) {
  return from == nullptr ? broadcast(otherwise) : load(from + offset);
}

template <int Vectors>
BSCONV_SIMD_INLINE void moments_of(const Moments& m, int64_t v) {
  Vector shift[Vectors];
  Vector sums[Vectors];
  Vector squares[Vectors];
#pragma GCC unroll 4
  for (int i = 0; i < Vectors; ++i) {
    shift[i] = load_or(m.shift, (v + i) * width, 0.0F);
    sums[i] = Vector{};
    squares[i] = Vector{};
  }
  const float* input = m.input + v * width;
  for (int64_t p = 0; p < m.pixels; ++p) {
#pragma GCC unroll 4
    for (int i = 0; i < Vectors; ++i) {
      const Vector value = load(input + i * width) - shift[i];
      sums[i] += value;
      squares[i] = multiply_add(value, value, squares[i]);
    }
    input += m.vectors * width;
  }
#pragma GCC unroll 4
  for (int i = 0; i < Vectors; ++i) {
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
    moments_of<4>(m, v);
  }
  for (; v + 2 <= m.vectors; v += 2) {
    moments_of<2>(m, v);
  }
  for (; v < m.vectors; ++v) {
    moments_of<1>(m, v);
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

template <Activation Kind, int Vectors>
BSCONV_SIMD_INLINE void gradient_sums_of(const GradientSums& g, int64_t v) {
  Vector scale[Vectors];
  Vector shift[Vectors];
  Vector mean[Vectors];
  Vector sums[Vectors];
  Vector products[Vectors];
#pragma GCC unroll 4
  for (int i = 0; i < Vectors; ++i) {
    scale[i] = load_or(g.slope.scale, (v + i) * width, 1.0F);
    shift[i] = load_or(g.slope.shift, (v + i) * width, 0.0F);
    mean[i] = load(g.mean + (v + i) * width);
    sums[i] = Vector{};
    products[i] = Vector{};
  }
  const int64_t pixel = g.vectors * width;
  int64_t at = v * width;
  for (int64_t p = 0; p < g.pixels; ++p) {
#pragma GCC unroll 4
    for (int i = 0; i < Vectors; ++i) {
      const Vector slope_input =
          Kind == Activation::identity ? Vector{} : load(g.slope_input + at + i * width);
      const Vector passed =
          pass<Kind>(load(g.gradient + at + i * width), slope_input, scale[i], shift[i]);
      sums[i] += passed;
      products[i] = multiply_add(passed, load(g.input + at + i * width) - mean[i], products[i]);
      if (g.passed != nullptr) {
        store(g.passed + at + i * width, passed);
      }
    }
    at += pixel;
  }
#pragma GCC unroll 4
  for (int i = 0; i < Vectors; ++i) {
    float* to = g.sums + (v + i) * width;
    store(to, load(to) + sums[i]);
    to = g.products + (v + i) * width;
    store(to, load(to) + products[i]);
  }
}

template <Activation Kind>
BSCONV_SIMD_TARGET inline void gradient_sums_with(const GradientSums& g) {
  int64_t v = 0;
  for (; v + 2 <= g.vectors; v += 2) {
    gradient_sums_of<Kind, 2>(g, v);
  }
  for (; v < g.vectors; ++v) {
    gradient_sums_of<Kind, 1>(g, v);
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

template <Activation Kind, bool Normalized>
BSCONV_SIMD_TARGET inline void normalization_gradient_with(const NormalizationGradient& n) {
  for (int64_t v = 0; v < n.vectors; ++v) {
    const Vector scale = load_or(n.slope.scale, v * width, 1.0F);
    const Vector shift = load_or(n.slope.shift, v * width, 0.0F);
    const Vector by_gradient = load_or(n.by_gradient, v * width, 1.0F);
    const Vector by_input = Normalized ? load(n.by_input + v * width) : Vector{};
    const Vector constant = Normalized ? load(n.constant + v * width) : Vector{};
    for (int64_t row = 0; row < n.rows; ++row) {
      const float* gradient = n.gradient.data + row * n.gradient.row + v * width;
      const float* input = Normalized ? n.input.data + row * n.input.row + v * width : nullptr;
      const float* slope_input = Kind == Activation::identity
                                     ? nullptr
                                     : n.slope_input.data + row * n.slope_input.row + v * width;
      float* output = n.output.data + row * n.output.row + v * n.output_vector;
      for (int64_t p = 0; p < n.pixels; ++p) {
        const Vector x =
            Kind == Activation::identity ? Vector{} : load(slope_input + p * n.slope_input.pixel);
        Vector value = pass<Kind>(load(gradient + p * n.gradient.pixel), x, scale, shift);
        if constexpr (Normalized) {
          const Vector rest = multiply_add(load(input + p * n.input.pixel), by_input, constant);
          value = multiply_add(value, by_gradient, rest);
        }
        store(output + p * n.output.pixel, value);
      }
    }
  }
}

template <Activation Kind>
BSCONV_SIMD_TARGET inline void normalization_gradient_of(const NormalizationGradient& n) {
  return n.input.data != nullptr ? normalization_gradient_with<Kind, true>(n)
                                 : normalization_gradient_with<Kind, false>(n);
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

// Stride and dilation 1: gathers what meets each pixel of the input.
template <int Kernel>
BSCONV_SIMD_TARGET __attribute__((noinline)) inline void depthwise_gradient_square(
    const DepthwiseGradient& d) {
  constexpr int taps = Kernel * Kernel;
  for (int64_t v = 0; v < d.vectors; ++v) {
    const float* weights = d.weights + v * taps * width;
    Vector by_tap[taps];
#pragma GCC unroll 32
    for (int tap = 0; tap < taps; ++tap) {
      by_tap[tap] = Vector{};
    }
    for (int64_t row = 0; row < d.rows; ++row) {
      const float* gradient = d.gradient + v * d.gradient_plane + row * d.gradient_row;
      const float* input = d.input + v * d.input_plane + row * d.input_row;
      float* output = d.input_gradient + v * d.input_gradient_vector + row * d.input_gradient_row;
      for (int64_t p = 0; p < d.pixels; ++p) {
        const Vector x = in_register(load(input + p * width));
        Vector sum{};
#pragma GCC unroll 8
        for (int i = 0; i < Kernel; ++i) {
          Vector row_sum{};
#pragma GCC unroll 8
          for (int j = 0; j < Kernel; ++j) {
            // The last tap of a window meets the first pixel.
            const int tap = taps - 1 - (i * Kernel + j);
            const Vector g = in_register(load(gradient + i * d.gradient_row + (p + j) * width));
            row_sum = multiply_add(g, load(weights + tap * width), row_sum);
            by_tap[tap] = multiply_add(g, x, by_tap[tap]);
          }
          sum += row_sum;
        }
        store(output + p * d.input_gradient_pixel, sum);
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
