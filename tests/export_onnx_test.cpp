// SPDX-License-Identifier: BSD-3-Clause-Clear
// ONNX files: read back, and run by ONNX Runtime where there is a Python that has it.
#include <gmock/gmock.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/export.hpp>
#include <bsconv/weights.hpp>

#include <cstdlib>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "support/function.hpp"
#include "support/golden.hpp"
#include "support/layers.hpp"
#include "support/python.hpp"
#include "test_files.hpp"

namespace export_onnx_test {
namespace {

using bsconv::OnnxExportOptions;
using bsconv::onnx::Model;
using bsconv_test::Function;
using bsconv_test::FunctionImpl;
using bsconv_test::TemporaryDirectory;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

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

template <class Holder>
Model written(const Holder& model, const torch::Tensor& example,
              const OnnxExportOptions& options = {}) {
  const TemporaryDirectory directory;
  bsconv::export_onnx(model, example, directory / "m.onnx", options);
  EXPECT_EQ(bsconv_test::count_files(directory.path()), 1);
  return bsconv::onnx::load_onnx(directory / "m.onnx");
}

std::multiset<std::string> types_of(const Model& model) {
  std::multiset<std::string> types;
  for (const auto& node : model.nodes) {
    types.insert(node.type);
  }
  return types;
}

const bsconv::onnx::Initializer& initializer(const Model& model, const std::string& name) {
  for (const auto& item : model.initializers) {
    if (item.name == name) {
      return item;
    }
  }
  throw std::runtime_error("no initializer " + name);
}

// Every name is made before it is read, and once.
void expect_sound(const Model& model) {
  std::set<std::string> known;
  for (const auto& value : model.inputs) {
    EXPECT_TRUE(known.insert(value.name).second) << value.name;
  }
  for (const auto& item : model.initializers) {
    EXPECT_TRUE(known.insert(item.name).second) << item.name;
    EXPECT_EQ(item.data.sizes().vec(), item.sizes) << item.name;
  }
  for (const auto& node : model.nodes) {
    for (const auto& name : node.inputs) {
      EXPECT_TRUE(name.empty() || known.count(name) == 1) << node.name << " reads " << name;
    }
    for (const auto& name : node.outputs) {
      EXPECT_TRUE(known.insert(name).second) << name;
    }
  }
  for (const auto& value : model.outputs) {
    EXPECT_EQ(known.count(value.name), 1U) << value.name;
  }
}

TEST(ExportOnnx, WritesWhatTheModelIs) {
  auto model =
      bsconv::create_model("cifar_resnet20_bsconvu", bsconv::ModelOptions().num_classes(7));
  bsconv_test::fill(*model, 2);
  model->eval();
  const auto before = bsconv::weights::state_dict(*model);
  std::vector<torch::Tensor> copies;
  for (const auto& item : before) {
    copies.push_back(item.value().clone());
  }
  const auto random = at::globalContext().defaultGenerator(at::kCPU).get_state();
  const auto file = written(model, torch::zeros({2, 3, 32, 32}),
                            OnnxExportOptions()
                                .input_name("images")
                                .output_name("logits")
                                .model_name("net")
                                .class_names({"a", "b"})
                                .metadata({{"mean", "0"}}));
  EXPECT_TRUE(torch::equal(at::globalContext().defaultGenerator(at::kCPU).get_state(), random));
  for (std::size_t i = 0; i < copies.size(); ++i) {
    EXPECT_TRUE(torch::equal(before[i].value(), copies[i])) << before[i].key();
  }
  expect_sound(file);
  EXPECT_EQ(file.ir_version, 8);
  EXPECT_EQ(file.opset, 17);
  EXPECT_EQ(file.producer, "bsconv");
  EXPECT_EQ(file.producer_version, bsconv::version);
  EXPECT_EQ(file.graph_name, "net");
  EXPECT_THAT(file.metadata,
              ElementsAre(testing::Pair("mean", "0"), testing::Pair("class_names", "a\nb")));
  ASSERT_EQ(file.inputs.size(), 1U);
  EXPECT_EQ(file.inputs[0].name, "images");
  EXPECT_EQ(file.inputs[0].sizes[0].name, "batch");
  EXPECT_EQ(file.inputs[0].sizes[1].size, 3);
  ASSERT_EQ(file.outputs.size(), 1U);
  EXPECT_EQ(file.outputs[0].name, "logits");
  EXPECT_EQ(file.outputs[0].sizes[0].name, "batch");
  EXPECT_EQ(file.outputs[0].sizes[1].size, 7);
  const auto types = types_of(file);
  // Nineteen pairs, the shortcuts, the classifier.
  EXPECT_GE(types.count("Conv"), 39U);
  EXPECT_EQ(types.count("BatchNormalization"), 0U);
  EXPECT_EQ(types.count("Flatten"), 1U);
  EXPECT_EQ(types.count("GlobalAveragePool"), 1U);
  const auto names = model->named_parameters();
  EXPECT_TRUE(torch::equal(initializer(file, "classifier.conv.weight").data,
                           names["classifier.conv.weight"]));
}

TEST(ExportOnnx, FoldsBatchNormsOrKeepsThem) {
  torch::nn::Sequential model(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 5, 3).bias(false)),
                              torch::nn::BatchNorm2d(5));
  bsconv_test::randomize(*model);
  model->eval();
  const auto example = torch::zeros({1, 3, 8, 8});
  const auto kept = written(model, example, OnnxExportOptions().fold_batch_norms(false));
  EXPECT_THAT(types_of(kept), ElementsAre("BatchNormalization", "Conv"));
  EXPECT_TRUE(torch::equal(initializer(kept, "1.running_var").data,
                           model->named_buffers()["1.running_var"]));
  const auto file = written(model, example);
  EXPECT_THAT(types_of(file), ElementsAre("Conv"));
  const auto& weight = initializer(file, "0.weight").data;
  const auto& bias = initializer(file, "0.bias").data;
  const auto x = torch::randn({2, 3, 8, 8});
  const torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::allclose(torch::conv2d(x, weight, bias), model->forward(x), 1e-4, 1e-5));
}

