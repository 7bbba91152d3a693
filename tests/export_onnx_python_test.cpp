// SPDX-License-Identifier: BSD-3-Clause-Clear
// ONNX files, run by ONNX Runtime where there is a Python that has it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/export.hpp>
#include <bsconv/weights.hpp>

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "support/function.hpp"
#include "support/golden.hpp"
#include "support/layers.hpp"
#include "support/python.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace export_onnx_python_test {
namespace {

using bsconv::OnnxExportOptions;
using bsconv_test::Function;
using bsconv_test::FunctionImpl;
using bsconv_test::TemporaryDirectory;

const std::string python = bsconv_test::python();

/// A user's network with typed members, which knows nothing of this library.
struct TypedNetImpl : torch::nn::Module {
  TypedNetImpl() {
    register_module("conv1", conv1);
    register_module("bn1", bn1);
    register_module("conv2", conv2);
    register_module("fc", fc);
  }
  torch::Tensor forward(const torch::Tensor& input) {
    auto x = bn1(conv1(input)).relu_();
    x = torch::max_pool2d(torch::nn::functional::silu(conv2(x)) + x, 2);
    return fc(x.view({x.size(0), -1}));
  }
  torch::nn::Conv2d conv1{torch::nn::Conv2dOptions(3, 9, 3).padding(1)};
  torch::nn::BatchNorm2d bn1{9};
  torch::nn::Conv2d conv2{
      torch::nn::Conv2dOptions(9, 9, 3).padding(torch::kSame).padding_mode(torch::kCircular)};
  torch::nn::Linear fc{9 * 36, 5};
};
TORCH_MODULE(TypedNet);

// Files for Python to run.
class RuntimeFiles {
 public:
  template <class Holder>
  void add(const std::string& name, Holder& model, const torch::Tensor& input,
           const OnnxExportOptions& options = {}) {
    const torch::NoGradGuard no_grad;
    bsconv::export_onnx(model, input.narrow(0, 0, options.dynamic_batch() ? 1 : 2),
                        directory_ / (name + ".onnx"), options);
    bsconv::weights::StateDict tensors;
    tensors.insert("input", input);
    tensors.insert("output", model->forward(input).contiguous());
    bsconv::weights::save_weights(directory_ / (name + ".pth"), tensors);
    ++count_;
  }

  void expect_equal() const {
    const std::string line = "'" + python + "' '" + BSCONV_TEST_DATA_DIR +
                             "/../python/check_onnx.py' '" + directory_.path().native() + "' " +
                             std::to_string(count_);
    EXPECT_EQ(std::system(line.c_str()), 0);
  }

