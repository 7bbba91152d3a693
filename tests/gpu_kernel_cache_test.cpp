// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/gpu/kernel_cache.hpp>

#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>

#include "support/environment.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace gpu_kernel_cache_test {
namespace {

using bsconv::gpu::KernelCache;
using bsconv_test::TemporaryDirectory;

// How often it compiles, and what of.
struct Compiler {
  int runs = 0;

  std::string operator()(const KernelCache& cache, const std::string& name,
                         const std::string& source) {
    return cache.get(name, source, [&] {
      ++runs;
      return "code of " + source + " by " + name + std::string("\n\0\n", 3);
    });
  }
};

TEST(KernelCache, CompilesEachSourceOnce) {
  const TemporaryDirectory directory;
  const KernelCache cache(directory / "deeper" / "kernels");
  Compiler compile;
  const auto code = compile(cache, "sm_90", "a");
  EXPECT_EQ(code, "code of a by sm_90" + std::string("\n\0\n", 3));
  EXPECT_EQ(compile(cache, "sm_90", "a"), code);
  EXPECT_EQ(compile(KernelCache(cache.folder()), "sm_90", "a"), code);
  EXPECT_EQ(compile.runs, 1);
  EXPECT_NE(compile(cache, "sm_80", "a"), code);
  EXPECT_NE(compile(cache, "sm_90", "b"), code);
  EXPECT_EQ(compile.runs, 3);
  EXPECT_EQ(bsconv_test::count_files(cache.folder()), 3);
}

TEST(KernelCache, ReplacesDamagedFiles) {
  const TemporaryDirectory directory;
  const KernelCache cache(directory.path());
  Compiler compile;
  const auto code = compile(cache, "sm_90", "a");
  const auto file = std::filesystem::directory_iterator(directory.path())->path();
  const auto size = std::filesystem::file_size(file);
  for (const auto& damage : {size - 1, size_t{41}, size_t{20}, size_t{0}}) {
    std::filesystem::resize_file(file, damage);
    EXPECT_EQ(compile(cache, "sm_90", "a"), code) << damage;
    EXPECT_EQ(std::filesystem::file_size(file), size);
  }
  std::fstream(file, std::ios::in | std::ios::out).seekp(45) << 'X';
  EXPECT_EQ(compile(cache, "sm_90", "a"), code);
  EXPECT_EQ(compile.runs, 6);
}

TEST(KernelCache, DoesWithoutFiles) {
  Compiler compile;
  const KernelCache none{std::filesystem::path()};
  EXPECT_EQ(compile(none, "sm_90", "a"), compile(none, "sm_90", "a"));
  EXPECT_EQ(compile.runs, 2);
  // A file where the folder should be.
  const TemporaryDirectory directory;
  bsconv_test::write_file(directory / "file", "");
  const KernelCache impossible(directory / "file");
  EXPECT_EQ(compile(impossible, "sm_90", "a"), compile(none, "sm_90", "a"));
}

TEST(KernelCache, ErrorsOfTheCompilerPass) {
  const TemporaryDirectory directory;
  const KernelCache cache(directory.path());
  EXPECT_THROW(
      cache.get("sm_90", "a", []() -> std::string { throw std::runtime_error("syntax error"); }),
      std::runtime_error);
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(KernelCache, EnvironmentChoosesTheFolder) {
  using Value = std::optional<std::string>;
  const auto with = [](const Value& chosen, const Value& caches, const Value& home = "/home") {
    const bsconv_test::EnvironmentGuard guard(
        {{"BSCONV_KERNEL_CACHE", chosen}, {"XDG_CACHE_HOME", caches}, {"HOME", home}});
    return KernelCache::default_folder().native();
  };
  EXPECT_EQ(with("/a", "/b"), "/a");
  EXPECT_EQ(with("", "/b"), "");
  EXPECT_EQ(with(std::nullopt, "/b"), "/b/bsconv/kernels");
  EXPECT_EQ(with(std::nullopt, std::nullopt), "/home/.cache/bsconv/kernels");
  EXPECT_EQ(with(std::nullopt, std::nullopt, std::nullopt), "");
}

}  // namespace
}  // namespace gpu_kernel_cache_test
