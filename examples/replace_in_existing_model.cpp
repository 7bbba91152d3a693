// SPDX-License-Identifier: BSD-3-Clause-Clear
// Replaces the convolutions of a network whose source stays as it is, and trains one step.
#include <torch/torch.h>
#include <bsconv/bsconv.hpp>

#include <iostream>

namespace {

struct NetImpl : torch::nn::Module {
  torch::nn::Conv2d stem{torch::nn::Conv2dOptions(3, 16, 3).padding(1)};
  torch::nn::Sequential body{
      torch::nn::Conv2d(torch::nn::Conv2dOptions(16, 32, 3).stride(2).padding(1)),
      torch::nn::ReLU(), torch::nn::Conv2d(torch::nn::Conv2dOptions(32, 32, 5).padding(2))};
  torch::nn::Linear fc{32, 10};

  NetImpl() {
    register_module("stem", stem);
    register_module("body", body);
    register_module("fc", fc);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return fc(body->forward(torch::relu(stem(x))).mean({2, 3}));
  }
};
TORCH_MODULE(Net);

}  // namespace

int main() {
  Net net;
  // What would happen, stem included?
  std::cout << bsconv::replace_with_bsconv_s(net,
                                             bsconv::BSConvSReplacementOptions().dry_run(true));
  // Keep the stem.
  const auto report = bsconv::replace_with_bsconv_s(
      net, bsconv::BSConvSReplacementOptions().exclude({"stem"}).p(0.25).with_bn(true));
  std::cout << report;

  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1));
  const auto images = torch::rand({8, 3, 32, 32});
  const auto labels = torch::randint(0, 10, {8}, torch::kLong);
  const auto loss = torch::nn::functional::cross_entropy(net->forward(images), labels) +
                    bsconv::regularization_loss(*net, 0.1);
  loss.backward();
  optimizer.step();
  std::cout << "replaced " << report.replaced() << " layers, one step trained\n";
}
