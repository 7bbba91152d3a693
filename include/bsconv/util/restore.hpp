// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>

#include <exception>

namespace bsconv::detail {

/// Calls `put_back()`, for destructors: if it throws, warns that `what` could not be put back. An
/// exception that is on its way through the destructor reaches whoever catches it. Returns whether
/// it worked.
template <class Function>
bool restore(const char* what, Function&& put_back) noexcept {
  try {
    try {
      put_back();
      return true;
    } catch (const c10::Error& error) {
      TORCH_WARN("could not put back ", what, ": ", error.what_without_backtrace());
    } catch (const std::exception& error) {
      TORCH_WARN("could not put back ", what, ": ", error.what());
    }
  } catch (...) {
    // What handles warnings throws, or there is no memory for one: nobody is left to tell.
  }
  return false;
}

}  // namespace bsconv::detail
