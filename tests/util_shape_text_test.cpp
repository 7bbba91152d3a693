// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/util/shape_text.hpp>

#include <gtest/gtest.h>

namespace util_shape_text_test {
namespace {

using bsconv::detail::shape_text;

TEST(ShapeText, HasTheSizesInOrder) {
  EXPECT_EQ(shape_text({8, 3, 32, 32}), "8x3x32x32");
  EXPECT_EQ(shape_text({7}), "7");
  EXPECT_EQ(shape_text({}), "");
}

}  // namespace
}  // namespace util_shape_text_test
