// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gtest/gtest.h>
#include <bsconv/data/class_names.hpp>

#include <string>
#include <vector>

// Tests are compiled several files at a time.
namespace data_class_names_test {
namespace {

using bsconv::data::class_difference;
using bsconv::data::numbered_class_names;
using Names = std::vector<std::string>;

TEST(DataClassNames, FirstDifferenceIsTold) {
  EXPECT_EQ(class_difference({"cat", "dog"}, {"cat", "dog"}), "");
  EXPECT_EQ(class_difference({"cat", "dog", "owl"}, {"cat", "owl", "dog"}),
            "class 1 is 'dog', not 'owl'");
  EXPECT_EQ(class_difference({"cat"}, {"cat", "dog"}), "the number of classes is 1, not 2");
  EXPECT_EQ(class_difference({}, {}), "");
}

TEST(DataClassNames, NumberedOnesStandForAny) {
  const Names known = {"cat", "dog"};
  EXPECT_EQ(numbered_class_names(2), (Names{"class 0", "class 1"}));
  EXPECT_EQ(class_difference(known, numbered_class_names(2)), "");
  EXPECT_EQ(class_difference(numbered_class_names(2), known), "");
  EXPECT_EQ(class_difference({"class 1", "dog"}, known), "class 0 is 'class 1', not 'cat'");
}

}  // namespace
}  // namespace data_class_names_test
