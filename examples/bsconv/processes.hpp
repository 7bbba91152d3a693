// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/train/communicator.hpp>

#include <cstdint>
#include <memory>

#include "train_settings.hpp"

namespace bsconv_program {

/// Which of the processes that train together this one is, from the environment that `torchrun`
/// sets; the only one where there is none. Wrong variables are a `UsageError`.
bsconv::data::Shard shard_of_environment();

/// Meets the other processes; null if this is the only one.
std::shared_ptr<bsconv::train::Communicator> meet_processes(const TrainSettings& settings,
                                                            int64_t timeout_seconds);

}  // namespace bsconv_program
