// SPDX-License-Identifier: BSD-3-Clause-Clear
// Weights by SVD against an independent computation with NumPy.
#include <gtest/gtest.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/weights.hpp>

#include <cstdlib>
#include <string>

#include "support/python.hpp"
#include "test_files.hpp"

namespace replace_python_test {
namespace {

const std::string python = bsconv_test::python();

TEST(ReplacePython, SvdEqualsNumPy) {
  if (python.empty()) {
    GTEST_SKIP() << "configure with -DBSCONV_TEST_PYTHON=/path/to/python, one that has numpy and "
                    "safetensors";
  }
  torch::manual_seed(1);
  torch::nn::Conv2d conv(torch::nn::Conv2dOptions(16, 24, {3, 5}));
  const bsconv_test::TemporaryDirectory folder;
  bsconv::weights::StateDict state;
  state.insert("weight", conv->weight.detach());
  bsconv::weights::save_weights(folder.path() / "weight.safetensors", state);
  const std::string line = "'" + python + "' '" + BSCONV_TEST_DATA_DIR +
                           "/../python/components.py' '" + folder.path().native() + "'";
  ASSERT_EQ(std::system(line.c_str()), 0);
  const auto expected =
      bsconv::weights::load_weights(folder.path() / "expected.safetensors").tensors;
  const torch::NoGradGuard no_grad;
  const auto expect_equal = [&](const torch::Tensor& tensor, const char* name) {
    const auto other = expected[name].view_as(tensor);
    EXPECT_LE((tensor - other).abs().max().item<double>(), 1e-5 * other.abs().max().item<double>())
        << name;
  };

  bsconv::BSConvU unconstrained(16, 24, torch::ExpandingArray<2>({3, 5}));
  bsconv::initialize_from(*unconstrained, *conv);
  expect_equal(unconstrained->pw->weight * unconstrained->dw->weight, "u");
  // The sign of a singular vector is free.
  expect_equal(unconstrained->pw->weight.abs(), "pointwise");
  expect_equal(unconstrained->dw->weight.abs(), "depthwise");

  bsconv::BSConvSum two(bsconv::BSConvUOptions(16, 24, {3, 5}), 2);
  bsconv::initialize_from(*two, *conv);
  const auto p = two->named_parameters();
  expect_equal(
      p["term1.pw.weight"] * p["term1.dw.weight"] + p["term2.pw.weight"] * p["term2.dw.weight"],
      "two");

  bsconv::BSConvS subspace(bsconv::BSConvSOptions(16, 24, {3, 5}).p(5.0 / 16.0));
  bsconv::initialize_from(*subspace, *conv);
  const auto basis = subspace->pw1->weight.flatten(1);
  expect_equal(basis.t().matmul(basis), "projection");
  const auto pointwise = subspace->pw2->weight.flatten(1).matmul(basis);
  expect_equal(pointwise.view({24, 16, 1, 1}) * subspace->dw->weight, "s");
}

}  // namespace
}  // namespace replace_python_test
