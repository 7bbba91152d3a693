// SPDX-License-Identifier: BSD-3-Clause-Clear
// Weights of the Python package's models into ours and back, by real Python.
#include <gtest/gtest.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/weights.hpp>

#include <cstdlib>
#include <string>
#include <vector>

#include "support/python.hpp"
#include "test_files.hpp"

namespace weights_python_test {
namespace {

const std::string python = bsconv_test::python();

int run_exchange(const std::string& command, const std::string& folder, const std::string& names) {
  const std::string script = BSCONV_TEST_DATA_DIR "/../python/exchange.py";
  const std::string line =
      "'" + python + "' '" + script + "' " + command + " '" + folder + "' " + names;
  return std::system(line.c_str());
}

TEST(WeightsPython, EveryFamilyGoesBothWays) {
  if (python.empty()) {
    GTEST_SKIP()
        << "configure with -DBSCONV_TEST_PYTHON=/path/to/python, one that has torch, bsconv "
           "and safetensors";
  }
  const std::vector<std::string> names = {"cifar_resnet20",
                                          "cifar_resnet20_bsconvu",
                                          "cifar_preresnet20_bsconvs_p1d4",
                                          "cifar_wrn16_2_bsconvu",
                                          "cifar_mobilenetv1_w1d4_bsconvu",
                                          "cifar_mobilenetv2_w1d4_bsconvs_p1d6",
                                          "cifar_mobilenetv3_small_w1d2",
                                          "cifar_mobilenetv3_large_w1d2_bsconvs_p1d6",
                                          "resnet10_bsconvs_p1d8",
                                          "preresnet10_bsconvu",
                                          "mobilenetv1_w1d4",
                                          "mobilenetv2_w1d4",
                                          "mobilenetv3_small_w1d2_bsconvs_p1d6",
                                          "mobilenetv3_large_w1d2"};
  std::string list;
  for (const auto& name : names) {
    list += name + " ";
  }
  const bsconv_test::TemporaryDirectory folder;
  ASSERT_EQ(run_exchange("make", folder.path().native(), list), 0);
  const torch::NoGradGuard no_grad;
  for (const auto& name : names) {
    const auto at = [&](const std::string& ending) { return folder.path() / (name + ending); };
    const auto pth = bsconv::weights::load_weights(at(".pth")).tensors;
    const auto safetensors = bsconv::weights::load_weights(at(".safetensors")).tensors;
    const auto golden = bsconv::weights::load_weights(at(".logits.pth")).tensors;
    for (const auto* state : {&pth, &safetensors}) {
      auto model = bsconv::create_model(name, bsconv::ModelOptions().num_classes(7));
      bsconv::weights::load_state_dict(*model, *state);
      model->eval();
      const auto logits = model->forward(golden["input"]);
      const double scale = golden["logits"].abs().mean().item<double>();
      EXPECT_LE((logits - golden["logits"]).abs().max().item<double>(), 1e-4 * scale) << name;
      bsconv::weights::save_weights(at(".out.pth"), bsconv::weights::state_dict(*model));
      bsconv::weights::save_weights(at(".out.safetensors"), bsconv::weights::state_dict(*model));
    }
  }
  EXPECT_EQ(run_exchange("check", folder.path().native(), list), 0);
}

}  // namespace
}  // namespace weights_python_test
