// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/kernels/arguments.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/// \file
/// The kernels' code, one inclusion of simd.inl for each kind of processor. They are written with
/// the vector types of g++ and clang++, which need no library, and leave registers and instructions
/// to the compiler.

/// \cond
#define BSCONV_SIMD_NAMESPACE baseline
#define BSCONV_SIMD_TARGET
#define BSCONV_SIMD_BYTES 16
#if defined(__aarch64__)
#define BSCONV_SIMD_NAME "neon"
#define BSCONV_SIMD_REGISTERS 32
#else
#define BSCONV_SIMD_NAME "baseline"
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
