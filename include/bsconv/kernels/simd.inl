// SPDX-License-Identifier: BSD-3-Clause-Clear
//
// The kernels for one kind of processor. kernels/simd.hpp includes this file once a kind, with
//   BSCONV_SIMD_NAMESPACE  the namespace of the kind
//   BSCONV_SIMD_TARGET     the attribute that allows its instructions
//   BSCONV_SIMD_BYTES      the size of a vector
//   BSCONV_SIMD_REGISTERS  the number of vector registers
//   BSCONV_SIMD_BF16       defined if it has instructions for bf16
// Every function here carries the attribute, so the rest of a program needs no compiler flags.

#define BSCONV_SIMD_INLINE inline __attribute__((always_inline)) BSCONV_SIMD_TARGET

namespace bsconv::kernels::BSCONV_SIMD_NAMESPACE {

constexpr int width = BSCONV_SIMD_BYTES / 4;
constexpr int registers = BSCONV_SIMD_REGISTERS;

using Vector = float __attribute__((vector_size(BSCONV_SIMD_BYTES)));
using Unaligned = float __attribute__((vector_size(BSCONV_SIMD_BYTES), aligned(4), may_alias));

BSCONV_SIMD_INLINE Vector load(const float* from) {
  return *reinterpret_cast<const Unaligned*>(from);
}

BSCONV_SIMD_INLINE void store(float* to, Vector value) {
  *reinterpret_cast<Unaligned*>(to) = value;
}

#if defined(BSCONV_SIMD_BF16)
BSCONV_SIMD_INLINE void store_rounded(uint16_t* to, Vector value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(value));
}
#endif

// Subtracting zero, unlike adding it, changes no value at all and costs no instruction.
BSCONV_SIMD_INLINE Vector broadcast(float value) { return value - Vector{}; }

// Keeps a value that is used several times in a register: g++ would load it anew for every use.
BSCONV_SIMD_INLINE Vector in_register(Vector value) {
#if defined(__x86_64__)
  __asm__("" : "+v"(value));
#endif
  return value;
}

// The same pointer, of which the compiler doesn't know how it came about. g++ computes the
// addresses of all pixels in advance and, as they are too many, keeps them in vector registers: to
// get one back waits behind all arithmetic in the queue.
template <class Value>
BSCONV_SIMD_INLINE Value* opaque(Value* pointer) {
  __asm__("" : "+r"(pointer));
  return pointer;
}

