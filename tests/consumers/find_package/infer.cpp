// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <torch/torch.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/infer.hpp>

bool runs_fast();

bool runs_fast() {
  bsconv::BSConvU model(bsconv::BSConvUOptions(16, 16, 3).padding(1));
  model->eval();
  const torch::NoGradGuard no_grad;
  const auto input = torch::rand({1, 16, 8, 8});
  auto fast = bsconv::optimize(torch::nn::AnyModule(model), input);
  return torch::allclose(fast(input), model->forward(input), 1e-4, 1e-5);
}
