// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <stdlib.h>

#include <map>
#include <optional>
#include <string>

namespace bsconv_test {

/// Variables of the environment; one without a value is absent.
using Environment = std::map<std::string, std::optional<std::string>>;

inline void set_variable(const std::string& name, const std::optional<std::string>& value) {
  if (value) {
    ::setenv(name.c_str(), value->c_str(), 1);
  } else {
    ::unsetenv(name.c_str());
  }
}

/// Gives the process these variables and puts the ones before back at its end.
class EnvironmentGuard {
 public:
  explicit EnvironmentGuard(const Environment& environment) {
    for (const auto& [name, value] : environment) {
      const char* before = ::getenv(name.c_str());
      before_[name] = before == nullptr ? std::nullopt : std::optional<std::string>(before);
      set_variable(name, value);
    }
  }
  EnvironmentGuard(const EnvironmentGuard&) = delete;
  EnvironmentGuard& operator=(const EnvironmentGuard&) = delete;
  ~EnvironmentGuard() {
    for (const auto& [name, value] : before_) {
      set_variable(name, value);
    }
  }

 private:
  Environment before_;
};

}  // namespace bsconv_test
