// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// The model zoo: networks by name, with and without blueprint separable convolutions.

#include <bsconv/zoo/create_model.hpp>   // IWYU pragma: export
#include <bsconv/zoo/model_name.hpp>     // IWYU pragma: export
#include <bsconv/zoo/model_options.hpp>  // IWYU pragma: export
#include <bsconv/zoo/registry.hpp>       // IWYU pragma: export
