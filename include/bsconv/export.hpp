// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// Models for other programs: `bsconv::export_onnx`. Needs the component `onnx` (protozero).

#include <bsconv/export/export_onnx.hpp>  // IWYU pragma: export
#include <bsconv/export/onnx_reader.hpp>  // IWYU pragma: export
#include <bsconv/export/onnx_writer.hpp>  // IWYU pragma: export
