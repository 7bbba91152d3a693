// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <csignal>

#include <array>
#include <atomic>
#include <cstddef>

#include <c10/util/Exception.h>

namespace bsconv::train {

namespace detail {

inline std::atomic<int> received_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler writes it");

inline void remember_signal(int signal) {
  if (received_signal.exchange(signal) != 0) {
    // The second one ends the process at once, as if nothing had been installed.
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace detail

/// While an object of this class lives, the first SIGINT (Ctrl-C) or SIGTERM only sets a flag, so
/// that a training can end cleanly; the second one ends the process. One object at a time.
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
  static constexpr std::array<int, 2> signals = {SIGINT, SIGTERM};
  std::array<struct sigaction, 2> previous_{};
};

}  // namespace bsconv::train
