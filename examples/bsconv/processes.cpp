// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "processes.hpp"

#include <bsconv/distributed.hpp>

#include <chrono>
#include <optional>

#include "common.hpp"

namespace bsconv_program {
namespace {

std::optional<bsconv::distributed::Rendezvous> environment() {
  try {
    return bsconv::distributed::rendezvous_of_environment();
  } catch (const c10::ValueError& error) {
    throw UsageError(error.what_without_backtrace());
  }
}

}  // namespace

bsconv::data::Shard shard_of_environment() {
  const auto rendezvous = environment();
  return rendezvous ? bsconv::data::Shard{rendezvous->rank(), rendezvous->world_size()}
                    : bsconv::data::Shard();
}

std::shared_ptr<bsconv::train::Communicator> meet_processes(const TrainSettings& settings,
                                                            int64_t timeout_seconds) {
  auto rendezvous = environment();
  if (!rendezvous || rendezvous->world_size() == 1) {
    return nullptr;
  }
  if (!settings.options.device().is_cpu()) {
    throw UsageError("several processes train together on the CPU only, not on " +
                     settings.options.device().str());
  }
  rendezvous->timeout(std::chrono::seconds(timeout_seconds));
  return std::make_shared<bsconv::distributed::ProcessGroup>(*rendezvous, settings.sync_batch_norm);
}

}  // namespace bsconv_program
