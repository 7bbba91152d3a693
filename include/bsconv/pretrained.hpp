// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// Trained models by name. Needs nlohmann/json and OpenSSL's libcrypto: the CMake component
/// `bsconv::pretrained`.

#include <bsconv/pretrained/classifier.hpp>    // IWYU pragma: export
#include <bsconv/pretrained/create_model.hpp>  // IWYU pragma: export
#include <bsconv/pretrained/model_card.hpp>    // IWYU pragma: export
#include <bsconv/pretrained/model_store.hpp>   // IWYU pragma: export
