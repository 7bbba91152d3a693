// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/kernels/simd.hpp>
#include <bsconv/kernels/training_arguments.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

/// \file
/// The code of the kernels for gradients, one inclusion of training.inl for each kind of processor.

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

namespace bsconv::kernels::detail {

/// What `training_kernels` returns.
inline const TrainingKernelTable& training_table_of([[maybe_unused]] const KernelTable& kernels) {
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

}  // namespace bsconv::kernels::detail
