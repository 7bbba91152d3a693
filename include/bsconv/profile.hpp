// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// The profiler: what a model costs, module by module.

#include <bsconv/profile/cost.hpp>         // IWYU pragma: export
#include <bsconv/profile/peak_memory.hpp>  // IWYU pragma: export
#include <bsconv/profile/profile.hpp>      // IWYU pragma: export
#include <bsconv/profile/profiler.hpp>     // IWYU pragma: export
#include <bsconv/profile/table.hpp>        // IWYU pragma: export
