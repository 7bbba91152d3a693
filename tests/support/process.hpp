// SPDX-License-Identifier: BSD-3-Clause-Clear
// Runs the real program. Its path is the macro or environment variable BSCONV_PROGRAM.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "support/environment.hpp"
#include "test_files.hpp"

namespace bsconv_test {

/// The path of the program; empty if it is not known.
inline std::string program() {
#ifdef BSCONV_PROGRAM
  return BSCONV_PROGRAM;
#else
  const char* path = std::getenv("BSCONV_PROGRAM");
  return path == nullptr ? "" : path;
#endif
}

/// How the program ended.
struct Result {
  int code = -1;
  std::string output;
};

/// A started program whose output goes to a file.
class Process {
 public:
  explicit Process(std::vector<std::string> arguments, const Environment& environment = {}) {
    arguments.insert(arguments.begin(), program());
    child_ = ::fork();
    if (child_ == 0) {
      const int log = ::open((directory_ / "log").c_str(), O_WRONLY | O_CREAT, 0600);
      ::dup2(log, STDOUT_FILENO);
      ::dup2(log, STDERR_FILENO);
      // runs/ lands in the temporary directory; one thread runs well beside other tests.
      (void)!::chdir(directory_.path().c_str());
      ::setenv("OMP_NUM_THREADS", "1", 1);
      for (const auto& [name, value] : environment) {
        set_variable(name, value);
      }
      std::vector<char*> argv;
      for (auto& argument : arguments) {
        argv.push_back(argument.data());
      }
      argv.push_back(nullptr);
      ::execv(argv.front(), argv.data());
      ::_exit(127);
    }
  }

  /// Waits until the output has `text`, or for two minutes.
  void wait_for(const std::string& text) const {
    for (int i = 0; i < 12000 && output().find(text) == std::string::npos; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }

  void send(int signal) const { ::kill(child_, signal); }

  Result wait() const {
    int status = 0;
    ::waitpid(child_, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), output()};
  }

  std::string output() const { return bsconv_test::read_file(directory_ / "log"); }
  const std::filesystem::path& directory() const { return directory_.path(); }

 private:
  TemporaryDirectory directory_;
  pid_t child_ = -1;
};

/// A test that runs the program; skipped where there is none.
class ProgramTest : public testing::Test {
 protected:
  void SetUp() override {
    if (program().empty()) {
      GTEST_SKIP() << "BSCONV_PROGRAM does not name the program";
    }
    ASSERT_TRUE(std::filesystem::exists(program())) << program();
  }
  /// A path in the test's own directory.
  std::string path(const std::string& name) const { return (directory / name).native(); }

  const TemporaryDirectory directory;
};

/// Runs the program to its end.
inline Result run(std::vector<std::string> arguments) {
  return Process(std::move(arguments)).wait();
}

}  // namespace bsconv_test
