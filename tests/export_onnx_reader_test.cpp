// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <bsconv/export.hpp>
#include <bsconv/nn/layer.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "support/function.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace export_onnx_reader_test {
namespace {

using bsconv::onnx::Model;
using bsconv_test::Function;
using bsconv_test::TemporaryDirectory;
using testing::ElementsAre;
using testing::HasSubstr;

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

}  // namespace
}  // namespace export_onnx_reader_test