// `a * b + c`, rounded once where the processor can.
BSCONV_SIMD_INLINE Vector multiply_add(Vector a, Vector b, Vector c) {
#if BSCONV_SIMD_BYTES == 64
  return _mm512_fmadd_ps(a, b, c);
#elif BSCONV_SIMD_BYTES == 32
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return (Vector)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// A NaN in `value` stays one.
BSCONV_SIMD_INLINE Vector at_least(Vector value, Vector bound) {
#if BSCONV_SIMD_BYTES == 64
  // Unlike _mm512_max_ps this form has no undefined operand, of which g++ 12 warns.
  return _mm512_mask_max_ps(bound, 0xFFFF, bound, value);
#elif BSCONV_SIMD_BYTES == 32
  return _mm256_max_ps(bound, value);
#else
  return value < bound ? bound : value;
#endif
}

BSCONV_SIMD_INLINE Vector at_most(Vector value, Vector bound) {
#if BSCONV_SIMD_BYTES == 64
  return _mm512_mask_min_ps(bound, 0xFFFF, bound, value);
#elif BSCONV_SIMD_BYTES == 32
  return _mm256_min_ps(bound, value);
#else
  return value > bound ? bound : value;
#endif
}

BSCONV_SIMD_INLINE Vector relu6_of(Vector value) {
  return at_most(at_least(value, Vector{}), broadcast(6.0F));
}

template <int Count>
BSCONV_SIMD_INLINE void activate(Vector (&values)[Count], Activation activation) {
  constexpr float sixth = 1.0F / 6.0F;
  switch (activation) {
    case Activation::identity:
      break;
    case Activation::relu:
#pragma GCC unroll 64
      for (int i = 0; i < Count; ++i) {
        values[i] = at_least(values[i], Vector{});
      }
      break;
    case Activation::relu6:
#pragma GCC unroll 64
      for (int i = 0; i < Count; ++i) {
        values[i] = relu6_of(values[i]);
      }
      break;
    case Activation::hardswish:
#pragma GCC unroll 64
      for (int i = 0; i < Count; ++i) {
        values[i] *= relu6_of(values[i] + broadcast(3.0F)) * broadcast(sixth);
      }
      break;
    case Activation::hardsigmoid:
#pragma GCC unroll 64
      for (int i = 0; i < Count; ++i) {
        values[i] = relu6_of(values[i] + broadcast(3.0F)) * broadcast(sixth);
      }
      break;
  }
}

template <class Number>
inline Number* moved(Number* from, int64_t by) {
  return from == nullptr ? nullptr : from + by;
}

// Where the results of some pixels go, and what is added to them; see `Epilogue`.
struct Place {
  const float* residual;
  float* output;
  uint16_t* rounded;
};

// The place of `row`'s pixels from `channel` on.
inline Place place_of(const Epilogue& epilogue, const Image<float>& output, int64_t row,
                      int64_t channel) {
  return {moved(epilogue.residual.data, row * epilogue.residual.row + channel),
          moved(output.data, row * output.row + channel),
          moved(epilogue.rounded.data, row * epilogue.rounded.row + channel)};
}

inline void advance(Place& place, const Epilogue& epilogue, const Image<float>& output,
                    int64_t pixels) {
  place.residual = moved(place.residual, pixels * epilogue.residual.pixel);
  place.output = moved(place.output, pixels * output.pixel);
  place.rounded = moved(place.rounded, pixels * epilogue.rounded.pixel);
}

// Applies the epilogue to `Pixels` adjacent pixels of `Vectors` vectors and stores them.
template <int Pixels, int Vectors>
BSCONV_SIMD_INLINE void finish(Vector (&values)[Pixels * Vectors], const Epilogue& epilogue,
                               const Place& place, int64_t output_pixel, int64_t output_vector) {
  const float* residual = place.residual;
  activate(values, epilogue.before);
  if (residual != nullptr) {
#pragma GCC unroll 64
    for (int p = 0; p < Pixels; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        values[p * Vectors + v] += load(residual + v * width);
      }
      residual = opaque(residual + epilogue.residual.pixel);
    }
  }
  activate(values, epilogue.after);
#if defined(BSCONV_SIMD_BF16)
  if (uint16_t* rounded = place.rounded; rounded != nullptr) {
#pragma GCC unroll 64
    for (int p = 0; p < Pixels; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        store_rounded(rounded + v * width, values[p * Vectors + v]);
      }
      rounded = opaque(rounded + epilogue.rounded.pixel);
    }
    if (place.output == nullptr) {
      return;
    }
  }
#endif
  float* output = place.output;
#pragma GCC unroll 64
  for (int p = 0; p < Pixels; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      store(output + v * output_vector, values[p * Vectors + v]);
    }
    output = opaque(output + output_pixel);
  }
}

// Begins to fetch what a pass over memory comes to half a page later: left alone, the processor
// waits at the beginning of every page.
inline void fetch_ahead(const float* at) { __builtin_prefetch(at + 512, 0, 2); }

// Begins to fetch what belongs to `pixels` pixels, and moves on.
inline void fetch(Prefetch (&ahead)[2], int64_t pixels) {
  constexpr int64_t line = 64 / sizeof(float);
  for (Prefetch& next : ahead) {
    const float* end = next.data + pixels * next.pixel;
    for (const float* at = next.data; at < end; at += line) {
      __builtin_prefetch(at, 0, 2);
    }
    next.data = end;
  }
}

