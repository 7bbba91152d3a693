// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "record_steps.hpp"

#include <bsconv/autograd/fused_training.hpp>
#ifdef BSCONV_HAS_CUDA
#include <bsconv/cuda.hpp>
#endif

#include <ATen/Context.h>

#include <memory>

namespace bsconv_program {

bool record_steps(bsconv::train::Trainer& trainer) {
#ifdef BSCONV_HAS_CUDA
  if (trainer.options().device().is_cuda() && bsconv::fused_training_enabled()) {
    trainer.recorder(std::make_shared<bsconv::cuda::StepGraph>());
  }
  return trainer.is_recording();
#else
  (void)trainer;
  return false;
#endif
}

void try_out_algorithms(torch::Device device) {
  if (device.is_cuda()) {
    at::globalContext().setBenchmarkCuDNN(true);
  }
}

}  // namespace bsconv_program
