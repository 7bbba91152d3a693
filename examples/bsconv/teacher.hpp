// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/train/checkpoint_state.hpp>
#include <bsconv/train/forward.hpp>

#include <cstdint>
#include <string>

namespace bsconv_program {

/// The trained model called `name`, or of the checkpoint or run folder there, as one that tells
/// the logits of training images [N, C, `side`, `side`] on `device`. Throws if it is for other
/// classes or channels than those of `info`.
bsconv::train::ForwardFunction make_teacher(const std::string& name,
                                            const bsconv::train::RunInfo& info, int64_t side,
                                            torch::Device device);

}  // namespace bsconv_program
