// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// The modules: `BSConvU`, `BSConvS`, their regularization loss, and what custom models build on.

#include <bsconv/autograd/fused_training.hpp>  // IWYU pragma: export
#include <bsconv/nn/any_layer.hpp>             // IWYU pragma: export
#include <bsconv/nn/bsconv_s.hpp>              // IWYU pragma: export
#include <bsconv/nn/bsconv_sum.hpp>            // IWYU pragma: export
#include <bsconv/nn/bsconv_u.hpp>              // IWYU pragma: export
#include <bsconv/nn/call_observer.hpp>         // IWYU pragma: export
#include <bsconv/nn/composite.hpp>             // IWYU pragma: export
#include <bsconv/nn/describe.hpp>              // IWYU pragma: export
#include <bsconv/nn/fuse.hpp>                  // IWYU pragma: export
#include <bsconv/nn/graft.hpp>                 // IWYU pragma: export
#include <bsconv/nn/layer.hpp>                 // IWYU pragma: export
#include <bsconv/nn/mode_of_children.hpp>      // IWYU pragma: export
#include <bsconv/nn/options.hpp>               // IWYU pragma: export
#include <bsconv/nn/regularization.hpp>        // IWYU pragma: export
#include <bsconv/nn/walk.hpp>                  // IWYU pragma: export
