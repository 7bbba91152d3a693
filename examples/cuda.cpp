// SPDX-License-Identifier: BSD-3-Clause-Clear
// A model on the GPU, in half precision, where there is one.
#include <torch/torch.h>
#include <bsconv/bsconv.hpp>

#include <iostream>

int main() {
  const bool cuda = torch::cuda::is_available();
  if (!cuda) {
    std::cout << "there is no CUDA device; running on the CPU\n";
  }
  const torch::Device device(cuda ? torch::kCUDA : torch::kCPU);
  auto model = bsconv::create_model(
      "cifar_resnet20_bsconvu",
      bsconv::ModelOptions().device(device).dtype(cuda ? torch::kHalf : torch::kFloat));
  model->eval();
  torch::NoGradGuard no_grad;
  const auto options =
      torch::TensorOptions().device(device).dtype(cuda ? torch::kHalf : torch::kFloat);
  std::cout << "logits " << model->forward(torch::rand({4, 3, 32, 32}, options)).sizes() << " on "
            << device << '\n';
}
