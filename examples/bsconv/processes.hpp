// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/train/communicator.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "train_settings.hpp"

namespace bsconv_program {

/// Which of the processes that train together this one is, from the environment that `torchrun`
/// sets; the only one where there is none. Wrong variables are a `UsageError`.
bsconv::data::Shard shard_of_environment();

/// `device` as given, but for "cuda" where several processes train together: then each one of a
/// machine takes another GPU.
std::string device_of_process(const std::string& device);

/// What `ProcessSettings::backend` may be in this program.
std::vector<std::string> process_backends();

/// Meets the other processes; null if this is the only one.
std::shared_ptr<bsconv::train::Communicator> meet_processes(const TrainSettings& settings,
                                                            const ProcessSettings& processes);

}  // namespace bsconv_program
