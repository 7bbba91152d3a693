// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gtest/gtest.h>
#include <torch/nn.h>
#include <bsconv/nn/modes_guard.hpp>

// Tests are compiled several files at a time.
namespace nn_modes_guard_test {
namespace {

TEST(ModesGuard, PutsEveryModeBackAlsoOfWhatStandsInTwoPlaces) {
  torch::nn::BatchNorm2d shared(3);
  torch::nn::ModuleList first(shared, torch::nn::ReLU());
  torch::nn::ModuleList second(shared, torch::nn::ReLU());
  torch::nn::ModuleList model(first, second);
  shared->eval();
  second[1]->eval();
  for (const bool within : {false, true}) {
    {
      const bsconv::detail::ModesGuard guard(*model);
      model->train(within);
    }
    EXPECT_TRUE(model->is_training());
    EXPECT_TRUE(first->is_training());
    EXPECT_TRUE(second->is_training());
    EXPECT_TRUE(first[1]->is_training());
    EXPECT_FALSE(second[1]->is_training());
    EXPECT_FALSE(shared->is_training());
  }
}

}  // namespace
}  // namespace nn_modes_guard_test
