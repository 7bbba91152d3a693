// SPDX-License-Identifier: BSD-3-Clause-Clear
// The Python to compare with. Its path is the macro BSCONV_TEST_PYTHON.
#pragma once

#include <string>

namespace bsconv_test {

/// The path of the Python; empty if the build was configured without one.
inline std::string python() {
#ifdef BSCONV_TEST_PYTHON
  return BSCONV_TEST_PYTHON;
#else
  return {};
#endif
}

}  // namespace bsconv_test
