// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// Fast inference: `bsconv::optimize`.

#include <bsconv/infer/optimize.hpp>  // IWYU pragma: export
#include <bsconv/infer/report.hpp>    // IWYU pragma: export
