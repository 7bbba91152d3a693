// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/kernels/table.hpp>
#include <bsconv/kernels/training_arguments.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

/// \file
/// The kernels for gradients for every kind of processor in one binary, as in table.hpp.

/// \cond
#define BSCONV_SIMD_NAMESPACE baseline
#define BSCONV_SIMD_TARGET
#include <bsconv/kernels/training.inl>
#undef BSCONV_SIMD_NAMESPACE
#undef BSCONV_SIMD_TARGET

#if defined(__x86_64__)
#define BSCONV_SIMD_NAMESPACE avx2
#define BSCONV_SIMD_TARGET __attribute__((target("avx2,fma")))
#include <bsconv/kernels/training.inl>
#undef BSCONV_SIMD_NAMESPACE
#undef BSCONV_SIMD_TARGET

#define BSCONV_SIMD_NAMESPACE avx512
#define BSCONV_SIMD_TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")))
#include <bsconv/kernels/training.inl>
#undef BSCONV_SIMD_NAMESPACE
#undef BSCONV_SIMD_TARGET
#endif
/// \endcond

namespace bsconv::kernels {

/// The kernels for gradients that go with `kernels`, one of `available_kernels()`.
inline const TrainingKernelTable& training_kernels(const KernelTable& kernels) {
#if defined(__x86_64__)
  if (&kernels == &avx512::table) {
    return avx512::training_table;
  }
  if (&kernels == &avx2::table) {
    return avx2::training_table;
  }
#endif
  return baseline::training_table;
}

}  // namespace bsconv::kernels
