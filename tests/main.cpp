// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <c10/util/Logging.h>
#include <gtest/gtest.h>

#include <string>

int main(int count, char** arguments) {
  testing::InitGoogleTest(&count, arguments);
  // Tests throw errors by the thousand, and nobody reads where from: LibTorch takes milliseconds to
  // find the names of a stack.
  c10::SetStackTraceFetcher([]() -> std::string { return {}; });
  return RUN_ALL_TESTS();
}
