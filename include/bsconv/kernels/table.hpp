// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/kernels/arguments.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/// \file
/// The compute kernels for every kind of processor in one binary, chosen when the program runs.
///
/// They are written with the vector types of g++ and clang++, which need no library, and leave
/// registers and instructions to the compiler; each kind is one inclusion of simd.inl.

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

namespace bsconv::kernels {

/// The kernels that this processor can run, the fastest first.
inline std::vector<const KernelTable*> available_kernels() {
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

/// The kernels called `name`; the fastest for an empty one. Throws `c10::ValueError` if this
/// processor has no such kind.
inline const KernelTable& find_kernels(std::string_view name = {}) {
  const auto tables = available_kernels();
  std::string valid;
  for (const auto* table : tables) {
    if (name.empty() || name == table->name) {
      return *table;
    }
    valid += (valid.empty() ? "" : ", ");
    valid += table->name;
  }
  TORCH_CHECK_VALUE(false, "no kernels '", name, "' for this processor; it has ", valid);
}

}  // namespace bsconv::kernels