// What the sums of a tile start from.
template <int Pixels, int Vectors>
BSCONV_SIMD_INLINE void start_sums(const Convolution& c, const Place& place,
                                   Vector (&sums)[Pixels * Vectors]) {
  if (c.first) {
    Vector bias[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      bias[v] = load(c.bias + v * width);
    }
#pragma GCC unroll 64
    for (int i = 0; i < Pixels * Vectors; ++i) {
      sums[i] = bias[i % Vectors];
    }
    return;
  }
  const float* start = place.output;
#pragma GCC unroll 64
  for (int p = 0; p < Pixels; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      sums[p * Vectors + v] = load(start + v * c.output_vector);
    }
    start = opaque(start + c.output.pixel);
  }
}

// Stores the sums of a tile, complete or not.
template <int Pixels, int Vectors>
BSCONV_SIMD_INLINE void finish_sums(const Convolution& c, const Place& place,
                                    Vector (&sums)[Pixels * Vectors]) {
  if (c.last) {
    finish<Pixels, Vectors>(sums, c.epilogue, place, c.output.pixel, c.output_vector);
  } else {
    finish<Pixels, Vectors>(sums, Epilogue{}, Place{nullptr, place.output, nullptr}, c.output.pixel,
                            c.output_vector);
  }
}

// Convolutions in floats. `Products`, here and below, says what numbers are multiplied.
struct FloatProducts {
  using Number = float;
  using Weights = Vector;
  // Numbers of a segment for one step.
  static constexpr int numbers = 1;

  static const float* windows(const Convolution& c) { return c.input.data; }

  BSCONV_SIMD_INLINE static Vector weights_at(const float* from) { return load(from); }

  template <int Vectors>
  BSCONV_SIMD_INLINE static Vector value_at(const float* from) {
    const Vector value = broadcast(*from);
    return Vectors > 1 ? in_register(value) : value;
  }

  BSCONV_SIMD_INLINE static Vector add(Vector sums, Vector value, Vector weights) {
    return multiply_add(value, weights, sums);
  }
};

// `Pixel` is the distance between windows if it is known, otherwise 0; `Single` says that segments
// have one float.
template <class Products, int Pixels, int Vectors, int Pixel, bool Single>
BSCONV_SIMD_TARGET __attribute__((noinline)) inline void convolve_tile(
    const Convolution& c, const typename Products::Number* input, const Place& place) {
  // How many pixels the addresses from one pointer on reach.
  constexpr int reach = Pixel == 0 ? std::min(Pixels, 3) : Pixels;
  constexpr int pointers = (Pixels + reach - 1) / reach;
  Vector sums[Pixels * Vectors];
  start_sums<Pixels, Vectors>(c, place, sums);
  const float* weights = c.weights;
  const int64_t pixel = Pixel != 0 ? Pixel : c.input.pixel;
  // What is read anew from memory takes no register meanwhile.
  for (int64_t s = 0; s < opaque(&c)->segment_count; ++s) {
    const typename Products::Number* x[pointers];
    x[0] = input + opaque(&c)->segments[s];
#pragma GCC unroll 8
    for (int i = 1; i < pointers; ++i) {
      x[i] = opaque(x[i - 1] + reach * pixel);
    }
    const int64_t depth = Single ? 1 : opaque(&c)->depth;
#pragma GCC unroll 2
    for (int64_t k = 0; k < depth; k += Products::numbers) {
      typename Products::Weights w[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        w[v] = Products::weights_at(weights + v * width);
      }
      weights += Vectors * width;
#pragma GCC unroll 64
      for (int p = 0; p < Pixels; ++p) {
        const auto value = Products::template value_at<Vectors>(x[p / reach] + p % reach * pixel);
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) {
          sums[p * Vectors + v] = Products::add(sums[p * Vectors + v], value, w[v]);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < pointers; ++i) {
        x[i] = opaque(x[i] + Products::numbers);
      }
    }
  }
  finish_sums<Pixels, Vectors>(*opaque(&c), *opaque(&place), sums);
}

