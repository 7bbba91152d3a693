// SPDX-License-Identifier: BSD-3-Clause-Clear
// A libFuzzer program of the target BSCONV_FUZZ_TARGET.
#include <cstddef>
#include <cstdint>

#include "targets.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  bsconv_fuzz::accepts(BSCONV_FUZZ_TARGET, {data, size});
  return 0;
}
