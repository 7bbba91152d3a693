// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/kernels/arguments.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

/// \file
/// The kernels for processors with AVX512-BF16: those of AVX-512, whose results can also go to
/// images in bf16, and convolutions that read such images. Their sums are floats.

#if defined(__x86_64__)

#include <immintrin.h>

/// \cond
#define BSCONV_SIMD_NAMESPACE avx512_bf16
#define BSCONV_SIMD_NAME "avx512_bf16"
#define BSCONV_SIMD_TARGET \
  __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma")))
#define BSCONV_SIMD_BYTES 64
#define BSCONV_SIMD_REGISTERS 32
#define BSCONV_SIMD_BF16
#include <bsconv/kernels/simd.inl>
#undef BSCONV_SIMD_BF16
#undef BSCONV_SIMD_NAMESPACE
#undef BSCONV_SIMD_NAME
#undef BSCONV_SIMD_BYTES
#undef BSCONV_SIMD_REGISTERS

namespace bsconv::kernels::avx512_bf16 {

// `sums` plus the products of two pairs each.
inline __attribute__((always_inline)) BSCONV_SIMD_TARGET Vector add_products(Vector sums,
                                                                             __m512i left,
                                                                             __m512i right) {
  return _mm512_dpbf16_ps(sums, (__m512bh)left, (__m512bh)right);
}

inline __attribute__((always_inline)) BSCONV_SIMD_TARGET __m512i pair_at(const uint16_t* from) {
  int32_t pair = 0;
  std::memcpy(&pair, from, sizeof(pair));
  return _mm512_set1_epi32(pair);
}

BSCONV_SIMD_TARGET inline void round_to_bf16(const float* from, int64_t count, uint16_t* to) {
  int64_t i = 0;
  for (; i + 2 * width <= count; i += 2 * width) {
    const auto both =
        _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + width), _mm512_loadu_ps(from + i));
    _mm512_storeu_si512(to + i, (__m512i)both);
  }
  for (; i < count; i += width) {
    const auto left = static_cast<unsigned>(std::min<int64_t>(count - i, width));
    const auto mask = static_cast<__mmask16>((1U << left) - 1U);
    const auto some = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from + i));
    _mm256_mask_storeu_epi16(to + i, mask, (__m256i)some);
  }
}

// `Pixel` is the distance between windows if it is known, otherwise 0.
template <int Pixels, int Vectors, int Pixel>
BSCONV_SIMD_TARGET __attribute__((noinline)) inline void pairs_tile(const Convolution& c,
                                                                    const uint16_t* input,
                                                                    const Place& place) {
  Vector sums[Pixels * Vectors];
  start_sums<Pixels, Vectors>(c, place, sums);
  const float* weights = c.weights;
  const int64_t pixel = Pixel != 0 ? Pixel : c.input.pixel;
  for (int64_t s = 0; s < c.segment_count; ++s) {
    const uint16_t* x = input + c.segments[s];
#pragma GCC unroll 2
    for (int64_t k = 0; k < c.depth; k += 2) {
      __m512i w[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        w[v] = _mm512_loadu_si512(weights + v * width);
      }
      weights += Vectors * width;
#pragma GCC unroll 64
      for (int p = 0; p < Pixels; ++p) {
        const __m512i value = pair_at(x + p * pixel + k);
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) {
          sums[p * Vectors + v] = add_products(sums[p * Vectors + v], value, w[v]);
        }
      }
    }
  }
  finish_sums<Pixels, Vectors>(c, place, sums);
}

template <int Vectors, int Pixel, std::size_t... Pixels>
constexpr std::array<void (*)(const Convolution&, const uint16_t*, const Place&), sizeof...(Pixels)>
pairs_tiles(std::index_sequence<Pixels...>) {
  return {&pairs_tile<static_cast<int>(Pixels) + 1, Vectors, Pixel>...};
}

template <int Vectors, int Pixel>
BSCONV_SIMD_TARGET inline void pairs_panel(const Convolution& c) {
  static constexpr auto by_pixels =
      pairs_tiles<Vectors, Pixel>(std::make_index_sequence<largest_tile<Vectors, Pixel>>());
  convolve_rows(c, c.rounded, by_pixels);
}

inline void convolve_rounded(const Convolution& c) {
  if (c.rounded == nullptr) {
    return convolve(c);
  }
  switch (c.vectors) {
    case 1:
      return c.input.pixel == 16 ? pairs_panel<1, 16>(c) : pairs_panel<1, 0>(c);
    case 2:
      return pairs_panel<2, 0>(c);
    case 3:
      return pairs_panel<3, 0>(c);
    default:
      return pairs_panel<4, 0>(c);
  }
}

BSCONV_SIMD_TARGET __attribute__((noinline)) inline float multiply_pairs(int64_t rounds) {
  Vector sums[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    sums[i] = in_register(broadcast(static_cast<float>(i)));
  }
  const __m512i factor = _mm512_set1_epi32(0x3F803F80);
  // Two rounds of 16 vectors at a time, each product standing for two.
  for (int64_t round = 0; round < rounds; round += 2) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      sums[i] = in_register(add_products(sums[i], factor, factor));
    }
  }
  Vector sum = sums[0];
#pragma GCC unroll 16
  for (int i = 1; i < 16; ++i) {
    sum += sums[i];
  }
  return sum[0];
}

inline constexpr KernelTable bf16_table = [] {
  KernelTable made = table;
  made.convolve = &convolve_rounded;
  made.multiply_adds = &multiply_pairs;
  made.round = &round_to_bf16;
  return made;
}();

}  // namespace bsconv::kernels::avx512_bf16

#undef BSCONV_SIMD_TARGET
/// \endcond

#endif