// The most pixels of a tile whose sums, weights and one value fit the registers. Where distances
// are known only when the program runs, more pixels would need more registers for addresses than
// there are.
template <int Vectors, int Pixel>
constexpr int largest_tile = std::min((registers - 1 - Vectors) / Vectors,
                                      Vectors > 1 ? 14 : (Pixel != 0 ? 16 : 11));

template <class Products>
using ConvolveTile = void (*)(const Convolution&, const typename Products::Number*, const Place&);

template <class Products, int Vectors, int Pixel, bool Single, std::size_t... Pixels>
constexpr std::array<ConvolveTile<Products>, sizeof...(Pixels)> convolve_tiles(
    std::index_sequence<Pixels...>) {
  return {&convolve_tile<Products, static_cast<int>(Pixels) + 1, Vectors, Pixel, Single>...};
}

// Goes over the rows in tiles of nearly as many pixels each.
template <class Products, int Vectors, int Pixel, bool Single>
BSCONV_SIMD_TARGET inline void convolve_panel(const Convolution& c) {
  static constexpr auto by_pixels = convolve_tiles<Products, Vectors, Pixel, Single>(
      std::make_index_sequence<largest_tile<Vectors, Pixel>>());
  constexpr auto largest = static_cast<int64_t>(by_pixels.size());
  const int64_t tiles = (c.pixels + largest - 1) / largest;
  Prefetch ahead[2] = {c.prefetch[0], c.prefetch[1]};
  for (int64_t row = 0; row < c.rows; ++row) {
    const auto* input = Products::windows(c) + row * c.input.row;
    Place place = place_of(c.epilogue, c.output, row, 0);
    int64_t left = c.pixels;
    for (int64_t tile = tiles; tile > 0; --tile) {
      const int64_t pixels = (left + tile - 1) / tile;
      fetch(ahead, pixels);
      by_pixels[static_cast<std::size_t>(pixels - 1)](c, input, place);
      left -= pixels;
      input += pixels * c.input.pixel;
      advance(place, c.epilogue, c.output, pixels);
    }
  }
}

// For panels of any number of vectors.
template <class Products, bool Single>
BSCONV_SIMD_TARGET inline void convolve_panels(const Convolution& c) {
  switch (c.vectors) {
    case 1:
      return c.input.pixel == 16 && !Single ? convolve_panel<Products, 1, 16, false>(c)
                                            : convolve_panel<Products, 1, 0, Single>(c);
    case 2:
      return convolve_panel<Products, 2, 0, Single>(c);
    case 3:
      return convolve_panel<Products, 3, 0, Single>(c);
    default:
      return convolve_panel<Products, 4, 0, Single>(c);
  }
}

// For few weights, which stay in registers for all pixels. `Single` says that each of the `Depth`
// floats of a window is a segment of its own.
template <int Depth, int Vectors, bool Single, int Pixels>
BSCONV_SIMD_INLINE void resident_tile(const Convolution& c,
                                      const Vector (&weights)[Depth * Vectors],
                                      const int64_t (&offsets)[Depth], const float* input,
                                      const Place& place) {
  Vector sums[Pixels * Vectors];
#pragma GCC unroll 16
  for (int p = 0; p < Pixels; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      sums[p * Vectors + v] = load(c.bias + v * width);
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < Depth; ++k) {
#pragma GCC unroll 16
    for (int p = 0; p < Pixels; ++p) {
      Vector value = broadcast(input[p * c.input.pixel + (Single ? offsets[k] : k)]);
      if constexpr (Vectors > 1) {
        value = in_register(value);
      }
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        sums[p * Vectors + v] =
            multiply_add(value, weights[k * Vectors + v], sums[p * Vectors + v]);
      }
    }
  }
  finish<Pixels, Vectors>(sums, c.epilogue, place, c.output.pixel, c.output_vector);
}

