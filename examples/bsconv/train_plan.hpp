// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/data/batch_source.hpp>
#include <bsconv/train/trainer.hpp>

#include <string>

namespace bsconv_program {

/// What `--dry-run` prints of a training: steps, learning rates, and the time it would take, from a
/// few steps that are done and thrown away.
std::string describe_plan(bsconv::train::Trainer& trainer,
                          const bsconv::data::BatchSource& training,
                          const bsconv::data::BatchSource& test);

}  // namespace bsconv_program
