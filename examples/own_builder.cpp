// SPDX-License-Identifier: BSD-3-Clause-Clear
// A model of one's own under a name of its own.
#include <torch/torch.h>
#include <bsconv/bsconv.hpp>

#include <iostream>

namespace {

struct TinyNetImpl : bsconv::Composite<TinyNetImpl> {
  explicit TinyNetImpl(const bsconv::ModelOptions& options)
      : conv(add("conv",
                 bsconv::BSConvU(bsconv::BSConvUOptions(options.in_channels(), 16, 3).padding(1)))),
        head(add("head", torch::nn::Linear(16, options.num_classes()))) {}

  torch::Tensor forward(const torch::Tensor& x) override {
    return call(head, torch::relu(call(conv, x)).mean({2, 3}));
  }

  Child conv;
  Child head;
};
TORCH_MODULE(TinyNet);

}  // namespace

int main() {
  bsconv::register_model(
      "tiny", [](const bsconv::ModelOptions& options) { return bsconv::Layer(TinyNet(options)); });
  auto model = bsconv::create_model("tiny", bsconv::ModelOptions().num_classes(7));
  std::cout << bsconv::list_models("tiny")[0] << ": "
            << model->forward(torch::zeros({2, 3, 32, 32})).sizes() << '\n';
  try {
    bsconv::create_model("tinny_net");
  } catch (const c10::Error& error) {
    std::cout << error.what_without_backtrace() << '\n';
  }
}
