// SPDX-License-Identifier: BSD-3-Clause-Clear
// A user's program of two files that links LibTorch and the components onnx, kernels and
// pretrained.
#include <torch/torch.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/export.hpp>
#include <bsconv/pretrained.hpp>

#include <cstdio>

bool runs_fast();

int main() {
  torch::nn::AnyModule model(bsconv::BSConvU(bsconv::BSConvUOptions(3, 8, 3).padding(1)));
  model.ptr()->eval();
  bsconv::export_onnx(model, torch::zeros({1, 3, 8, 8}), "consumer.onnx");
  const bool right = bsconv::onnx::load_onnx("consumer.onnx").nodes.size() == 2;
  std::remove("consumer.onnx");
  auto trained = bsconv::create_model("cifar_resnet20_bsconvu.digits", bsconv::Pretrained());
  const bool ten = trained->forward(torch::zeros({1, 3, 32, 32})).size(1) == 10;
  return right && ten && runs_fast() ? 0 : 1;
}
