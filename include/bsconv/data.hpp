// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// Data sets in memory, augmentation of whole batches, and loaders. What reads images, archives and
/// MATLAB files needs components of its own.

// IWYU pragma: begin_exports
#include <bsconv/data/augment.hpp>
#include <bsconv/data/auto_augment.hpp>
#include <bsconv/data/batch_source.hpp>
#include <bsconv/data/cifar.hpp>
#include <bsconv/data/class_names.hpp>
#include <bsconv/data/color.hpp>
#include <bsconv/data/dataset.hpp>
#include <bsconv/data/digits.hpp>
#include <bsconv/data/erase.hpp>
#include <bsconv/data/file_dataset.hpp>
#include <bsconv/data/geometry.hpp>
#include <bsconv/data/image_folder.hpp>
#include <bsconv/data/image_geometry.hpp>
#include <bsconv/data/image_size.hpp>
#include <bsconv/data/loader.hpp>
#include <bsconv/data/mix.hpp>
#include <bsconv/data/prefetch.hpp>
#include <bsconv/data/resize.hpp>
#include <bsconv/data/tone.hpp>
#include <bsconv/data/transform.hpp>
// IWYU pragma: end_exports
