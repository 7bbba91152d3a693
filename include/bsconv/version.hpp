// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

namespace bsconv {

/// The first number of the library's version: incompatible changes.
inline constexpr int version_major = 0;
/// The second number of the library's version: additions.
inline constexpr int version_minor = 1;
/// The third number of the library's version: corrections.
inline constexpr int version_patch = 0;
/// The library's version as text.
inline constexpr const char* version = "0.1.0";

}  // namespace bsconv
