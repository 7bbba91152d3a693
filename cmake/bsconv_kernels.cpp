// SPDX-License-Identifier: BSD-3-Clause-Clear
//
// The kernels as a library of their own: the component bsconv::kernels.

#include <bsconv/kernels/table.hpp>
#include <bsconv/kernels/training_table.hpp>

#include <bsconv/kernels/processor.hpp>
#include <bsconv/kernels/training.hpp>

#if !defined(BSCONV_COMPILED_KERNELS)
#error "This file needs BSCONV_COMPILED_KERNELS, as the component bsconv::kernels defines it"
#endif

namespace bsconv::kernels {

std::vector<const KernelTable*> available_kernels() { return detail::tables_of_processor(); }

const KernelTable* bf16_kernels() { return detail::bf16_table_of_processor(); }

const TrainingKernelTable& training_kernels(const KernelTable& kernels) {
  return detail::training_table_of(kernels);
}

}  // namespace bsconv::kernels
