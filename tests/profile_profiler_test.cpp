// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/bsconv.hpp>
#include <bsconv/profile/json.hpp>

#include "support/golden.hpp"

namespace profile_profiler_test {
namespace {

using bsconv::Convention;
using bsconv::ProfileOptions;
using bsconv::ProfileTableOptions;
using bsconv_test::message_of;

/// Typed members and functional operators, as users write them.
struct PlainImpl : torch::nn::Module {
  torch::nn::Conv2d conv1 =
      register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 16, 3).padding(1)));
  torch::nn::BatchNorm2d bn1 = register_module("bn1", torch::nn::BatchNorm2d(16));
  torch::nn::ReLU relu = register_module("relu", torch::nn::ReLU());
  torch::nn::MaxPool2d pool = register_module("pool", torch::nn::MaxPool2d(2));
  torch::nn::Conv2d conv2 = register_module(
      "conv2",
      torch::nn::Conv2d(torch::nn::Conv2dOptions(16, 32, 3).stride(2).padding(1).bias(false)));
  torch::nn::Linear fc = register_module("fc", torch::nn::Linear(32, 10));
  torch::nn::Linear last =
      register_module("last", torch::nn::Linear(torch::nn::LinearOptions(10, 4).bias(false)));
  torch::Tensor calls = register_buffer("calls", torch::zeros({1}));
  bool fails = false;

  torch::Tensor forward(torch::Tensor x) {
    calls.add_(1);
    x = pool(relu(bn1(conv1(x))));
    x = torch::relu(conv2(x));
    TORCH_CHECK(!fails, "the model's own error");
    return last(fc(x.mean({2, 3}))).softmax(1);
  }
};
TORCH_MODULE(Plain);

const bsconv::ProfileRow& row_of(const bsconv::Profile& profile, const std::string& path) {
  for (const auto& row : profile.rows) {
    if (row.path == path) {
      return row;
    }
  }
  throw std::logic_error("no row " + path);
}

constexpr int64_t conv1_flops = 16 * 1024 * 27 + 16 * 1024;
constexpr int64_t conv2_flops = 64 * 16 * 9 * 32;

TEST(Profiler, CountsByTheReferenceConvention) {
  Plain net;
  const auto profile = bsconv::profile(net, torch::zeros({1, 3, 32, 32}));
  EXPECT_EQ(row_of(profile, "conv1").total.flops, conv1_flops);
  EXPECT_EQ(row_of(profile, "bn1").total.flops, 2 * 16 * 1024);
  EXPECT_EQ(row_of(profile, "relu").total.flops, 16 * 1024);
  EXPECT_EQ(row_of(profile, "pool").total.flops, 16 * 1024);
  EXPECT_EQ(row_of(profile, "conv2").total.flops, conv2_flops);
  EXPECT_EQ(row_of(profile, "fc").total.flops, 32 * 10 + 10);
  EXPECT_EQ(row_of(profile, "last").total.flops, 10 * 4);
  EXPECT_EQ(row_of(profile, "").own.flops, 32 * 64);
  EXPECT_EQ(profile.flops(), conv1_flops + 4 * 16 * 1024 + conv2_flops + 330 + 40 + 32 * 64);
  EXPECT_EQ(profile.parameters(), bsconv::parameter_count(*net));
  EXPECT_EQ(profile.uncounted.count("mean"), 1U);
  EXPECT_EQ(profile.uncounted.count("softmax"), 1U);
}

TEST(Profiler, CountsEveryOperatorByTheCompleteConvention) {
  Plain net;
  const auto reference = bsconv::profile(net, torch::zeros({1, 3, 32, 32}));
  const auto complete = bsconv::profile(net, ProfileOptions().convention(Convention::complete),
                                        torch::zeros({1, 3, 32, 32}));
  // The mean reads 32 x 64 values, the softmax takes three an element, the counter adds once.
  EXPECT_EQ(complete.flops(), reference.flops() + 32 * 64 + 3 * 4 + 1);
  EXPECT_TRUE(complete.uncounted.empty());
}

TEST(Profiler, KnowsShapesKindsAndMemory) {
  Plain net;
  const auto profile = bsconv::profile(net, torch::zeros({2, 3, 32, 32}));
  EXPECT_EQ(row_of(profile, "conv2").info, "3x3");
  EXPECT_EQ(row_of(profile, "conv2").type, "Conv2d");
  EXPECT_EQ(row_of(profile, "conv2").input_shape, (std::vector<int64_t>{2, 16, 16, 16}));
  EXPECT_EQ(row_of(profile, "conv2").output_shape, (std::vector<int64_t>{2, 32, 8, 8}));
  EXPECT_EQ(row_of(profile, "fc").input_shape, (std::vector<int64_t>{2, 32}));
  EXPECT_EQ(row_of(profile, "conv1").total.activation_bytes, 2 * 16 * 1024 * 4);
  EXPECT_GE(profile.peak_activation_bytes, 2 * 2 * 16 * 1024 * 4);
  EXPECT_LT(profile.peak_activation_bytes, profile.total().activation_bytes);
  EXPECT_EQ(row_of(profile, "").output_shape, (std::vector<int64_t>{2, 4}));
}