template <int Depth, int Vectors, bool Single>
BSCONV_SIMD_TARGET inline void convolve_resident(const Convolution& c) {
  constexpr int most = Vectors == 1 ? 8 : 4;
  Vector weights[Depth * Vectors];
  int64_t offsets[Depth];
#pragma GCC unroll 16
  for (int k = 0; k < Depth; ++k) {
    offsets[k] = Single ? c.segments[k] : 0;
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      weights[k * Vectors + v] = load(c.weights + (k * Vectors + v) * width);
    }
  }
  Prefetch ahead[2] = {c.prefetch[0], c.prefetch[1]};
  for (int64_t row = 0; row < c.rows; ++row) {
    const float* input = c.input.data + row * c.input.row + (Single ? 0 : c.segments[0]);
    Place place = place_of(c.epilogue, c.output, row, 0);
    int64_t left = c.pixels;
    for (; left >= most; left -= most) {
      fetch(ahead, most);
      resident_tile<Depth, Vectors, Single, most>(c, weights, offsets, input, place);
      input += most * c.input.pixel;
      advance(place, c.epilogue, c.output, most);
    }
    for (; left > 0; --left) {
      resident_tile<Depth, Vectors, Single, 1>(c, weights, offsets, input, place);
      input += c.input.pixel;
      advance(place, c.epilogue, c.output, 1);
    }
  }
}

// Whether one of the kernels for few weights has done it.
BSCONV_SIMD_INLINE bool convolve_few(const Convolution& c) {
  const bool single = c.depth == 1 && c.segment_count == 3;
  if (!c.first || !c.last || !(single || c.segment_count == 1)) {
    return false;
  }
  switch (single ? 30 + c.vectors : c.depth * 10 + c.vectors) {
    case 31:
      return single && (convolve_resident<3, 1, true>(c), true);
    case 32:
      return single && (convolve_resident<3, 2, true>(c), true);
    case 34:
      return single && (convolve_resident<3, 4, true>(c), true);
    case 41:
      return convolve_resident<4, 1, false>(c), true;
    case 42:
      return convolve_resident<4, 2, false>(c), true;
    case 44:
      return convolve_resident<4, 4, false>(c), true;
    case 81:
      return convolve_resident<8, 1, false>(c), true;
    case 82:
      return convolve_resident<8, 2, false>(c), true;
    case 161:
      return convolve_resident<16, 1, false>(c), true;
    default:
      return false;
  }
}

BSCONV_SIMD_TARGET inline void convolve(const Convolution& c) {
  if constexpr (registers >= 32) {
    if (convolve_few(c)) {
      return;
    }
  }
  c.depth == 1 ? convolve_panels<FloatProducts, true>(c) : convolve_panels<FloatProducts, false>(c);
}

// One row of `Pixels` results of one vector of channels, kernel and stride known.
template <int Kernel, int Stride, int Pixels>
BSCONV_SIMD_INLINE void depthwise_tile(const Depthwise& d, const Vector (&weights)[Kernel * Kernel],
                                       Vector bias, const float* input, const Place& place) {
  constexpr int columns = (Pixels - 1) * Stride + Kernel;
  Vector sums[Pixels];
#pragma GCC unroll 16
  for (int p = 0; p < Pixels; ++p) {
    sums[p] = bias;
  }
#pragma GCC unroll 8
  for (int y = 0; y < Kernel; ++y) {
    const float* row = input + y * d.input_row;
#pragma GCC unroll 64
    for (int column = 0; column < columns; ++column) {
      const Vector value = in_register(load(row + column * width));
#pragma GCC unroll 16
      for (int p = 0; p < Pixels; ++p) {
        if (column >= p * Stride && column < p * Stride + Kernel) {
          sums[p] = multiply_add(value, weights[y * Kernel + column - p * Stride], sums[p]);
        }
      }
    }
  }
  finish<Pixels, 1>(sums, d.epilogue, place, d.output.pixel, width);
}

