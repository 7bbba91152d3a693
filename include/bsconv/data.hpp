// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

// IWYU pragma: begin_exports
#include <bsconv/data/augment.hpp>
#include <bsconv/data/batch_source.hpp>
#include <bsconv/data/cifar.hpp>
#include <bsconv/data/dataset.hpp>
#include <bsconv/data/digits.hpp>
#include <bsconv/data/loader.hpp>
#include <bsconv/data/prefetch.hpp>
// IWYU pragma: end_exports