TEST(ExportOnnx, KeepsAFixedBatchWhereAsked) {
  torch::nn::Sequential model(torch::nn::Flatten(), torch::nn::Linear(12, 4));
  model->eval();
  const auto fixed =
      written(model, torch::zeros({3, 3, 4}), OnnxExportOptions().dynamic_batch(false));
  EXPECT_EQ(fixed.inputs[0].sizes[0].size, 3);
  EXPECT_EQ(fixed.outputs[0].sizes[0].size, 3);
  EXPECT_EQ(written(model, torch::zeros({3, 3, 4})).outputs[0].sizes[0].name, "batch");
}

TEST(ExportOnnx, NamesTheOperatorThatHasNoCounterpartAndItsPlace) {
  torch::nn::Conv2d conv(torch::nn::Conv2dOptions(3, 4, 1));
  struct NetImpl : bsconv::LayerImpl {
    explicit NetImpl(const torch::nn::Conv2d& layer) : conv(register_module("stem", layer)) {}
    torch::Tensor forward(const torch::Tensor& x) override { return torch::sinc(conv->forward(x)); }
    torch::nn::Conv2d conv;
  };
  bsconv::Layer model(std::make_shared<NetImpl>(conv));
  model->eval();
  EXPECT_EQ(
      bsconv_test::error_of([&] {
        written(model, torch::zeros({1, 3, 2, 2}));
      }),
      "export_onnx: aten::sinc (operator 2 after 'stem', [1, 4, 2, 2] -> [1, 4, 2, 2]) has no "
      "counterpart in ONNX that export_onnx knows");
}

