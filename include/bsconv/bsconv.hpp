// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// Modules, replacers, model zoo and profiler; needs LibTorch alone.

#include <bsconv/nn.hpp>       // IWYU pragma: export
#include <bsconv/profile.hpp>  // IWYU pragma: export
#include <bsconv/replace.hpp>  // IWYU pragma: export
#include <bsconv/version.hpp>  // IWYU pragma: export
#include <bsconv/zoo.hpp>      // IWYU pragma: export
