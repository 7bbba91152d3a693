// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/zoo.hpp>

#include <algorithm>
#include <set>
#include <thread>

#include "support/golden.hpp"

namespace zoo_registry_test {
namespace {

using bsconv::create_model;
using bsconv::Layer;
using bsconv::list_models;
using bsconv::ModelOptions;
using bsconv::register_model;
using bsconv::unregister_model;
using bsconv_test::message_of;

struct TinyImpl : bsconv::LayerImpl {
  explicit TinyImpl(const ModelOptions& options)
      : fc(register_module("fc", torch::nn::Linear(options.in_channels(), options.num_classes()))) {
  }
  torch::Tensor forward(const torch::Tensor& x) override { return fc(x.mean({2, 3})); }
  torch::nn::Linear fc;
};

Layer tiny(const ModelOptions& options) { return std::make_shared<TinyImpl>(options); }

/// Registers models that are gone again after the test.
class ZooRegistry : public testing::Test {
 protected:
  void add(const std::string& name, bsconv::ModelBuilder builder = tiny) {
    register_model(name, std::move(builder));
    names_.push_back(name);
  }
  void TearDown() override {
    for (const auto& name : names_) {
      EXPECT_TRUE(unregister_model(name));
    }
  }

 private:
  std::vector<std::string> names_;
};

TEST_F(ZooRegistry, BuildsAUsersModel) {
  add("My_Tiny_Net");
  auto model = create_model("my_TINY_net",
                            ModelOptions().num_classes(4).in_channels(2).dtype(torch::kDouble));
  EXPECT_EQ(model->forward(torch::ones({3, 2, 5, 5}, torch::kDouble)).sizes().vec(),
            (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(list_models("*tiny*"), std::vector<std::string>{"my_tiny_net"});
  EXPECT_EQ(list_models("MY_*"), std::vector<std::string>{"my_tiny_net"});
}

TEST_F(ZooRegistry, IsNamedInErrors) {
  add("my_tiny_net");
  EXPECT_NE(message_of([] {
              create_model("my_tiny_ned");
            }).find("the nearest known name is 'my_tiny_net'"),
            std::string::npos);
}

TEST_F(ZooRegistry, RefusesWhatCanNotBeRegistered) {
  add("my_tiny_net");
  const auto expect = [](auto&& call, const char* part) {
    const auto message = message_of(call);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect([] { register_model("MY_tiny_net", tiny); }, "is registered already");
  expect([] { register_model("", tiny); }, "the name is empty");
  expect([] { register_model("other", bsconv::ModelBuilder()); }, "'other' has no builder");
  expect([] { register_model("CIFAR_resnet20", tiny); }, "is a name of the zoo; choose another");
  EXPECT_EQ(list_models("other").size(), 0U);
  EXPECT_FALSE(unregister_model("other"));
}

TEST_F(ZooRegistry, ReportsBuildersThatFail) {
  add("my_empty_net", [](const ModelOptions&) -> Layer { return nullptr; });
  add("my_failing_net", [](const ModelOptions&) -> Layer { throw std::logic_error("no GPU"); });
  EXPECT_NE(message_of([] {
              create_model("my_empty_net");
            }).find("the builder of 'my_empty_net' returned no model"),
            std::string::npos);
  EXPECT_EQ(message_of([] { create_model("my_failing_net"); }), "no GPU");
  EXPECT_NE(message_of([] {
              create_model("my_empty_net", ModelOptions().num_classes(-1));
            }).find("num_classes must be at least 1"),
            std::string::npos);
}

TEST_F(ZooRegistry, TakesRegistrationsFromManyThreads) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 20; ++i) {
        register_model("thread_" + std::to_string(t) + "_" + std::to_string(i), tiny);
        list_models("thread_*");
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  const auto names = list_models("thread_*");
  EXPECT_EQ(names.size(), 80U);
  for (const auto& name : names) {
    EXPECT_TRUE(unregister_model(name));
  }
}

TEST(ListModels, ListsEachNameOnceInTheReferencesSpelling) {
  const auto names = list_models();
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
  int64_t golden = 0;
  for (const auto& row : bsconv_test::golden_lines("models.jsonl")) {
    const auto name = row.at("name").get<std::string>();
    golden += std::find(names.begin(), names.end(), name) != names.end() ? 1 : 0;
  }
  EXPECT_GT(golden, 130);
  EXPECT_EQ(list_models("mobilenetv1_w1*").size(), 6U);
  EXPECT_EQ(list_models("cifar_wrn16_4").size(), 1U);
  EXPECT_EQ(list_models("[cm]*_w3d4").size(), 8U);
  EXPECT_TRUE(list_models("").empty());
}

}  // namespace
}  // namespace zoo_registry_test
