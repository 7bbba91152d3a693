// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>

/// \file
/// SplitMix64, a generator of random numbers whose state is one number (Steele et al., "Fast
/// Splittable Pseudorandom Number Generators", OOPSLA 2014).

namespace bsconv::detail {

/// What the generator adds to its state before each number.
inline constexpr uint64_t split_mix_step = 0x9e3779b97f4a7c15U;

/// The number that the generator makes of a state: all bits depend on all bits of `state`.
constexpr uint64_t split_mix(uint64_t state) {
  state = (state ^ (state >> 30U)) * 0xbf58476d1ce4e5b9U;
  state = (state ^ (state >> 27U)) * 0x94d049bb133111ebU;
  return state ^ (state >> 31U);
}

}  // namespace bsconv::detail