TEST(ExportOnnx, RefusesWhatItCannotWrite) {
  const struct {
    FunctionImpl::Call call;
    std::string message;
  } cases[] = {
      {[](const torch::Tensor& x) {
         return torch::adaptive_avg_pool2d(x, {3, 3});
       },
       "pools to a size that does not divide the input's"},
      {[](const torch::Tensor& x) {
         return torch::avg_pool2d(x, 2, 2, 0, false, true, /*divisor_override=*/3);
       },
       "has a divisor of its own"},
      {[](const torch::Tensor& x) { return torch::avg_pool2d(x, 4, 2, 1, true, true); },
       "counts its padding and rounds its size up"},
      {[](const torch::Tensor& x) { return torch::max_pool2d(x, 2, 3, 0, 3, true); },
       "rounds its size up beyond a whole kernel of padding"},
      {[](const torch::Tensor& x) {
         return torch::upsample_nearest2d(x, torch::IntArrayRef({7, 10}));
       },
       "takes the nearest of pixels at fractions of a step"},
      {[](const torch::Tensor& x) {
         namespace f = torch::nn::functional;
         return f::interpolate(x, f::InterpolateFuncOptions()
                                      .scale_factor(std::vector<double>{1.5, 2})
                                      .mode(torch::kBilinear)
                                      .align_corners(false));
       },
       "scales 5 pixels by 1.5, which is no whole number; give the size instead"},
      {[](const torch::Tensor& x) {
         return torch::prelu(x, x.mean(torch::IntArrayRef({0, 2, 3})));
       },
       "takes a weight that the model computes from its input"},
      {[](const torch::Tensor& x) {
         return torch::group_norm(x, 2, x.mean(torch::IntArrayRef({0, 2, 3})));
       },
       "takes a weight that the model computes from its input"},
      {[](const torch::Tensor& x) { return torch::gelu(x, "tanh"); },
       "is an approximation of GELU"},
      {[](const torch::Tensor& x) { return torch::elu(x, 1.0, 2.0); }, "has scales other than 1"},
      {[](const torch::Tensor& x) { return torch::softplus(x, 2.0); }, "has a beta other than 1"},
      {[](const torch::Tensor& x) { return torch::div(x, x + 1, "floor"); }, "rounds"},
      {[](const torch::Tensor& x) {
         return torch::batch_norm(x, {}, {}, {}, {}, true, 0.1, 1e-5, false);
       },
       "normalizes with the statistics of the batch"},
      {[](const torch::Tensor& x) { return x + x.to(torch::kDouble); }, "mixes Float and Double"},
      {[](const torch::Tensor& x) { return x.chunk(2, 0)[0]; }, "aten::chunk"},
      {[](const torch::Tensor& x) { return x + torch::rand({1}); }, "draws random numbers"},
      {[](const torch::Tensor& x) { return x * x.sum().item<float>(); }, "can't be written down"},
      {[](const torch::Tensor& x) { return x / static_cast<double>(x.size(0)); },
       "what the model does depends on the batch size; use dynamic_batch(false)"},
      {[](const torch::Tensor& x) { return x.size(0) > 2 ? x : torch::relu(x); },
       "what the model does depends on the batch size; use dynamic_batch(false)"},
      {[](const torch::Tensor& x) {
         return x.view({2, 100});
       },
       "the model does not take 3 images as it takes 2; use dynamic_batch(false). It says: shape"},
  };
  for (const auto& item : cases) {
    bsconv::Layer model = Function(item.call);
    model->eval();
    EXPECT_THAT(bsconv_test::error_of([&] {
                  written(model, torch::ones({2, 4, 5, 5}));
                }),
                HasSubstr(item.message));
  }
}

TEST(ExportOnnx, AShapeThatIsTheSameOnlyForTheExampleIsWritten) {
  bsconv::Layer model = Function([](const torch::Tensor& x) {
    return torch::relu(x).reshape({1, x.size(0), 5, 5});
  });
  model->eval();
  EXPECT_THAT(types_of(written(model, torch::zeros({1, 1, 5, 5}))), ElementsAre("Relu", "Reshape"));
}

TEST(ExportOnnx, AMeanOfAllKeepsItsDimensionsWhereAsked) {
  for (const bool keep : {true, false}) {
    bsconv::Layer model = Function(
        [keep](const torch::Tensor& x) { return x.mean(at::OptionalIntArrayRef(), keep); });
    model->eval();
    const auto file =
        written(model, torch::zeros({1, 2, 3, 3}), OnnxExportOptions().dynamic_batch(false));
    ASSERT_THAT(types_of(file), ElementsAre("ReduceMean"));
    EXPECT_EQ(std::get<int64_t>(file.nodes[0].attributes.at("keepdims")), keep ? 1 : 0);
    EXPECT_EQ(file.outputs[0].sizes.size(), keep ? 4U : 0U);
  }
}

