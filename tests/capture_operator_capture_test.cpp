// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/capture/operator_capture.hpp>
#include <bsconv/nn.hpp>

#include <algorithm>
#include <thread>

#include "support/device.hpp"

namespace capture_operator_capture_test {
namespace {

using Names = std::vector<std::string>;

/// Writes down the operators; looks inside those of one name.
class Recorder : public bsconv::OperatorObserver {
 public:
  explicit Recorder(std::string inside = "") : inside_(std::move(inside)) {}
  bool looks_inside(const c10::OperatorHandle& op,
                    const std::vector<c10::IValue>& /*inputs*/) override {
    return op.schema().name() == inside_;
  }
  void ran(const bsconv::OperatorCall& call) override {
    names.push_back(call.op.schema().name());
    seconds += call.seconds;
    EXPECT_EQ(call.inputs.size(), call.op.schema().arguments().size());
    EXPECT_EQ(call.outputs.size(), call.op.schema().returns().size());
    // What an observer runs itself is not observed.
    torch::ones({2}).tanh();
  }
  Names names;
  double seconds = 0.0;

 private:
  std::string inside_;
};

class CaptureOnDevice : public bsconv_test::DeviceTest {};
INSTANTIATE_TEST_SUITE_P(All, CaptureOnDevice, bsconv_test::devices(), bsconv_test::device_name);

TEST_P(CaptureOnDevice, SeesWhatRunsInOrder) {
  const auto x = torch::randn({1, 2, 5, 5}).to(device()).requires_grad_();
  const auto w = torch::randn({3, 2, 3, 3}).to(device());
  const auto expected = torch::conv2d(x, w).relu().detach();
  Recorder recorder;
  torch::Tensor output;
  {
    const bsconv::OperatorCapture capture(recorder);
    output = torch::conv2d(x, w).relu();
  }
  x.sigmoid();
  EXPECT_EQ(recorder.names, (Names{"aten::conv2d", "aten::relu"}));
  EXPECT_GT(recorder.seconds, 0.0);
  EXPECT_TRUE(torch::equal(output, expected));
  output.sum().backward();
  EXPECT_TRUE(x.grad().defined());
}

TEST_P(CaptureOnDevice, LooksInsideOnRequest) {
  Recorder recorder("aten::conv2d");
  const auto x = torch::randn({1, 2, 5, 5}).to(device());
  const auto w = torch::randn({3, 2, 3, 3}).to(device());
  {
    const bsconv::OperatorCapture capture(recorder);
    torch::conv2d(x, w);
  }
  EXPECT_EQ(std::count(recorder.names.begin(), recorder.names.end(), "aten::conv2d"), 0);
  EXPECT_EQ(std::count(recorder.names.begin(), recorder.names.end(), "aten::convolution"), 1);
}

TEST(Capture, NestsAndEndsWithItsScope) {
  Recorder outer;
  Recorder inner;
  const auto x = torch::ones({2});
  {
    const bsconv::OperatorCapture first(outer);
    x.exp();
    {
      const bsconv::OperatorCapture second(inner);
      x.log();
    }
    x.sin();
  }
  x.cos();
  EXPECT_EQ(outer.names, (Names{"aten::exp", "aten::sin"}));
  EXPECT_EQ(inner.names, (Names{"aten::log"}));
}

TEST(Capture, EndsWhenAnOperatorThrows) {
  Recorder recorder;
  EXPECT_THROW(
      {
        const bsconv::OperatorCapture capture(recorder);
        torch::mm(torch::ones({2, 3}), torch::ones({2, 3}));
      },
      c10::Error);
  const auto seen = recorder.names.size();
  torch::ones({2}).exp();
  EXPECT_EQ(recorder.names.size(), seen);
  EXPECT_EQ(std::count(recorder.names.begin(), recorder.names.end(), "aten::mm"), 0);
}

TEST(Capture, IsTheThreadsOwn) {
  Recorder recorder;
  const auto x = torch::ones({2});
  {
    const bsconv::OperatorCapture capture(recorder);
    std::thread([&] {
      x.exp();
      Recorder other;
      const bsconv::OperatorCapture theirs(other);
      x.log();
      EXPECT_EQ(other.names, (Names{"aten::log"}));
    }).join();
    x.sin();
  }
  EXPECT_EQ(recorder.names, (Names{"aten::sin"}));
}

TEST(Capture, SeesInPlaceOperatorsViewsAndTuples) {
  Recorder recorder;
  auto x = torch::rand({2, 4});
  {
    const bsconv::OperatorCapture capture(recorder);
    x.mul_(2);
    x.transpose(0, 1);
    x.max(1);
    x.split(2, 1);
  }
  EXPECT_EQ(recorder.names, (Names{"aten::mul_", "aten::transpose", "aten::max", "aten::split"}));
}

TEST(Capture, LiesAboveGraftedWeights) {
  torch::nn::Conv2d conv(2, 3, 3);
  bsconv::graft(*conv, torch::nn::AnyModule(bsconv::BSConvU(2, 3, 3)));
  const auto x = torch::rand({1, 2, 5, 5});
  Recorder whole;
  Recorder parts("aten::conv2d");
  torch::Tensor first;
  {
    const bsconv::OperatorCapture capture(whole);
    first = conv(x);
  }
  EXPECT_EQ(whole.names, (Names{"aten::conv2d"}));
  torch::Tensor second;
  {
    const bsconv::OperatorCapture capture(parts);
    second = conv(x);
  }
  EXPECT_EQ(std::count(parts.names.begin(), parts.names.end(), "aten::convolution"), 2);
  EXPECT_TRUE(torch::equal(first, second));
}

}  // namespace
}  // namespace capture_operator_capture_test
