// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// Replacing layers of existing models, by BSConv layers or by rules of your own.

#include <bsconv/replace/analysis.hpp>               // IWYU pragma: export
#include <bsconv/replace/batch_norm_statistics.hpp>  // IWYU pragma: export
#include <bsconv/replace/bsconv.hpp>                 // IWYU pragma: export
#include <bsconv/replace/calibration.hpp>            // IWYU pragma: export
#include <bsconv/replace/components.hpp>             // IWYU pragma: export
#include <bsconv/replace/layer_weights.hpp>          // IWYU pragma: export
#include <bsconv/replace/options.hpp>                // IWYU pragma: export
#include <bsconv/replace/replacer.hpp>               // IWYU pragma: export
#include <bsconv/replace/report.hpp>                 // IWYU pragma: export
