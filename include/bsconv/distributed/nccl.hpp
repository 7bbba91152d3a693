// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdlib>
#include <string>

#include <c10/util/Exception.h>
#include <torch/cuda.h>

// LibTorch with CUDA has NCCL beside it, but declares its part only to those who say so.
#if !defined(USE_C10D_NCCL)
#define USE_C10D_NCCL
#define BSCONV_DEFINED_NCCL
#endif
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#if defined(BSCONV_DEFINED_NCCL)
#undef USE_C10D_NCCL
#undef BSCONV_DEFINED_NCCL
#endif

#include <bsconv/distributed/process_group.hpp>

// This header needs NCCL's header and LibTorch linked with CUDA (component `nccl`), so it is not
// part of <bsconv/distributed.hpp>.

namespace bsconv::distributed {

/// From now on the processes send what lies on GPUs by NCCL, from GPU to GPU. Each process needs a
/// GPU of its own. Comes before `average_gradients`, on every process.
///
/// Waits for other processes end at the time-out of the rendezvous with an error, as Gloo's do,
/// unless the environment's TORCH_NCCL_BLOCKING_WAIT says otherwise.
inline void use_nccl(ProcessGroup& processes) {
  TORCH_CHECK(torch::cuda::is_available(),
              "NCCL needs a GPU, and there is none that LibTorch can use");
  ::setenv("TORCH_NCCL_BLOCKING_WAIT", "1", /*overwrite=*/0);
  processes.cuda_backend(
      c10d::ProcessGroup::BackendType::NCCL,
      [](const c10::intrusive_ptr<c10d::Store>& store, const Rendezvous& rendezvous) {
        auto options = c10d::ProcessGroupNCCL::Options::create();
        options->timeout = rendezvous.timeout();
        return c10::make_intrusive<c10d::ProcessGroupNCCL>(
            c10::make_intrusive<c10d::PrefixStore>("nccl", store),
            static_cast<int>(rendezvous.rank()), static_cast<int>(rendezvous.world_size()),
            options);
      });
}

}  // namespace bsconv::distributed
