// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/kernels/arguments.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/// \file
/// The kernels' code, one inclusion of simd.inl for each kind of processor. They are written with
/// the vector types of g++ and clang++, which need no library, and leave registers and instructions
/// to the compiler.

/// \cond
#define BSCONV_SIMD_NAMESPACE baseline
#define BSCONV_SIMD_NAME "baseline"
#define BSCONV_SIMD_TARGET
#define BSCONV_SIMD_BYTES 16
#if defined(__aarch64__)
#define BSCONV_SIMD_REGISTERS 32
#else
#define BSCONV_SIMD_REGISTERS 16
#endif
#include <bsconv/kernels/simd.inl>
#undef BSCONV_SIMD_NAMESPACE
#undef BSCONV_SIMD_NAME
#undef BSCONV_SIMD_TARGET
#undef BSCONV_SIMD_BYTES
#undef BSCONV_SIMD_REGISTERS

#if defined(__x86_64__)
#define BSCONV_SIMD_NAMESPACE avx2
#define BSCONV_SIMD_NAME "avx2"
#define BSCONV_SIMD_TARGET __attribute__((target("avx2,fma")))
#define BSCONV_SIMD_BYTES 32
#define BSCONV_SIMD_REGISTERS 16
#include <bsconv/kernels/simd.inl>
#undef BSCONV_SIMD_NAMESPACE
#undef BSCONV_SIMD_NAME
#undef BSCONV_SIMD_TARGET
#undef BSCONV_SIMD_BYTES
#undef BSCONV_SIMD_REGISTERS

#define BSCONV_SIMD_NAMESPACE avx512
#define BSCONV_SIMD_NAME "avx512"
#define BSCONV_SIMD_TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")))
#define BSCONV_SIMD_BYTES 64
#define BSCONV_SIMD_REGISTERS 32
#include <bsconv/kernels/simd.inl>
#undef BSCONV_SIMD_NAMESPACE
#undef BSCONV_SIMD_NAME
#undef BSCONV_SIMD_TARGET
#undef BSCONV_SIMD_BYTES
#undef BSCONV_SIMD_REGISTERS
#endif
/// \endcond

namespace bsconv::kernels::detail {

/// What `available_kernels` returns.
inline std::vector<const KernelTable*> tables_of_processor() {
  std::vector<const KernelTable*> tables;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) {
    tables.push_back(&avx512::table);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    tables.push_back(&avx2::table);
  }
#endif
  tables.push_back(&baseline::table);
  return tables;
}

}  // namespace bsconv::kernels::detail
