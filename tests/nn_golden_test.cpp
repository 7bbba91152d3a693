// SPDX-License-Identifier: BSD-3-Clause-Clear
// BSConvU and BSConvS alone, against the reference.
#include <bsconv/nn.hpp>

#include "support/golden.hpp"

namespace nn_golden_test {
namespace {

torch::ExpandingArray<2> pair(const nlohmann::json& value) {
  return value.is_array()
             ? torch::ExpandingArray<2>({value[0].get<int64_t>(), value[1].get<int64_t>()})
             : torch::ExpandingArray<2>(value.get<int64_t>());
}

torch::nn::detail::conv_padding_mode_t padding_mode(const std::string& name) {
  if (name == "reflect") {
    return torch::kReflect;
  }
  if (name == "replicate") {
    return torch::kReplicate;
  }
  if (name == "circular") {
    return torch::kCircular;
  }
  EXPECT_EQ(name, "zeros");
  return torch::kZeros;
}

template <class Options>
Options options_of(const nlohmann::json& row) {
  return Options(row.at("in_channels"), row.at("out_channels"), pair(row.at("kernel_size")))
      .stride(pair(row.at("stride")))
      .padding(pair(row.at("padding")))
      .dilation(pair(row.at("dilation")))
      .bias(row.at("bias"))
      .padding_mode(padding_mode(row.at("padding_mode")))
      .with_bn(row.at("with_bn"));
}

template <class Module>
torch::Tensor expect_module(Module module, const nlohmann::json& row, torch::Device device) {
  const auto state = bsconv::weights::state_dict(*module);
  const auto& golden = row.at("state");
  EXPECT_EQ(state.size(), golden.size());
  for (std::size_t i = 0; i < std::min(state.size(), golden.size()); ++i) {
    EXPECT_EQ(state[i].key(), golden[i][0].template get<std::string>());
    EXPECT_EQ(state[i].value().sizes().vec(), golden[i][1].template get<std::vector<int64_t>>());
  }
  bsconv_test::fill(*module, 5);
  module->eval();
  module->to(device);
  torch::manual_seed(6);
  const auto input = torch::randn({2, row.at("in_channels").get<int64_t>(), 11, 13}).to(device);
  const auto output = module->forward(input);
  EXPECT_EQ(output.sizes().vec(), row.at("out_shape").get<std::vector<int64_t>>());
  bsconv_test::expect_tensor(output, row, "out_");
  return output;
}

void expect_all(torch::Device device) {
  const auto rows = bsconv_test::golden_lines("modules.jsonl");
  ASSERT_EQ(rows.size(), 42U);
  for (const auto& row : rows) {
    SCOPED_TRACE(row.dump().substr(0, 200));
    if (row.at("type") == "BSConvU") {
      expect_module(bsconv::BSConvU(options_of<bsconv::BSConvUOptions>(row)), row, device);
      continue;
    }
    bsconv::BSConvS module(options_of<bsconv::BSConvSOptions>(row)
                               .p(row.at("p"))
                               .min_mid_channels(row.at("min_mid_channels")));
    expect_module(module, row, device);
    const double golden = row.at("reg_loss");
    EXPECT_NEAR(module->regularization_loss().item<double>(), golden, 1e-4 * golden);
  }
}

TEST(NnGolden, ModulesEqualTheReference) { expect_all(torch::kCPU); }

TEST(NnGolden, ModulesEqualTheReferenceOnCuda) {
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  torch::globalContext().setAllowTF32CuDNN(false);
  expect_all(torch::kCUDA);
}

}  // namespace
}  // namespace nn_golden_test
