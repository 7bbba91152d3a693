// SPDX-License-Identifier: BSD-3-Clause-Clear
// All models of the reference: parameters, multiply-adds, names, initial weights, logits.
#include <bsconv/bsconv.hpp>
#include <bsconv/plot/csv_table.hpp>

#include <cmath>

#include "support/golden.hpp"

namespace zoo_golden_test {
namespace {

using bsconv_test::golden_lines;

bool is_deep(const std::string& name) {
  return name.find("net302") != std::string::npos || name.find("net602") != std::string::npos;
}

std::vector<nlohmann::json> rows(bool deep, bool cifar) {
  std::vector<nlohmann::json> chosen;
  for (auto& row : golden_lines("models.jsonl")) {
    const auto name = row.at("name").get<std::string>();
    if (is_deep(name) == deep && (name.rfind("cifar_", 0) == 0) == cifar) {
      chosen.push_back(row);
    }
  }
  return chosen;
}

bsconv::Layer make(const nlohmann::json& row) {
  return bsconv::create_model(row.at("name"),
                              bsconv::ModelOptions().num_classes(row.at("num_classes")));
}

void expect_initial_weights(const bsconv::Layer& model, const nlohmann::json& golden) {
  const auto state = bsconv::weights::state_dict(*model);
  std::string lines;
  double sum = 0.0;
  double abs_sum = 0.0;
  for (const auto& item : state) {
    std::string shape;
    for (const int64_t size : item.value().sizes()) {
      shape += (shape.empty() ? "" : ", ") + std::to_string(size);
    }
    lines += (lines.empty() ? "" : "\n") + item.key() + " [" + shape + "]";
    sum += item.value().to(torch::kDouble).sum().item<double>();
    abs_sum += item.value().to(torch::kDouble).abs().sum().item<double>();
  }
  EXPECT_EQ(state.size(), golden.at("n").get<std::size_t>());
  EXPECT_EQ(bsconv_test::sha256(lines), golden.at("keys_sha256").get<std::string>());
  const double tolerance = 1e-6 * golden.at("abs_sum").get<double>();
  bsconv_test::expect_close(sum, golden.at("sum"), tolerance, "sum of the initial weights");
  bsconv_test::expect_close(abs_sum, golden.at("abs_sum"), tolerance, "their absolute sum");
}

void expect_logits(bsconv::Layer& model, const nlohmann::json& row) {
  bsconv_test::fill(*model, 2);
  model->eval();
  torch::manual_seed(3);
  auto shape = row.at("input").get<std::vector<int64_t>>();
  shape[0] = 2;
  torch::NoGradGuard no_grad;
  const auto logits = model->forward(torch::randn(shape));
  // Activations of the deepest networks grow to 1e35 and rounding with them: on other processors
  // than the golden values are from, the Python package itself drifts this far.
  const auto name = row.at("name").get<std::string>();
  const bool drifts = is_deep(name) || name.find("net110") != std::string::npos;
  bsconv_test::expect_tensor(logits, row.at("logits"), "", drifts ? 1e-2 : 1e-4);
  if (!row.at("logits").at("sum").is_null()) {
    const auto argmax = row.at("logits").at("argmax").get<std::vector<int64_t>>();
    EXPECT_EQ(logits.argmax(1)[0].item<int64_t>(), argmax[0]);
    EXPECT_EQ(logits.argmax(1)[1].item<int64_t>(), argmax[1]);
  }
  EXPECT_EQ(bsconv::has_regularization(*model), row.contains("reg_loss_alpha0.1"));
  if (row.contains("reg_loss_alpha0.1")) {
    const double golden = row.at("reg_loss_alpha0.1");
    EXPECT_NEAR(bsconv::regularization_loss(*model, 0.1).item<double>(), golden, 1e-4 * golden);
  }
}

void expect_models(bool deep, bool cifar, std::size_t at_least) {
  torch::set_num_threads(1);
  const auto models = rows(deep, cifar);
  ASSERT_GE(models.size(), at_least);
  for (const auto& row : models) {
    SCOPED_TRACE(row.at("name").get<std::string>());
    torch::manual_seed(1);
    auto model = make(row);
    expect_initial_weights(model, row.at("init_seed1"));
    const auto profile =
        bsconv::profile(model, torch::zeros(row.at("input").get<std::vector<int64_t>>()));
    EXPECT_EQ(profile.parameters(), row.at("params").get<int64_t>());
    EXPECT_EQ(profile.flops(), row.at("flops").get<int64_t>());
    expect_logits(model, row);
  }
}

TEST(ZooGoldenImageNet, EqualsTheReference) { expect_models(false, false, 50); }
TEST(ZooGoldenCifar, EqualsTheReference) { expect_models(false, true, 100); }
TEST(ZooGoldenDeep, EqualsTheReference) { expect_models(true, true, 15); }

TEST(ZooGoldenCuda, LogitsEqualTheReference) {
  if (!torch::cuda::is_available()) {
    GTEST_SKIP() << "there is no CUDA device";
  }
  torch::globalContext().setAllowTF32CuDNN(false);
  for (const auto& row : rows(false, true)) {
    const auto name = row.at("name").get<std::string>();
    SCOPED_TRACE(name);
    // In deep networks with these weights values grow to 1e25, and rounding with them.
    const double tolerance = name.find("110") == std::string::npos ? 1e-3 : 1e-2;
    auto model = make(row);
    bsconv_test::fill(*model, 2);
    model->eval();
    model->to(torch::kCUDA);
    torch::manual_seed(3);
    torch::NoGradGuard no_grad;
    const auto logits = model->forward(torch::randn({2, 3, 32, 32}).to(torch::kCUDA));
    bsconv_test::expect_tensor(logits, row.at("logits"), "", tolerance);
  }
}

TEST(ZooGoldenResults, CostsEqualThePublishedOnes) {
  torch::set_num_threads(1);
  const auto results = bsconv::plot::CsvTable::read(BSCONV_MODELS_DIR "/results.csv");
  const auto datasets = results.texts("dataset");
  const auto models = results.texts("model");
  const auto parameters = results.numbers("params");
  const auto flops = results.numbers("flops");
  const auto published_parameters = results.numbers("params_M");
  const auto published_flops = results.numbers("flops_M");
  // In units of the published numbers' last digit.
  const auto hundredths = [](double millions) { return std::llround(100 * millions); };
  for (std::size_t row = 0; row < results.size(); ++row) {
    SCOPED_TRACE(models[row]);
    auto model = bsconv::create_model(
        models[row], bsconv::ModelOptions().num_classes(datasets[row] == "cifar10" ? 10 : 100));
    const auto profile = bsconv::profile(model, torch::zeros({1, 3, 32, 32}));
    EXPECT_EQ(static_cast<double>(profile.parameters()), parameters[row]);
    EXPECT_EQ(static_cast<double>(profile.flops()), flops[row]);
    EXPECT_EQ(hundredths(static_cast<double>(profile.parameters()) / 1e6),
              hundredths(published_parameters[row]));
    EXPECT_EQ(hundredths(static_cast<double>(profile.flops()) / 1e6),
              hundredths(published_flops[row]));
  }
  EXPECT_EQ(results.size(), 211U);
}

}  // namespace
}  // namespace zoo_golden_test
