// SPDX-License-Identifier: BSD-3-Clause-Clear
// Golden files of the Python reference, and the weights they were made with.
#pragma once

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <torch/torch.h>
#include <bsconv/weights/state_dict.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace bsconv_test {

/// The lines of a golden file. Python writes NaN bare, which is no JSON: it becomes null.
inline std::vector<nlohmann::json> golden_lines(const std::string& name) {
  std::ifstream file(std::string(BSCONV_TEST_DATA_DIR "/") + name);
  EXPECT_TRUE(file) << "tests/golden/" << name << " is missing";
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(file, line);) {
    for (std::size_t at = 0; (at = line.find("NaN", at)) != std::string::npos;) {
      line.replace(at, 3, "null");
    }
    lines.push_back(nlohmann::json::parse(line));
  }
  return lines;
}

/// The reference's deterministic weights: one generator over the sorted names.
inline void fill(torch::nn::Module& module, uint64_t seed) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(seed);
  std::vector<std::pair<std::string, torch::Tensor>> tensors;
  for (const auto& item : bsconv::weights::state_dict(module)) {
    tensors.emplace_back(item.key(), item.value());
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  const auto ends_with = [](const std::string& text, const std::string& end) {
    return text.size() >= end.size() &&
           text.compare(text.size() - end.size(), end.size(), end) == 0;
  };
  for (auto& [name, tensor] : tensors) {
    if (ends_with(name, "num_batches_tracked")) {
      tensor.zero_();
      continue;
    }
    const auto noise = torch::randn(tensor.sizes());
    if (ends_with(name, "running_var")) {
      tensor.copy_(1 + 0.1 * noise.abs());
    } else if (ends_with(name, "running_mean")) {
      tensor.copy_(0.1 * noise);
    } else if (tensor.dim() > 1) {
      const auto fan_in = static_cast<double>(tensor.numel()) / static_cast<double>(tensor.size(0));
      tensor.copy_(noise * std::sqrt(2.0 / fan_in));
    } else if (ends_with(name, "weight")) {
      tensor.copy_(1 + 0.1 * noise);
    } else {
      tensor.copy_(0.1 * noise);
    }
  }
}

/// The SHA-256 of `text` in hexadecimal digits.
inline std::string sha256(const std::string& text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(text.data(), text.size(), digest, &size, EVP_sha256(), nullptr);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) {
    static constexpr char digits[] = "0123456789abcdef";
    hex += digits[digest[i] >> 4];
    hex += digits[digest[i] & 15];
  }
  return hex;
}

/// Expects `value` to be `golden` within `tolerance`, or both to be NaN (null in the file).
inline void expect_close(double value, const nlohmann::json& golden, double tolerance,
                         const std::string& what) {
  if (golden.is_null()) {
    EXPECT_TRUE(std::isnan(value)) << what << " is " << value << " instead of NaN";
  } else {
    EXPECT_LE(std::abs(value - golden.get<double>()), tolerance)
        << what << " is " << value << " instead of " << golden;
  }
}

/// Expects the sum, absolute sum and first values of `tensor` to be the golden ones, to `tolerance`
/// times the mean magnitude. `prefix` begins the names of the fields.
inline void expect_tensor(const torch::Tensor& tensor, const nlohmann::json& golden,
                          const std::string& prefix, double tolerance = 1e-4) {
  const auto values = tensor.detach().cpu().to(torch::kDouble).flatten();
  const auto& total = golden.at(prefix + "abs_sum");
  const double mean =
      total.is_null() ? 1.0 : total.get<double>() / static_cast<double>(values.numel());
  const auto count = static_cast<double>(values.numel());
  expect_close(values.sum().item<double>(), golden.at(prefix + "sum"), tolerance * mean * count,
               "sum");
  expect_close(values.abs().sum().item<double>(), total, tolerance * mean * count, "absolute sum");
  const auto& first = golden.at(prefix + "first8");
  for (std::size_t i = 0; i < first.size(); ++i) {
    expect_close(values[static_cast<int64_t>(i)].item<double>(), first[i], tolerance * mean,
                 "value " + std::to_string(i));
  }
}

/// The message of the exception that `call` throws, without its backtrace.
template <class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "(nothing was thrown)";
}

}  // namespace bsconv_test