template <int Kernel, int Stride>
BSCONV_SIMD_TARGET inline void depthwise_square(const Depthwise& d) {
  constexpr int largest = registers >= Kernel * Kernel + 10 ? 8 : 4;
  for (int64_t v = 0; v < d.vectors; ++v) {
    Vector weights[Kernel * Kernel];
#pragma GCC unroll 32
    for (int tap = 0; tap < Kernel * Kernel; ++tap) {
      weights[tap] = load(d.weights + (v * Kernel * Kernel + tap) * width);
    }
    const Vector bias = load(d.bias + v * width);
    for (int64_t row = 0; row < d.rows; ++row) {
      const float* input = d.input + v * d.input_vector + row * Stride * d.input_row;
      Place place = place_of(d.epilogue, d.output, row, v * width);
      int64_t left = d.pixels;
      const auto go_on = [&](int64_t pixels) {
        input += pixels * Stride * width;
        advance(place, d.epilogue, d.output, pixels);
      };
      if constexpr (largest == 8) {
        for (; left == 7 || left == 14; left -= 7) {
          depthwise_tile<Kernel, Stride, 7>(d, weights, bias, input, place);
          go_on(7);
        }
        for (; left >= 8; left -= 8) {
          depthwise_tile<Kernel, Stride, 8>(d, weights, bias, input, place);
          go_on(8);
        }
      }
      for (; left >= 4; left -= 4) {
        depthwise_tile<Kernel, Stride, 4>(d, weights, bias, input, place);
        go_on(4);
      }
      for (; left > 0; --left) {
        depthwise_tile<Kernel, Stride, 1>(d, weights, bias, input, place);
        go_on(1);
      }
    }
  }
}

// Any kernel, stride and dilation.
template <int Pixels>
BSCONV_SIMD_INLINE void depthwise_any_tile(const Depthwise& d, const float* weights,
                                           const float* bias, const float* input,
                                           const Place& place) {
  Vector sums[Pixels];
#pragma GCC unroll 16
  for (int p = 0; p < Pixels; ++p) {
    sums[p] = load(bias);
  }
  const int64_t step = d.stride[1] * width;
  for (int64_t y = 0; y < d.kernel[0]; ++y) {
    for (int64_t x = 0; x < d.kernel[1]; ++x) {
      const float* at = input + y * d.dilation[0] * d.input_row + x * d.dilation[1] * width;
      const Vector weight = load(weights + (y * d.kernel[1] + x) * width);
#pragma GCC unroll 16
      for (int p = 0; p < Pixels; ++p) {
        sums[p] = multiply_add(load(at + p * step), weight, sums[p]);
      }
    }
  }
  finish<Pixels, 1>(sums, d.epilogue, place, d.output.pixel, width);
}

BSCONV_SIMD_TARGET inline void depthwise_any(const Depthwise& d) {
  for (int64_t v = 0; v < d.vectors; ++v) {
    const float* weights = d.weights + v * d.kernel[0] * d.kernel[1] * width;
    const float* bias = d.bias + v * width;
    for (int64_t row = 0; row < d.rows; ++row) {
      const float* input = d.input + v * d.input_vector + row * d.stride[0] * d.input_row;
      Place place = place_of(d.epilogue, d.output, row, v * width);
      const auto go_on = [&](int64_t pixels) {
        input += pixels * d.stride[1] * width;
        advance(place, d.epilogue, d.output, pixels);
      };
      int64_t left = d.pixels;
      for (; left >= 8; left -= 8) {
        depthwise_any_tile<8>(d, weights, bias, input, place);
        go_on(8);
      }
      for (; left > 0; --left) {
        depthwise_any_tile<1>(d, weights, bias, input, place);
        go_on(1);
      }
    }
  }
}

BSCONV_SIMD_TARGET inline void depthwise(const Depthwise& d) {
  const bool square = d.kernel[0] == d.kernel[1] && d.stride[0] == d.stride[1] &&
                      d.dilation[0] == 1 && d.dilation[1] == 1;
  if (square && d.stride[0] == 1 && d.kernel[0] == 3) {
    return depthwise_square<3, 1>(d);
  }
  if (square && d.stride[0] == 2 && d.kernel[0] == 3) {
    return depthwise_square<3, 2>(d);
  }
  // Five by five weights need a register each.
  if constexpr (registers >= 32) {
    if (square && d.stride[0] == 1 && d.kernel[0] == 5) {
      return depthwise_square<5, 1>(d);
    }
    if (square && d.stride[0] == 2 && d.kernel[0] == 5) {
      return depthwise_square<5, 2>(d);
    }
  }
  depthwise_any(d);
}

