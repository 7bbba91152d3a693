// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <c10/util/Exception.h>
#include <bsconv/util/restore.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "support/warnings.hpp"

namespace util_restore_test {
namespace {

using bsconv::detail::restore;
using testing::ElementsAre;
using testing::IsEmpty;

TEST(Restore, SaysWhetherItWorked) {
  bsconv_test::Warnings warnings;
  int calls = 0;
  EXPECT_TRUE(restore("a number", [&calls] { ++calls; }));
  EXPECT_EQ(calls, 1);
  EXPECT_THAT(warnings.messages, IsEmpty());
}

TEST(Restore, WarnsOfWhatWasThrown) {
  bsconv_test::Warnings warnings;
  EXPECT_FALSE(restore("a number", [] { TORCH_CHECK(false, "no such device"); }));
  EXPECT_FALSE(restore("a name", [] { throw std::runtime_error("no memory"); }));
  EXPECT_FALSE(restore("a thing", [] { throw 1; }));
  EXPECT_THAT(warnings.messages, ElementsAre("could not put back a number: no such device",
                                             "could not put back a name: no memory"));
}

struct ThrowingHandler : c10::WarningHandler {
  void process(const c10::Warning& warning) override { throw std::logic_error(warning.msg()); }
};

TEST(Restore, OutlivesWarningsThatAreErrors) {
  ThrowingHandler handler;
  const c10::WarningUtils::WarningHandlerGuard guard(&handler);
  EXPECT_FALSE(restore("a name", [] { throw std::runtime_error("no memory"); }));
}

}  // namespace
}  // namespace util_restore_test
