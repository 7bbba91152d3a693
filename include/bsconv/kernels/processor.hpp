// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/kernels/bf16.hpp>
#include <bsconv/kernels/simd.hpp>

#include <vector>

/// \file
/// Which of the kernels the processor can run that a program finds itself on.

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

/// What `bf16_kernels` returns.
inline const KernelTable* bf16_table_of_processor() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) {
    return &avx512_bf16::bf16_table;
  }
#endif
  return nullptr;
}

}  // namespace bsconv::kernels::detail
