// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>
#include <torch/types.h>
#include <bsconv/profile.hpp>
#include <bsconv/replace.hpp>

#include <exception>
#include <iostream>

namespace {

struct Net : torch::nn::Module {
  Net() : conv(register_module("conv", torch::nn::Conv2d(3, 4, 3))) {}
  torch::Tensor forward(const torch::Tensor& x) { return torch::relu(conv(x)); }
  torch::nn::Conv2d conv;
};

}  // namespace

/// Replaces the convolution of a model, which then stands in for its replacement, runs and profiles
/// it. Returns 0 if all of it works.
extern "C" __attribute__((visibility("default"))) int run() {
  try {
    Net net;
    const auto report = bsconv::replace_with_bsconv_u(net);
    const auto input = torch::ones({1, 3, 6, 6});
    const bool runs = net.forward(input).size(1) == 4;
    // 4 x 4 pixels of 4 channels from a blueprint each and a bias, 6 x 6 from 3 channels, and ReLU.
    const bool costs =
        bsconv::profile(net, input).flops() == 36 * 3 * 4 + 16 * 4 * 9 + 16 * 4 + 16 * 4;
    if (report.replaced() == 1 && runs && costs) {
      return 0;
    }
    std::cerr << report << bsconv::to_table(bsconv::profile(net, input));
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
  }
  return 1;
}
