// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "processes.hpp"

#include <bsconv/distributed.hpp>
#ifdef BSCONV_HAS_NCCL
#include <bsconv/distributed/nccl.hpp>
#endif

#include <chrono>
#include <optional>
#include <string>

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

std::string device_of_process(const std::string& device) {
  const auto rendezvous = environment();
  return device == "cuda" && rendezvous && rendezvous->world_size() > 1
             ? "cuda:" + std::to_string(rendezvous->local_rank())
             : device;
}

std::vector<std::string> process_backends() {
#ifdef BSCONV_HAS_NCCL
  return {"auto", "gloo", "nccl"};
#else
  return {"auto", "gloo"};
#endif
}

std::shared_ptr<bsconv::train::Communicator> meet_processes(const TrainSettings& settings,
                                                            const ProcessSettings& processes) {
  auto rendezvous = environment();
  if (!rendezvous || rendezvous->world_size() == 1) {
    return nullptr;
  }
  const bool cuda = settings.options.device().is_cuda();
  if (processes.backend == "nccl" && !cuda) {
    throw UsageError("--process-backend nccl is for CUDA devices, not for " +
                     settings.options.device().str() + "; valid is gloo");
  }
  rendezvous->timeout(std::chrono::seconds(processes.timeout));
  auto group =
      std::make_shared<bsconv::distributed::ProcessGroup>(*rendezvous, settings.sync_batch_norm);
#ifdef BSCONV_HAS_NCCL
  if (cuda && processes.backend != "gloo") {
    bsconv::distributed::use_nccl(*group);
  }
#endif
  return group;
}

}  // namespace bsconv_program
