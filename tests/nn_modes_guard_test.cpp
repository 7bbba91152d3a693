// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gtest/gtest.h>
#include <torch/nn.h>
#include <bsconv/nn/modes_guard.hpp>

#include <gmock/gmock.h>

#include <memory>
#include <stdexcept>

#include "support/golden.hpp"
#include "support/warnings.hpp"

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

/// Changes its mode until it is told not to.
struct StubbornImpl : torch::nn::Module {
  void train(bool on = true) override {
    TORCH_CHECK(!stubborn, "the mode stays");
    torch::nn::Module::train(on);
  }
  bool stubborn = false;
};
TORCH_MODULE(Stubborn);

// A destructor that throws while an exception is on its way ends the process.
TEST(ModesGuard, LetsAnExceptionPassWhereAModeCanNotBePutBack) {
  bsconv_test::Warnings warnings;
  Stubborn stubborn;
  torch::nn::ReLU relu;
  torch::nn::ModuleList model(relu, stubborn);
  EXPECT_EQ(bsconv_test::message_of([&] {
              const bsconv::detail::ModesGuard guard(*model);
              model->eval();
              stubborn->stubborn = true;
              throw std::runtime_error("the first error");
            }),
            "the first error");
  EXPECT_TRUE(relu->is_training());
  EXPECT_FALSE(stubborn->is_training());
  EXPECT_THAT(warnings.messages,
              testing::Each("could not put back the mode of a module: the mode stays"));
  EXPECT_FALSE(warnings.messages.empty());
}

}  // namespace
}  // namespace nn_modes_guard_test
