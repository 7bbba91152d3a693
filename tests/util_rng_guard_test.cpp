// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/util/rng_guard.hpp>

#include "support/device.hpp"

namespace util_rng_guard_test {
namespace {

class RngGuardOnDevice : public bsconv_test::DeviceTest {
 protected:
  torch::Tensor draw() const { return torch::randn({5}, torch::TensorOptions(device())); }
};
INSTANTIATE_TEST_SUITE_P(All, RngGuardOnDevice, bsconv_test::devices(), bsconv_test::device_name);

TEST_P(RngGuardOnDevice, PutsTheGeneratorBack) {
  draw();
  torch::Tensor inside;
  {
    const bsconv::RngGuard guard;
    inside = draw();
    draw();
  }
  EXPECT_TRUE(torch::equal(draw(), inside));
  EXPECT_FALSE(torch::equal(draw(), inside));
}

TEST_P(RngGuardOnDevice, UndoesANewSeed) {
  draw();
  torch::Tensor inside;
  {
    const bsconv::RngGuard outer;
    {
      const bsconv::RngGuard inner;
      torch::manual_seed(77);
      draw();
    }
    inside = draw();
    torch::manual_seed(78);
  }
  EXPECT_TRUE(torch::equal(draw(), inside));
}

TEST_P(RngGuardOnDevice, PutsItBackWhenSomethingThrows) {
  draw();
  torch::Tensor inside;
  try {
    const bsconv::RngGuard guard;
    inside = draw();
    throw std::runtime_error("no");
  } catch (const std::runtime_error&) {
  }
  EXPECT_TRUE(torch::equal(draw(), inside));
}

TEST(RngGuard, StartsNoCudaContext) {
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  const auto& hooks = at::detail::getCUDAHooks();
  const bool before = hooks.hasPrimaryContext(0);
  { const bsconv::RngGuard guard; }
  EXPECT_EQ(hooks.hasPrimaryContext(0), before);
}

}  // namespace
}  // namespace util_rng_guard_test
