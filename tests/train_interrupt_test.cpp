// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>
#include <bsconv/train/interrupt.hpp>

#include <csignal>

// Tests are compiled several files at a time.
namespace train_interrupt_test {
namespace {

using bsconv::train::InterruptGuard;

TEST(TrainInterrupt, TheFirstSignalOnlySetsAFlag) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const InterruptGuard guard;
    EXPECT_FALSE(InterruptGuard::requested());
    std::raise(signal);
    EXPECT_TRUE(InterruptGuard::requested());
    EXPECT_EQ(InterruptGuard::signal(), signal);
  }
}

TEST(TrainInterrupt, AnotherSignalEndsTheProcessUnlessItComesTogetherWithTheFirst) {
  const pid_t child = ::fork();
  if (child == 0) {
    const InterruptGuard guard;
    std::raise(SIGINT);
    std::raise(SIGINT);
    ::usleep(600'000);
    std::raise(SIGTERM);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGTERM);
}

TEST(TrainInterrupt, PutsTheFormerHandlersBackAndRespectsIgnoredSignals) {
  const auto former = std::signal(SIGTERM, SIG_IGN);
  {
    const InterruptGuard guard;
    std::raise(SIGTERM);
    EXPECT_FALSE(InterruptGuard::requested());
  }
  EXPECT_EQ(std::signal(SIGTERM, former), SIG_IGN);
  struct sigaction now {};
  sigaction(SIGINT, nullptr, &now);
  EXPECT_EQ(now.sa_handler, SIG_DFL);
}

}  // namespace
}  // namespace train_interrupt_test