BSCONV_SIMD_INLINE Vector load_or(const float* from, int64_t offset, float otherwise) {
  return from == nullptr ? broadcast(otherwise) : load(from + offset);
}

template <int Pixels, int Vectors>
BSCONV_SIMD_INLINE void pointwise_tile(const Pointwise& e, const Vector (&scale)[Vectors],
                                       const Vector (&shift)[Vectors], const float* input,
                                       const Place& place) {
  Vector values[Pixels * Vectors];
#pragma GCC unroll 8
  for (int p = 0; p < Pixels; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      const float* from = input + p * e.input.pixel + v * width;
      fetch_ahead(from);
      if (place.residual != nullptr) {
        fetch_ahead(place.residual + p * e.epilogue.residual.pixel + v * width);
      }
      if (place.output != nullptr) {
        fetch_ahead(place.output + p * e.output.pixel + v * width);
      }
      values[p * Vectors + v] = multiply_add(load(from), scale[v], shift[v]);
    }
  }
  finish<Pixels, Vectors>(values, e.epilogue, place, e.output.pixel, width);
}

// `Vectors` vectors, from `v` on, of `pixels` pixels of a row from `first` on.
template <int Vectors>
BSCONV_SIMD_INLINE void pointwise_vectors(const Pointwise& e, int64_t v, int64_t row, int64_t first,
                                          int64_t pixels) {
  constexpr int together = 8 / Vectors;
  Vector scale[Vectors];
  Vector shift[Vectors];
#pragma GCC unroll 4
  for (int i = 0; i < Vectors; ++i) {
    scale[i] = load_or(e.scale, (v + i) * width, 1.0F);
    shift[i] = load_or(e.shift, (v + i) * width, 0.0F);
  }
  const float* input = e.input.data + row * e.input.row + first * e.input.pixel + v * width;
  Place place = place_of(e.epilogue, e.output, row, v * width);
  advance(place, e.epilogue, e.output, first);
  const auto go_on = [&](int64_t count) {
    input += count * e.input.pixel;
    advance(place, e.epilogue, e.output, count);
  };
  for (; pixels >= together; pixels -= together) {
    pointwise_tile<together, Vectors>(e, scale, shift, input, place);
    go_on(together);
  }
  for (; pixels > 0; --pixels) {
    pointwise_tile<1, Vectors>(e, scale, shift, input, place);
    go_on(1);
  }
}

BSCONV_SIMD_TARGET inline void pointwise(const Pointwise& e) {
  // A few pixels at a time, so that memory is gone through once, whatever the channels.
  constexpr int64_t cached_floats = 2048;
  const int64_t block = std::max<int64_t>(8, cached_floats / (e.vectors * width));
  for (int64_t row = 0; row < e.rows; ++row) {
    for (int64_t first = 0; first < e.pixels; first += block) {
      const int64_t pixels = std::min(block, e.pixels - first);
      int64_t v = 0;
      for (; v + 4 <= e.vectors; v += 4) {
        pointwise_vectors<4>(e, v, row, first, pixels);
      }
      for (; v + 2 <= e.vectors; v += 2) {
        pointwise_vectors<2>(e, v, row, first, pixels);
      }
      for (; v < e.vectors; ++v) {
        pointwise_vectors<1>(e, v, row, first, pixels);
      }
    }
  }
}

