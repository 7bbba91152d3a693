// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/torch.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/data.hpp>
#include <bsconv/data/archive.hpp>
#include <bsconv/data/cifar_archive.hpp>
#include <bsconv/data/file_loader.hpp>
#include <bsconv/data/image_file.hpp>
#include <bsconv/data/stanford_dogs.hpp>
#include <bsconv/distributed.hpp>
#include <bsconv/export.hpp>
#include <bsconv/infer.hpp>
#include <bsconv/plot.hpp>
#include <bsconv/pretrained.hpp>
#include <bsconv/profile/json.hpp>
#include <bsconv/train.hpp>
#include <bsconv/train/settings_file.hpp>
#include <bsconv/util/file_digest.hpp>
#include <bsconv/weights.hpp>
