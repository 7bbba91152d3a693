// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// Weight files: safetensors and what Python's `torch.save` writes, in and out of any module. Needs
/// nlohmann/json (component `json`).

// IWYU pragma: begin_exports
#include <bsconv/weights/atomic_file.hpp>
#include <bsconv/weights/mapped_file.hpp>
#include <bsconv/weights/pth.hpp>
#include <bsconv/weights/pth_writer.hpp>
#include <bsconv/weights/safetensors.hpp>
#include <bsconv/weights/state_dict.hpp>
#include <bsconv/weights/weight_file.hpp>
#include <bsconv/weights/weight_format.hpp>
// IWYU pragma: end_exports