// `Count` vectors of one pixel of output, from the window that begins at `input` and has `rows`
// times `columns` taps inside the image.
template <int Count>
BSCONV_SIMD_INLINE void pool_vectors(const Pool& p, const float* input, int64_t rows,
                                     int64_t columns, Vector factor, float* output) {
  Vector values[Count];
  const Vector start = p.greatest ? broadcast(-__builtin_inff()) : Vector{};
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) {
    values[i] = start;
  }
  for (int64_t y = 0; y < rows; ++y) {
    const float* at = input + y * p.dilation[0] * p.input.row;
    for (int64_t x = 0; x < columns; ++x, at += p.dilation[1] * p.input.pixel) {
#pragma GCC unroll 8
      for (int i = 0; i < Count; ++i) {
        const Vector next = load(at + i * width);
        // The greater is `next` where either is NaN.
        values[i] = !p.greatest              ? values[i] + next
                    : values[i] != values[i] ? values[i]
                                             : at_least(next, values[i]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) {
    store(output + i * width, p.greatest ? values[i] : values[i] * factor);
  }
}

BSCONV_SIMD_TARGET inline void pool(const Pool& p) {
  const auto ceil_to = [](int64_t below, int64_t step) {
    return below <= 0 ? int64_t{0} : (below + step - 1) / step;
  };
  for (int64_t row = p.first_row; row < p.first_row + p.rows; ++row) {
    const int64_t top = row * p.stride[0] - p.padding[0];
    const int64_t y_begin = ceil_to(-top, p.dilation[0]);
    const int64_t y_end = std::min(p.kernel[0], ceil_to(p.height - top, p.dilation[0]));
    for (int64_t pixel = 0; pixel < p.pixels; ++pixel) {
      const int64_t left = pixel * p.stride[1] - p.padding[1];
      const int64_t x_begin = ceil_to(-left, p.dilation[1]);
      const int64_t x_end = std::min(p.kernel[1], ceil_to(p.width - left, p.dilation[1]));
      // Padding counts only as far as the padded image reaches.
      const int64_t counted =
          p.divisor != 0    ? p.divisor
          : p.count_padding ? (std::min(top + p.kernel[0], p.height + p.padding[0]) - top) *
                                  (std::min(left + p.kernel[1], p.width + p.padding[1]) - left)
                            : (y_end - y_begin) * (x_end - x_begin);
      const Vector factor = broadcast(1.0F / static_cast<float>(counted));
      const float* input = p.input.data + (top + y_begin * p.dilation[0]) * p.input.row +
                           (left + x_begin * p.dilation[1]) * p.input.pixel;
      float* output = p.output.data + row * p.output.row + pixel * p.output.pixel;
      int64_t v = 0;
      for (; v + 4 <= p.vectors; v += 4) {
        pool_vectors<4>(p, input + v * width, y_end - y_begin, x_end - x_begin, factor,
                        output + v * width);
      }
      for (; v < p.vectors; ++v) {
        pool_vectors<1>(p, input + v * width, y_end - y_begin, x_end - x_begin, factor,
                        output + v * width);
      }
    }
  }
}

BSCONV_SIMD_TARGET __attribute__((noinline)) inline float multiply_adds(int64_t rounds) {
  Vector sums[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    sums[i] = in_register(broadcast(static_cast<float>(i)));
  }
  const Vector factor = in_register(broadcast(0.999F));
  // With 16 registers the sums leave none for a third operand.
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < (registers >= 32 ? 16 : 8); ++i) {
      sums[i] = in_register(multiply_add(sums[i], factor, factor));
    }
    if constexpr (registers < 32) {
#pragma GCC unroll 16
      for (int i = 0; i < 8; ++i) {
        sums[i] = in_register(multiply_add(sums[i], factor, factor));
      }
    }
  }
  Vector sum = sums[0];
#pragma GCC unroll 16
  for (int i = 1; i < 16; ++i) {
    sum += sums[i];
  }
  return sum[0];
}

inline constexpr KernelTable table = {BSCONV_SIMD_NAME, width,      registers, &convolve,
                                      &depthwise,       &pointwise, &pool,     &multiply_adds};

}  // namespace bsconv::kernels::BSCONV_SIMD_NAMESPACE

#undef BSCONV_SIMD_INLINE
