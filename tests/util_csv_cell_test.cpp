// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/util/csv_cell.hpp>

#include <gtest/gtest.h>

namespace util_csv_cell_test {
namespace {

using bsconv::detail::csv_cell;

TEST(CsvCell, IsQuotedWhereItNeedsToBe) {
  EXPECT_EQ(csv_cell(""), "");
  EXPECT_EQ(csv_cell("stage1.unit 2"), "stage1.unit 2");
  EXPECT_EQ(csv_cell("a,b"), "\"a,b\"");
  EXPECT_EQ(csv_cell("3\" screen"), "\"3\"\" screen\"");
  EXPECT_EQ(csv_cell("two\nlines"), "\"two\nlines\"");
  EXPECT_EQ(csv_cell("two\rlines"), "\"two\rlines\"");
}

}  // namespace
}  // namespace util_csv_cell_test
