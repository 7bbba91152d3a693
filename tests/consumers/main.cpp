// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <torch/torch.h>
#include <bsconv/bsconv.hpp>

#include <iostream>

int main() {
  bsconv::BSConvU layer(bsconv::BSConvUOptions(3, 8, 3).padding(1));
  std::cout << layer->forward(torch::ones({1, 3, 8, 8})).sizes() << '\n';
}