TEST(Profiler, SeesInsideReplacedLayers) {
  Plain net;
  bsconv::replace_with_bsconv_u(net);
  const auto profile = bsconv::profile(net, torch::zeros({1, 3, 32, 32}));
  EXPECT_EQ(row_of(profile, "conv1").info, "3x3 replaced");
  EXPECT_EQ(row_of(profile, "conv1.pw").info, "1x1 PW");
  EXPECT_EQ(row_of(profile, "conv1.pw").total.flops, 3 * 16 * 1024);
  EXPECT_EQ(row_of(profile, "conv1.dw").info, "3x3 DW");
  EXPECT_EQ(row_of(profile, "conv1").total.flops, 3 * 16 * 1024 + 16 * 1024 * 9 + 16 * 1024);
  EXPECT_EQ(row_of(profile, "conv1").own.flops, 0);
  EXPECT_EQ(row_of(profile, "").own.flops, 32 * 64);
}

struct TypedImpl : torch::nn::Module {
  torch::nn::Conv2d conv =
      register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(8, 8, 3).padding(1)));
  torch::Tensor forward(const torch::Tensor& x) { return conv(x); }
};
TORCH_MODULE(Typed);

TEST(Profiler, CountsWhatWasGraftedWholeToo) {
  Typed net;
  bsconv::graft(*net->conv, torch::nn::AnyModule(torch::nn::Conv2d(
                                torch::nn::Conv2dOptions(8, 8, 3).padding(1).groups(4))));
  const auto profile = bsconv::profile(net, torch::zeros({1, 8, 5, 5}));
  EXPECT_EQ(profile.parameters(), bsconv::parameter_count(*net));
  EXPECT_EQ(profile.parameters(), 8 * 2 * 9 + 8);
  EXPECT_EQ(profile.flops(), (8 * 2 * 9 + 8) * 25);
}

struct OwnLinearImpl : torch::nn::LinearImpl {
  using torch::nn::LinearImpl::LinearImpl;
};
TORCH_MODULE(OwnLinear);

TEST(Profiler, ALinearLayerOfAnotherNameIsOne) {
  torch::nn::Sequential plain(torch::nn::Linear(6, 4));
  torch::nn::Sequential derived(OwnLinear(6, 4));
  const auto x = torch::zeros({2, 6});
  const auto expected = bsconv::profile(plain, x);
  EXPECT_GT(expected.flops(), 0);
  EXPECT_EQ(bsconv::profile(derived, x).flops(), expected.flops());
}

TEST(Profiler, LeavesTheModelAsItWas) {
  Plain net;
  net->train();
  net->bn1->eval();
  net->conv1->weight.mutable_grad() = torch::ones_like(net->conv1->weight);
  const auto mean = net->bn1->running_mean.clone();
  torch::manual_seed(5);
  const auto expected = torch::randn({3});
  const auto check = [&] {
    EXPECT_TRUE(net->is_training());
    EXPECT_TRUE(net->conv1->is_training());
    EXPECT_FALSE(net->bn1->is_training());
    EXPECT_TRUE(torch::equal(net->bn1->running_mean, mean));
    EXPECT_EQ(net->calls.item<double>(), 0.0);
    EXPECT_TRUE(torch::equal(net->conv1->weight.grad(), torch::ones_like(net->conv1->weight)));
    EXPECT_FALSE(net->conv2->weight.grad().defined());
    EXPECT_TRUE(torch::GradMode::is_enabled());
  };
  torch::manual_seed(5);
  bsconv::profile(net, ProfileOptions().timed_runs(2), torch::zeros({2, 3, 32, 32}));
  EXPECT_TRUE(torch::equal(torch::randn({3}), expected));
  check();
  net->fails = true;
  EXPECT_NE(message_of([&] {
              bsconv::profile(net, torch::zeros({2, 3, 32, 32}));
            }).find("the model's own error"),
            std::string::npos);
  check();
  net->fails = false;
  EXPECT_TRUE(net->forward(torch::zeros({2, 3, 32, 32})).requires_grad());
  EXPECT_NE(message_of([&] {
              bsconv::profile(net, ProfileOptions().timed_runs(-1), torch::zeros({1, 3, 32, 32}));
            }).find("timed_runs must be at least 0, got -1"),
            std::string::npos);
}

TEST(Profiler, TimesEachModule) {
  Plain net;
  const auto profile =
      bsconv::profile(net, ProfileOptions().timed_runs(3), torch::zeros({4, 3, 32, 32}));
  EXPECT_GT(row_of(profile, "conv1").total.seconds, 0.0);
  EXPECT_GE(profile.total().seconds, row_of(profile, "conv1").total.seconds);
  EXPECT_EQ(profile.flops(), bsconv::profile(net, torch::zeros({4, 3, 32, 32})).flops());
}

