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

// Convolutions of pairs of bf16 numbers.
struct PairProducts {
  using Number = uint16_t;
  using Weights = __m512i;
  static constexpr int numbers = 2;

  static const uint16_t* windows(const Convolution& c) { return c.rounded; }

  static inline __attribute__((always_inline)) BSCONV_SIMD_TARGET __m512i
  weights_at(const float* from) {
    return _mm512_loadu_si512(from);
  }

  template <int Vectors>
  static inline __attribute__((always_inline)) BSCONV_SIMD_TARGET __m512i
  value_at(const uint16_t* from) {
    int32_t pair = 0;
    std::memcpy(&pair, from, sizeof(pair));
    return _mm512_set1_epi32(pair);
  }

  static inline __attribute__((always_inline)) BSCONV_SIMD_TARGET Vector add(Vector sums,
                                                                             __m512i value,
                                                                             __m512i weights) {
    return _mm512_dpbf16_ps(sums, (__m512bh)value, (__m512bh)weights);
  }
};

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

inline void convolve_rounded(const Convolution& c) {
  c.rounded == nullptr ? convolve(c) : convolve_panels<PairProducts, false>(c);
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
      sums[i] = in_register(PairProducts::add(sums[i], factor, factor));
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
