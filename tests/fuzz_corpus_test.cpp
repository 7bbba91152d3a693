// SPDX-License-Identifier: BSD-3-Clause-Clear
// The fuzzers' seeds and what they have found, through the same functions, without libFuzzer.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "fuzz/targets.hpp"
#include "test_files.hpp"

namespace fuzz_corpus_test {
namespace {

using bsconv_fuzz::accepts;

class FuzzCorpus : public testing::TestWithParam<std::string> {
 protected:
  static std::vector<std::filesystem::path> files() {
    std::set<std::filesystem::path> sorted;
    const auto folder = std::filesystem::path(BSCONV_TEST_DATA_DIR) / "fuzz" / GetParam();
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      sorted.insert(entry.path());
    }
    return {sorted.begin(), sorted.end()};
  }

  static std::vector<uint8_t> bytes_of(const std::filesystem::path& path) {
    const auto text = bsconv_test::read_file(path);
    return {text.begin(), text.end()};
  }
};

TEST_P(FuzzCorpus, SomeFilesAreAcceptedAndNoneIsAFinding) {
  int accepted = 0;
  for (const auto& path : files()) {
    SCOPED_TRACE(path.native());
    accepted += accepts(GetParam(), bytes_of(path)) ? 1 : 0;
  }
  EXPECT_GE(accepted, 2);
}

TEST_P(FuzzCorpus, FilesCutShortAreRefused) {
  // Text without its last line break is whole, and so is an archive that lacks the padding.
  for (const auto& path : files()) {
    const auto bytes = bytes_of(path);
    for (std::size_t size = 0; size < bytes.size() * 3 / 4; size += 1 + bytes.size() / 199) {
      EXPECT_FALSE(accepts(GetParam(), bsconv_fuzz::Bytes(bytes).first(size)))
          << path << " cut to " << size;
    }
  }
}

TEST_P(FuzzCorpus, DamagedFilesAreNoFinding) {
  std::mt19937 random(1);  // NOLINT(cert-msc51-cpp): the same bytes in every run
  for (const auto& path : files()) {
    SCOPED_TRACE(path.native());
    for (int trial = 0; trial < 100; ++trial) {
      auto bytes = bytes_of(path);
      for (unsigned change = random() % 4; change < 4; ++change) {
        bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
      }
      accepts(GetParam(), bytes);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, FuzzCorpus, testing::ValuesIn([] {
                           std::vector<std::string> names;
                           for (const auto& target : bsconv_fuzz::targets()) {
                             names.push_back(target.first);
                           }
                           return names;
                         }()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace fuzz_corpus_test
