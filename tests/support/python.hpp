// SPDX-License-Identifier: BSD-3-Clause-Clear
// The Python to compare with. Its path is the macro or environment variable BSCONV_TEST_PYTHON.
#pragma once

#include <cstdlib>
#include <string>

namespace bsconv_test {

/// The path of the Python; empty if there is none.
inline std::string python() {
#ifdef BSCONV_TEST_PYTHON
  return BSCONV_TEST_PYTHON;
#else
  const char* path = std::getenv("BSCONV_TEST_PYTHON");
  return path == nullptr ? "" : path;
#endif
}

}  // namespace bsconv_test
