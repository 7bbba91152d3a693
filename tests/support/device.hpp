// SPDX-License-Identifier: BSD-3-Clause-Clear
// The devices that tests run on.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>

namespace bsconv_test {

/// A test that runs once on the CPU and once on a GPU, where there is one.
class DeviceTest : public testing::TestWithParam<torch::DeviceType> {
 protected:
  void SetUp() override {
    if (GetParam() == torch::kCUDA && !torch::cuda::is_available()) {
      GTEST_SKIP() << "there is no CUDA device";
    }
    torch::globalContext().setAllowTF32CuDNN(false);
    torch::manual_seed(1);
  }
  torch::Device device() const { return torch::Device(GetParam()); }
};

/// The values of a `DeviceTest`.
inline auto devices() { return testing::Values(torch::kCPU, torch::kCUDA); }

/// What a value of a `DeviceTest` is called.
inline std::string device_name(const testing::TestParamInfo<torch::DeviceType>& info) {
  return info.param == torch::kCPU ? "cpu" : "cuda";
}

}  // namespace bsconv_test
