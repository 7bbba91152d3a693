// SPDX-License-Identifier: BSD-3-Clause-Clear
// ONNX files, read back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/export.hpp>
#include <bsconv/weights.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "support/function.hpp"
#include "support/golden.hpp"
#include "support/layers.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace export_onnx_test {
namespace {

using bsconv::OnnxExportOptions;
using bsconv::onnx::Model;
using bsconv_test::Function;
using bsconv_test::FunctionImpl;
using bsconv_test::TemporaryDirectory;
using testing::ElementsAre;
using testing::HasSubstr;

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

TEST(ExportOnnx, AnEmptyNameKeepsItsClassLine) {
  torch::nn::Sequential model(torch::nn::Linear(4, 3));
  model->eval();
  const auto file =
      written(model, torch::zeros({1, 4}), OnnxExportOptions().class_names({"", "b", ""}));
  EXPECT_THAT(file.metadata, ElementsAre(testing::Pair("class_names", "\nb\n")));
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

}  // namespace
}  // namespace export_onnx_test
