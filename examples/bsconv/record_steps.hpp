// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/train/trainer.hpp>

namespace bsconv_program {

/// Has the steps of `trainer` recorded as CUDA graphs where its device, its settings and this build
/// allow it, and fused training is on. Returns whether it is so.
bool record_steps(bsconv::train::Trainer& trainer);

/// Lets cuDNN try out its algorithms on a GPU, since the same sizes come again and again.
void try_out_algorithms(torch::Device device);

}  // namespace bsconv_program
