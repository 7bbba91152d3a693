// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// Charts of results and training curves as SVG or PNG. Needs the component `plot` (cairo).

// IWYU pragma: begin_exports
#include <bsconv/plot/axis.hpp>
#include <bsconv/plot/canvas.hpp>
#include <bsconv/plot/csv_table.hpp>
#include <bsconv/plot/curves.hpp>
#include <bsconv/plot/draw.hpp>
#include <bsconv/plot/figure.hpp>
#include <bsconv/plot/results.hpp>
#include <bsconv/plot/save_figure.hpp>
// IWYU pragma: end_exports
