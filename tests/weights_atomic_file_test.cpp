// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <bsconv/weights/atomic_file.hpp>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "support/child.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace weights_atomic_file_test {
namespace {

using bsconv::weights::AtomicFile;
using bsconv_test::count_files;
using bsconv_test::error_of;
using bsconv_test::in_child;
using bsconv_test::read_file;
using bsconv_test::TemporaryDirectory;
using bsconv_test::write_file;
using testing::HasSubstr;

constexpr int skipped = 77;

TEST(WeightsAtomicFile, AppearsOnlyWhenCommitted) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  {
    AtomicFile file(path);
    file.write("hello ");
    file.write("world");
    EXPECT_FALSE(std::filesystem::exists(path));
    file.commit();
    EXPECT_EQ(read_file(path), "hello world");
    EXPECT_EQ(file.path(), path);
    EXPECT_THAT(error_of([&] { file.write("more"); }), HasSubstr("is already committed"));
    EXPECT_THAT(error_of([&] { file.commit(); }), HasSubstr("is already committed"));
  }
  EXPECT_EQ(read_file(path), "hello world");
  EXPECT_EQ(count_files(directory.path()), 1);
}

TEST(WeightsAtomicFile, LeavesTheOldFileWhenItIsNotCommitted) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  write_file(path, "old");
  { AtomicFile(path).write("new"); }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(count_files(directory.path()), 1);
}

TEST(WeightsAtomicFile, OverwritesWhatAKilledWriterLeft) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  write_file(directory / "file.partial", "half of something longer");
  bsconv::weights::write_text_file(path, "new");
  EXPECT_EQ(read_file(path), "new");
  EXPECT_EQ(count_files(directory.path()), 1);
}

TEST(WeightsAtomicFile, HasTheUsualPermissions) {
  const TemporaryDirectory directory;
  const auto mask = ::umask(027);
  bsconv::weights::write_text_file(directory / "file", "text");
  ::umask(mask);
  EXPECT_EQ(static_cast<int>(std::filesystem::status(directory / "file").permissions()), 0640);
}

TEST(WeightsAtomicFile, KeepsThePermissionsOfWhatItReplaces) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  write_file(path, "old");
  ASSERT_EQ(::chmod(path.c_str(), 0604), 0);
  bsconv::weights::write_text_file(path, "new");
  EXPECT_EQ(read_file(path), "new");
  EXPECT_EQ(static_cast<int>(std::filesystem::status(path).permissions()), 0604);
}

TEST(WeightsAtomicFile, RefusesAFileThatMayNotBeWritten) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  write_file(path, "old");
  ASSERT_EQ(::chmod(path.c_str(), 0444), 0);
  ASSERT_EQ(::chmod(directory.path().c_str(), 0777), 0);
  const auto status = in_child([&path] {
    // Nothing is protected from root.
    if (::geteuid() == 0 && ::setuid(65534) != 0) {
      return skipped;
    }
    const auto error = error_of([&path] { bsconv::weights::write_text_file(path, "new"); });
    return error.find("file': Permission denied") != std::string::npos ? 0 : 1;
  });
  if (status == skipped) {
    GTEST_SKIP() << "root cannot become another user here";
  }
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(count_files(directory.path()), 1);
}

TEST(WeightsAtomicFile, WritesWhatALinkPointsTo) {
  const TemporaryDirectory directory;
  write_file(directory / "there/file", "old");
  std::filesystem::create_symlink("there/file", directory / "link");
  std::filesystem::create_symlink("link", directory / "second");
  std::filesystem::create_symlink("there/new", directory / "dangling");
  bsconv::weights::write_text_file(directory / "second", "new");
  bsconv::weights::write_text_file(directory / "dangling", "made");
  EXPECT_EQ(read_file(directory / "there/file"), "new");
  EXPECT_EQ(read_file(directory / "there/new"), "made");
  EXPECT_EQ(std::filesystem::read_symlink(directory / "second"), "link");
  EXPECT_EQ(std::filesystem::read_symlink(directory / "link"), "there/file");
  EXPECT_EQ(count_files(directory / "there"), 2);
  std::filesystem::create_symlink("circle", directory / "circle");
  EXPECT_THAT(error_of([&] { bsconv::weights::write_text_file(directory / "circle", ""); }),
              HasSubstr("circle': "));
}

TEST(WeightsAtomicFile, RefusesASecondWriter) {
  const TemporaryDirectory directory;
  AtomicFile first(directory / "file");
  EXPECT_THAT(error_of([&] { AtomicFile second(directory / "file"); }),
              HasSubstr("another process is writing it"));
  first.write("first");
  first.commit();
  EXPECT_EQ(read_file(directory / "file"), "first");
}

TEST(WeightsAtomicFile, SaysWhyItCannotWrite) {
  const TemporaryDirectory directory;
  EXPECT_THAT(error_of([&] { AtomicFile(directory / "no/file"); }),
              HasSubstr("cannot write '" + (directory / "no/file").native() +
                        "': No such file or directory"));
  EXPECT_THAT(error_of([] { AtomicFile("/dev/full"); }),
              HasSubstr("cannot write '/dev/full': it exists and is not a regular file"));
  EXPECT_THAT(error_of([&] { AtomicFile file(directory.path()); }),
              HasSubstr("exists and is not a regular file"));
  EXPECT_THAT(error_of([] { AtomicFile(""); }), HasSubstr("it names no file"));
  EXPECT_THAT(error_of([] { AtomicFile("/proc/file"); }), HasSubstr("cannot write '/proc/file': "));
}

TEST(WeightsAtomicFile, LeavesTheOldFileWhenTheSizeLimitIsReached) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  write_file(path, "old");
  const int status = in_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const auto message = error_of([&] { AtomicFile(path).write(std::string(10000, 'x')); });
    return message.find("': File too large") != std::string::npos ? 0 : 1;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(count_files(directory.path()), 1);
}

TEST(WeightsAtomicFile, LeavesTheOldFileWhenTheDiskIsFull) {
  const TemporaryDirectory directory;
  const int status = in_child([&] {
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", directory.path().c_str(), "tmpfs", 0, "size=64k") != 0) {
      return skipped;
    }
    const auto path = directory / "file";
    write_file(path, "old");
    const auto message = error_of([&] { AtomicFile(path).write(std::string(1 << 20, 'x')); });
    const bool right = message.find("': No space left on device") != std::string::npos &&
                       read_file(path) == "old" && count_files(directory.path()) == 1;
    return right ? 0 : 1;
  });
  if (status == skipped) {
    GTEST_SKIP() << "this user may not mount a tmpfs";
  }
  EXPECT_EQ(status, 0);
}

TEST(WeightsAtomicFile, IsOldOrNewWheneverTheWriterIsKilled) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  const std::string old_text(300000, 'a');
  const std::string new_text(300000, 'b');
  write_file(path, old_text);
  for (int round = 0; round < 40; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      for (;;) {
        for (const auto* text : {&new_text, &old_text}) {
          AtomicFile file(path);
          for (std::size_t at = 0; at < text->size(); at += 10000) {
            file.write(std::string_view(*text).substr(at, 10000));
          }
          file.commit();
        }
      }
    }
    ::usleep(static_cast<useconds_t>(200 + 517 * round));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const auto found = read_file(path);
    ASSERT_TRUE(found == old_text || found == new_text) << "round " << round;
  }
  bsconv::weights::write_text_file(path, "last");
  EXPECT_EQ(read_file(path), "last");
  EXPECT_EQ(count_files(directory.path()), 1);
}

}  // namespace
}  // namespace weights_atomic_file_test
