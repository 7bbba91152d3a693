// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace bsconv_test {

/// Runs `action` in a child process and returns its exit status, or the negative signal that ended
/// it.
inline int in_child(const std::function<int()>& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::_exit(action());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace bsconv_test
