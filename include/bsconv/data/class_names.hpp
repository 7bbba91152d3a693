// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bsconv::data {

/// Names for classes without any: "class 0", "class 1", …
inline std::vector<std::string> numbered_class_names(int64_t count) {
  std::vector<std::string> names;
  for (int64_t i = 0; i < count; ++i) {
    names.push_back("class " + std::to_string(i));
  }
  return names;
}

/// The first difference between two lists of class names, in words: "class 3 is 'cat', not 'dog'",
/// or "the number of classes is 10, not 100"; empty if there is none. A numbered name, which stands
/// for an unknown one, agrees with any.
inline std::string class_difference(const std::vector<std::string>& found,
                                    const std::vector<std::string>& expected) {
  if (found.size() != expected.size()) {
    return "the number of classes is " + std::to_string(found.size()) + ", not " +
           std::to_string(expected.size());
  }
  const auto numbered = numbered_class_names(static_cast<int64_t>(found.size()));
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i] != expected[i] && found[i] != numbered[i] && expected[i] != numbered[i]) {
      return numbered[i] + " is '" + found[i] + "', not '" + expected[i] + "'";
    }
  }
  return "";
}

}  // namespace bsconv::data