 private:
  TemporaryDirectory directory_;
  int count_ = 0;
};

class ExportOnnxPython : public testing::Test {
 protected:
  void SetUp() override {
    if (python.empty()) {
      GTEST_SKIP() << "configure with -DBSCONV_TEST_PYTHON=/path/to/python, one that has torch, "
                      "onnx and onnxruntime";
    }
    torch::manual_seed(4);
  }
  RuntimeFiles files;
};

// Statistics that fit the weights.
void settle(torch::nn::Module& model, const std::function<void()>& run) {
  bsconv_test::fill(model, 2);
  bsconv::for_each_module(model, [](torch::nn::Module& module, const std::string&) {
    if (auto* bn = dynamic_cast<torch::nn::BatchNorm2dImpl*>(&module)) {
      bn->options.momentum(1.0);
    }
  });
  const torch::NoGradGuard no_grad;
  model.train();
  run();
  model.eval();
}

TEST_F(ExportOnnxPython, EveryFamilyOfTheZoo) {
  for (const std::string name :
       {"cifar_resnet20", "cifar_resnet20_bsconvu", "cifar_preresnet20_bsconvs_p1d4",
        "cifar_preresnet20", "cifar_wrn16_2_bsconvu", "cifar_mobilenetv1_w1d4",
        "cifar_mobilenetv1_w1d4_bsconvu", "cifar_mobilenetv2_w1d4_bsconvs_p1d6",
        "cifar_mobilenetv3_small_w1d2", "cifar_mobilenetv3_large_w1d2_bsconvs_p1d6", "resnet10",
        "cifar_mobilenetv2_w1d4", "mobilenetv3_small_w1d2"}) {
    auto model = bsconv::create_model(name, bsconv::ModelOptions().num_classes(7));
    const int64_t side = name.rfind("cifar_", 0) == 0 ? 32 : 64;
    const auto x = torch::rand({5, 3, side, side});
    settle(*model, [&] { model->forward(x); });
    files.add(name, model, x);
    if (side == 32) {
      files.add(name + "_kept", model, x,
                OnnxExportOptions().fold_batch_norms(false).opset(name.size() % 2 == 0 ? 18 : 21));
    }
  }
  files.expect_equal();
}

TEST_F(ExportOnnxPython, AReplacedModelOfTheUser) {
  const auto x = torch::randn({5, 3, 12, 12});
  TypedNet net;
  settle(*net, [&] { net->forward(x); });
  files.add("typed", net, x);
  files.add("typed_fixed", net, x.narrow(0, 0, 2), OnnxExportOptions().dynamic_batch(false));
  bsconv::replace_with_bsconv_u(net, bsconv::BSConvUReplacementOptions().with_bn(true));
  settle(*net, [&] { net->forward(x); });
  files.add("bsconvu", net, x);
  bsconv::fuse(*net);
  files.add("fused", net, x);
  files.expect_equal();
}

TEST_F(ExportOnnxPython, RandomConvolutionsWithOddChannels) {
  bsconv_test::Draw draw(7);
  for (int i = 0; i < 12; ++i) {
    auto options = bsconv_test::random_convolution(draw);
    const auto x = torch::randn({5, options.in_channels(), 17, 19});
    bsconv::Chain chain;
    if (i % 3 == 0) {
      chain->push_back("0", torch::nn::Conv2d(options));
    } else {
      chain->push_back("0", bsconv::BSConvU(bsconv::BSConvUOptions(options.in_channels(),
                                                                   options.out_channels(), 3)
                                                .padding(draw(0, 2))
                                                .dilation(draw(1, 2))
                                                .stride(draw(1, 2))
                                                .with_bn(draw.flip())));
    }
    chain->push_back("1", torch::nn::BatchNorm2d(options.out_channels()));
    chain->push_back("2", torch::nn::LeakyReLU());
    settle(*chain, [&] { chain->forward(x); });
    files.add("random" + std::to_string(i), chain, x);
  }
  files.expect_equal();
}

TEST_F(ExportOnnxPython, EveryKindOfOperator) {
  using torch::Tensor;
  namespace f = torch::nn::functional;
  const std::vector<std::pair<std::string, FunctionImpl::Call>> calls = {
      {"activations",
       [](const Tensor& x) {
         return torch::gelu(x) + torch::elu(x, 0.7) + torch::mish(x) + torch::softplus(x) +
                torch::hardsigmoid(x) + torch::hardswish(x) + torch::silu(x) + torch::sigmoid(x) +
                torch::tanh(x) + torch::relu6(x) + x.clamp(-0.5) + x.clamp_max(0.3) +
                torch::hardtanh(x) + torch::leaky_relu(x, 0.2) + torch::softmax(x, 1) +
                torch::log_softmax(x, -1) + torch::prelu(x, torch::full({6}, 0.3));
       }},
      {"arithmetic",
       [](const Tensor& x) {
         return torch::add(x, x.square(), 0.5) - 2 * x / (x.abs() + 1).sqrt() +
                (x.abs() + 1).rsqrt() * x.neg().exp() + x.pow(2) + torch::maximum(x, x * 0.5);
       }},
      {"types",
       [](const Tensor& x) {
         const auto y = torch::softmax(x, 1, torch::kDouble) + x.sum({1}, true, torch::kDouble) +
                        torch::log_softmax(x, 2, torch::kDouble);
         return torch::cat({x, y, x.to(torch::kLong).clamp(0, 16777217)}, 1).to(torch::kFloat);
       }},
      {"reductions",
       [](const Tensor& x) {
         return x.mean({2, 3}, true) + x.sum({1}, true) + x.amax({3}, true) + x.mean(1, true);
       }},
      {"pools",
       [](const Tensor& x) {
         return torch::cat({torch::max_pool2d(x, 3, 2, 1, 1, true).flatten(1),
                            torch::max_pool2d(x, 2, 2, 0, 1, true).flatten(1),
                            torch::avg_pool2d(x, 3, 2, 1).flatten(1),
                            torch::avg_pool2d(x, 3, 2, 1, false, false).flatten(1),
                            torch::avg_pool2d(x, 2, 2, 0, true).flatten(1),
                            torch::adaptive_avg_pool2d(x, {9, 1}).flatten(1)},
                           1);
       }},
      {"shapes",
       [](const Tensor& x) {
         auto y = x.view({x.size(0), 2, 3, 9, 11}).transpose(1, 2).reshape({-1, 6, 9, 11});
         const auto parts = y.chunk(2, 1);
         y = torch::cat({parts[1], parts[0], y.slice(1, 1, 3), y.narrow(1, -2, 2)}, 1);
         y = torch::stack({y, y * 2}, 1).select(1, 1).permute({0, 2, 3, 1}).contiguous();
         return y.unsqueeze(1).squeeze(1).flatten(1, 2);
       }},
      {"padding",
       [](const Tensor& x) {
         return f::pad(x, f::PadFuncOptions({1, 2, 0, 3}).mode(torch::kReflect)) +
                f::pad(x, f::PadFuncOptions({1, 2, 0, 3}).mode(torch::kReplicate)) +
                f::pad(x, f::PadFuncOptions({1, 2, 0, 3}).mode(torch::kCircular)) +
                f::pad(x, f::PadFuncOptions({1, 2, 0, 3}).mode(torch::kConstant).value(0.5));
       }},
      {"nearest",
       [](const Tensor& x) {
         const auto up = f::interpolate(
             x,
             f::InterpolateFuncOptions().size(std::vector<int64_t>{18, 22}).mode(torch::kNearest));
         return torch::pixel_shuffle(up.narrow(1, 0, 4), 2);
       }},
      {"bilinear",
       [](const Tensor& x) {
         const auto to = [&](std::vector<int64_t> size, bool corners) {
           return f::interpolate(x, f::InterpolateFuncOptions()
                                        .size(std::move(size))
                                        .mode(torch::kBilinear)
                                        .align_corners(corners))
               .flatten(1);
         };
         const auto scaled = f::interpolate(x, f::InterpolateFuncOptions()
                                                   .scale_factor(std::vector<double>{2, 3})
                                                   .mode(torch::kBilinear)
                                                   .align_corners(false));
         return torch::cat({to({21, 20}, false), to({21, 20}, true), to({18, 22}, false),
                            to({1, 1}, false), scaled.flatten(1)},
                           1);
       }},
      {"casts", [m = torch::full({6, 1, 1}, 0.25, torch::kDouble)](
                    const Tensor& x) { return (x - m.type_as(x)) / m.to(x); }},
      {"norms",
       [](const Tensor& x) {
         const auto y = torch::group_norm(x, 3, torch::linspace(0.5, 2, 6), torch::ones({6}));
         return torch::layer_norm(y, {9, 11}, torch::linspace(0.5, 2, 99).view({9, 11}));
       }},
      {"transposed", [w = torch::randn({6, 4, 3, 3})](
                         const Tensor& x) { return torch::conv_transpose2d(x, w, {}, 2, 1, 1); }},
      {"matrix",
       [w = torch::randn({7, 11})](const Tensor& x) {
         return torch::matmul(x, w.t()).matmul(x.matmul(w.t()).transpose(2, 3));
       }},
  };
  const auto x = torch::randn({5, 6, 9, 11});
  for (const auto& [name, call] : calls) {
    for (const int64_t opset : {17, 18, 21}) {
      bsconv::Layer model = Function(call);
      model->eval();
      files.add(name + std::to_string(opset), model, x, OnnxExportOptions().opset(opset));
    }
  }
  files.expect_equal();
}

}  // namespace
}  // namespace export_onnx_python_test