TEST(ExportOnnx, RefusesWrongArguments) {
  bsconv::Layer model = Function([](const torch::Tensor& x) { return torch::relu(x); });
  const auto x = torch::zeros({1, 3});
  EXPECT_EQ(bsconv_test::error_of([&] { written(model, x); }),
            "export_onnx: the model is in training mode; call eval() first");
  model->eval();
  const auto error = [&](const torch::Tensor& example, const OnnxExportOptions& options) {
    return bsconv_test::error_of([&] { written(model, example, options); });
  };
  EXPECT_EQ(error(x, OnnxExportOptions().opset(16)),
            "export_onnx: opset must be from 17 to 21, got 16");
  EXPECT_EQ(error(x, OnnxExportOptions().input_name("y").output_name("y")),
            "export_onnx: input and output need two different names, got 'y' and 'y'");
  EXPECT_EQ(error(x.to(torch::kDouble), {}),
            "export_onnx: the example input must be a float tensor [N, ...] on the CPU, got Double "
            "[1, 3] on cpu");
  EXPECT_THAT(error({}, {}), HasSubstr("got an undefined tensor"));
  EXPECT_EQ(error(x, OnnxExportOptions().model_name("")), "export_onnx: the model needs a name");
  EXPECT_EQ(error(x, OnnxExportOptions().metadata({{"a", "1"}, {"a", "2"}})),
            "export_onnx: the metadata has 'a' twice");
  EXPECT_EQ(error(x, OnnxExportOptions().metadata({{"class_names", "1"}}).class_names({"b"})),
            "export_onnx: the metadata has 'class_names' twice");
  EXPECT_EQ(error(x, OnnxExportOptions().class_names({"a\nb"})),
            "export_onnx: the class name 'a\nb' has a line break");
  EXPECT_THAT(bsconv_test::error_of([&] { bsconv::export_onnx(model, x, "/proc/none/a.onnx"); }),
              HasSubstr("cannot write '/proc/none/a.onnx'"));
}

TEST(ExportOnnx, AModelThatReturnsItsInputIsAnIdentity) {
  bsconv::Layer model =
      Function([](const torch::Tensor& x) { return torch::dropout(x, 0.5, false); });
  model->eval();
  const auto file = written(model, torch::zeros({1, 3}));
  expect_sound(file);
  EXPECT_THAT(types_of(file), ElementsAre("Identity"));
}

TEST(OnnxFile, RefusesWhatIsNoModel) {
  using bsconv::onnx::from_bytes;
  EXPECT_EQ(bsconv_test::error_of([] { from_bytes("", "x"); }),
            "x: no ONNX model: there is no graph");
  EXPECT_THAT(bsconv_test::error_of([] { from_bytes("not a protocol buffer", "x"); }),
              HasSubstr("x: no ONNX model: "));
  // Every shorter part of a good file is read without a fault.
  bsconv::Layer model = Function([](const torch::Tensor& x) { return torch::relu(x + 1.0); });
  model->eval();
  const auto bytes = bsconv::onnx::to_bytes(bsconv::onnx::make_model(
      *model, [&](const torch::Tensor& x) { return model->forward(x); }, torch::zeros({1, 3})));
  EXPECT_EQ(from_bytes(bytes).nodes.size(), 2U);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    bsconv_test::error_of([&] { from_bytes({bytes.data(), size}); });
  }
  const TemporaryDirectory directory;
  EXPECT_THAT(bsconv_test::error_of([&] { bsconv::onnx::load_onnx(directory / "none"); }),
              HasSubstr("does not exist"));
}

TEST(OnnxFile, KeepsDimensionsThatSayNothing) {
  Model model;
  model.inputs = {{"x", 1, {{-1, ""}, {-1, "batch"}, {0, ""}, {4, ""}}}, {"scalar", 1, {}}};
  model.outputs = {{"any shape", 1, {}, false}, {"no tensor", 0, {}, false}};
  const auto bytes = bsconv::onnx::to_bytes(model);
  const auto read = bsconv::onnx::from_bytes(bytes);
  ASSERT_EQ(read.inputs.size(), 2U);
  std::vector<std::pair<int64_t, std::string>> sizes;
  for (const auto& [size, name] : read.inputs[0].sizes) {
    sizes.emplace_back(size, name);
  }
  EXPECT_THAT(sizes, ElementsAre(std::pair(-1, ""), std::pair(-1, "batch"), std::pair(0, ""),
                                 std::pair(4, "")));
  EXPECT_TRUE(read.inputs[1].ranked && read.inputs[1].sizes.empty());
  ASSERT_EQ(read.outputs.size(), 2U);
  EXPECT_TRUE(read.outputs[0].type == 1 && !read.outputs[0].ranked);
  EXPECT_TRUE(read.outputs[1].type == 0 && !read.outputs[1].ranked);
  // A scalar's shape is there, and empty: name, and type { tensor { type, shape {} } }.
  EXPECT_THAT(bytes, HasSubstr(std::string("\n\x06scalar\x12\x06\n\x04\b\x01\x12\0", 16)));
}

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
}  // namespace export_onnx_test