TEST(ProfileTable, ShowsWhatIsAsked) {
  auto model =
      bsconv::create_model("cifar_resnet20_bsconvu", bsconv::ModelOptions().num_classes(100));
  const auto profile = bsconv::profile(model, torch::zeros({1, 3, 32, 32}));
  const auto table = bsconv::to_table(profile, ProfileTableOptions().depth(2));
  EXPECT_NE(table.find("backbone.stage1"), std::string::npos);
  EXPECT_EQ(table.find("backbone.stage1.unit1"), std::string::npos);
  EXPECT_NE(table.find("7,856,484"), std::string::npos);
  EXPECT_NE(table.find("Counted as 0 FLOPs: add (9x)"), std::string::npos);
  EXPECT_NE(bsconv::to_table(profile, ProfileTableOptions().human_readable(true)).find("7.86 M"),
            std::string::npos);
  const auto total_alone = bsconv::to_csv(profile, ProfileTableOptions().depth(0));
  EXPECT_EQ(total_alone,
            "Module,Type,Info,In Shape,Out Shape,Params,FLOPs,Activation Bytes\n"
            "Total,Network,,1x3x32x32,1x100,46570,7856484," +
                std::to_string(profile.total().activation_bytes) + "\n");
  const auto sorted = bsconv::to_csv(
      profile, ProfileTableOptions().depth(2).order(bsconv::ProfileOrder::parameters));
  EXPECT_LT(sorted.find("backbone.stage3"), sorted.find("backbone.stage2"));
  EXPECT_LT(sorted.find("backbone.stage2"), sorted.find("backbone.data_bn"));
  const auto markdown = bsconv::to_markdown(profile, ProfileTableOptions().depth(1));
  EXPECT_EQ(markdown.rfind("| Module | Type | Info |", 0), 0U);
  EXPECT_NE(markdown.find("| --- | --- | --- | --- | --- | ---: |"), std::string::npos);
  EXPECT_NE(message_of([&] {
              bsconv::to_table(profile, ProfileTableOptions().depth(-1));
            }).find("depth must be at least 0, got -1"),
            std::string::npos);
}

TEST(ProfileTable, RowsAddUpToTheTotal) {
  auto model = bsconv::create_model("cifar_mobilenetv3_small_w1");
  const auto profile = bsconv::profile(model, ProfileOptions().convention(Convention::complete),
                                       torch::zeros({1, 3, 32, 32}));
  for (const int64_t depth : {1, 2, 3, 100}) {
    int64_t flops = 0;
    int64_t parameters = 0;
    for (const auto& row :
         bsconv::detail::visible_rows(profile, ProfileTableOptions().depth(depth))) {
      flops += row.total.flops;
      parameters += row.total.parameters;
    }
    EXPECT_EQ(flops, profile.flops()) << depth;
    EXPECT_EQ(parameters, profile.parameters()) << depth;
  }
}

TEST(ProfileJson, HasTheDocumentedKeys) {
  Plain net;
  const auto json =
      bsconv::to_json(bsconv::profile(net, torch::zeros({1, 3, 32, 32})), "plain \"net\"");
  const auto read = nlohmann::json::parse(json.dump());
  EXPECT_EQ(read.at("model"), "plain \"net\"");
  EXPECT_EQ(read.at("params").get<int64_t>(), bsconv::parameter_count(*net));
  EXPECT_EQ(read.at("convention"), "reference");
  EXPECT_FALSE(read.contains("seconds"));
  ASSERT_EQ(read.at("modules").size(), 8U);
  EXPECT_EQ(read.at("modules")[1].at("name"), "conv1");
  EXPECT_EQ(read.at("modules")[1].at("flops").get<int64_t>(), conv1_flops);
}

TEST(OperatorCapture, SeesOperatorsOnceAndOnlyWhileItLives) {
  struct Names : bsconv::OperatorObserver {
    std::vector<std::string> names;
    bool looks_inside(const c10::OperatorHandle& op, const std::vector<c10::IValue>&) override {
      return op.schema().name() == "aten::linear";
    }
    void ran(const bsconv::OperatorCall& call) override {
      names.push_back(call.op.schema().name());
      EXPECT_FALSE(call.outputs.empty());
    }
  } observer;
  const auto x = torch::ones({2, 2});
  {
    const bsconv::OperatorCapture capture(observer);
    torch::relu(x);
    torch::conv2d(torch::ones({1, 1, 2, 2}), torch::ones({1, 1, 1, 1}));
  }
  torch::sigmoid(x);
  const auto count = [&](const char* name) {
    return std::count(observer.names.begin(), observer.names.end(), name);
  };
  EXPECT_EQ(count("aten::relu"), 1);
  EXPECT_EQ(count("aten::conv2d"), 1);
  EXPECT_EQ(count("aten::convolution"), 0);
  EXPECT_EQ(count("aten::sigmoid"), 0);
}

}  // namespace
}  // namespace profile_profiler_test
