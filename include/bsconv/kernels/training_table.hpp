// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/kernels/table.hpp>
#include <bsconv/kernels/training_arguments.hpp>

/// \file
/// The kernels for gradients for every kind of processor in one binary, as in table.hpp.

#if !defined(BSCONV_COMPILED_KERNELS)
#include <bsconv/kernels/training.hpp>
#endif

namespace bsconv::kernels {

/// The kernels for gradients that go with `kernels`, one of `available_kernels()`.
#if defined(BSCONV_COMPILED_KERNELS)
const TrainingKernelTable& training_kernels(const KernelTable& kernels);
#else
inline const TrainingKernelTable& training_kernels(const KernelTable& kernels) {
  return detail::training_table_of(kernels);
}
#endif

}  // namespace bsconv::kernels
