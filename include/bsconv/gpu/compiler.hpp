// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/gpu/depthwise_source.hpp>
#include <bsconv/gpu/geometry.hpp>
#include <bsconv/gpu/kernel_source.hpp>
#include <bsconv/gpu/normalization_source.hpp>
#include <bsconv/gpu/operation.hpp>
#include <bsconv/gpu/pointwise_source.hpp>
#include <bsconv/gpu/runtime.hpp>

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::gpu {

/// The text that the definitions of all kernels follow.
inline std::string whole_source() {
  return std::string(kernel_source) + normalization_source + depthwise_source + pointwise_source;
}

/// Compiles kernels, each only once, and remembers which of several ways was the fastest.
class Compiler {
 public:
  /// For `runtime`.
  explicit Compiler(std::shared_ptr<Runtime> runtime) : runtime_(std::move(runtime)) {}

  /// The runtime.
  Runtime& runtime() { return *runtime_; }

  /// Fills in the kernels of `launches`, for elements of `dtype`; those that are new are compiled
  /// together.
  void compile(const std::vector<Launch*>& launches, torch::ScalarType dtype) {
    const std::lock_guard lock(mutex_);
    const auto element = element_name(dtype);
    auto source = whole_source();
    std::vector<std::string> names;
    std::vector<std::string> keys;
    for (const Launch* launch : launches) {
      const auto key = launch->text.define("k", element);
      if (kernels_.emplace(key, nullptr).second) {
        // The same text whatever was compiled before, so that it is found in a cache.
        names.push_back("bsconv_" + std::to_string(names.size()));
        keys.push_back(key);
        source += launch->text.define(names.back(), element);
      }
    }
    if (!names.empty()) {
      try {
        const auto compiled = runtime_->compile(source, names);
        for (std::size_t i = 0; i < keys.size(); ++i) {
          kernels_[keys[i]] = compiled[i];
        }
      } catch (...) {
        for (const auto& key : keys) {
          kernels_.erase(key);
        }
        throw;
      }
    }
    for (Launch* launch : launches) {
      launch->kernel = kernels_.at(launch->text.define("k", element));
    }
  }

  /// The fastest of the ways that `key` stands for; `time` says how long a way takes.
  template <class Time>
  std::size_t fastest(const std::string& key, std::size_t ways, Time&& time) {
    const std::lock_guard lock(mutex_);
    const auto known = choices_.find(key);
    if (known != choices_.end()) {
      return known->second;
    }
    std::size_t best = 0;
    double least = 0;
    for (std::size_t way = 0; ways > 1 && way < ways; ++way) {
      const double seconds = time(way);
      if (way == 0 || seconds < least) {
        least = seconds;
        best = way;
      }
    }
    choices_.emplace(key, best);
    return best;
  }

 private:
  std::shared_ptr<Runtime> runtime_;
  std::mutex mutex_;
  std::map<std::string, Kernel> kernels_;
  std::map<std::string, std::size_t> choices_;
};

}  // namespace bsconv::gpu
