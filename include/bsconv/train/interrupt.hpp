// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <csignal>
#include <ctime>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include <c10/util/Exception.h>

namespace bsconv::train {

namespace detail {

inline std::atomic<int> received_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler writes it");

/// When it arrived, in nanoseconds of the monotonic clock.
inline std::atomic<int64_t> signal_time{0};
static_assert(std::atomic<int64_t>::is_always_lock_free, "a signal handler writes it");

inline int64_t monotonic_nanoseconds() {
  struct timespec now {};
  (void)::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

inline void remember_signal(int signal) {
  // Programs that start others, as timeout(1), send the same signal to a process and its group.
  constexpr int64_t together = 500'000'000;
  const int64_t now = monotonic_nanoseconds();
  if (received_signal.exchange(signal) == 0) {
    signal_time = now;
  } else if (now - signal_time > together) {
    // As if nothing had been installed.
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace detail

/// While an object of this class lives, the first SIGINT (Ctrl-C), SIGTERM or SIGHUP (a terminal
/// that is closed) only sets a flag, so that a training can end cleanly; one that comes more than
/// half a second later ends the process. One object at a time.
class InterruptGuard {
 public:
  /// Clears the flag and installs the handlers. A signal the process ignores stays ignored.
  InterruptGuard() {
    detail::received_signal = 0;
    struct sigaction action {};
    action.sa_handler = detail::remember_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    for (std::size_t i = 0; i < signals.size(); ++i) {
      TORCH_CHECK(sigaction(signals[i], nullptr, &previous_[i]) == 0, "cannot read signal ",
                  signals[i]);
      if (previous_[i].sa_handler != SIG_IGN) {
        sigaction(signals[i], &action, nullptr);
      }
    }
  }

  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  /// Puts the former handlers back.
  ~InterruptGuard() {
    for (std::size_t i = 0; i < signals.size(); ++i) {
      sigaction(signals[i], &previous_[i], nullptr);
    }
  }

  /// Whether a signal has arrived.
  static bool requested() noexcept { return detail::received_signal != 0; }

  /// The signal that has arrived; 0 if none.
  static int signal() noexcept { return detail::received_signal; }

 private:
  static constexpr std::array<int, 3> signals = {SIGINT, SIGTERM, SIGHUP};
  std::array<struct sigaction, signals.size()> previous_{};
};

}  // namespace bsconv::train
