// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/kernels/arguments.hpp>

#include <string>
#include <string_view>
#include <vector>

#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

/// \file
/// The compute kernels for every kind of processor in one binary, chosen when the program runs.
///
/// Their code takes a compiler about half a minute in every source file that includes it. Programs
/// of several such files link the CMake component `bsconv::kernels`, which compiles it once and
/// defines `BSCONV_COMPILED_KERNELS`.

#if !defined(BSCONV_COMPILED_KERNELS)
#include <bsconv/kernels/processor.hpp>
#endif

namespace bsconv::kernels {

/// The kernels that this processor can run, the fastest first.
#if defined(BSCONV_COMPILED_KERNELS)
std::vector<const KernelTable*> available_kernels();
#else
inline std::vector<const KernelTable*> available_kernels() { return detail::tables_of_processor(); }
#endif

/// The kernels that compute convolutions in bf16, for weights in pairs
/// (`PackedConvolution::pairs`); null where this processor has no instructions for it.
#if defined(BSCONV_COMPILED_KERNELS)
const KernelTable* bf16_kernels();
#else
inline const KernelTable* bf16_kernels() { return detail::bf16_table_of_processor(); }
#endif

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

/// The kernels called `name`, or the fastest for an empty one, that compute convolutions in
/// `dtype`: float32 or bfloat16. Throws an error if this processor has none.
inline const KernelTable& find_kernels(std::string_view name, c10::ScalarType dtype) {
  if (dtype == c10::kFloat) {
    return find_kernels(name);
  }
  TORCH_CHECK_VALUE(dtype == c10::kBFloat16,
                    "on the CPU the dtype must be float32 or bfloat16, got ", dtype);
  const auto* found = bf16_kernels();
  TORCH_CHECK(found != nullptr,
              "this processor has no instructions for bfloat16 (AVX512-BF16); the dtype must be "
              "float32");
  TORCH_CHECK_VALUE(name.empty() || name == found->name, "in bfloat16 the kernels must be ",
                    found->name, ", got ", name);
  return *found;
}

}  // namespace bsconv::kernels
