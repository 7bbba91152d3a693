// SPDX-License-Identifier: BSD-3-Clause-Clear
// A libFuzzer program of the target BSCONV_FUZZ_TARGET.
#include <c10/util/Logging.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "targets.hpp"

extern "C" int LLVMFuzzerInitialize(int* /*count*/, char*** /*arguments*/) {
  // Every refusal is an exception; looking up its stack would take most of the time.
  c10::SetStackTraceFetcher([]() -> std::string { return {}; });
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  bsconv_fuzz::accepts(BSCONV_FUZZ_TARGET, {data, size});
  return 0;
}
