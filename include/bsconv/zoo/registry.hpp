// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/nn/layer.hpp>
#include <bsconv/util/text.hpp>
#include <bsconv/zoo/model_name.hpp>
#include <bsconv/zoo/model_options.hpp>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace bsconv {

/// Makes a model from its options; what `register_model` takes.
using ModelBuilder = std::function<Layer(const ModelOptions& options)>;

namespace detail {

/// The builders that users have registered, by name.
class ModelRegistry {
 public:
  static ModelRegistry& instance() {
    static ModelRegistry registry;
    return registry;
  }

  void add(const std::string& name, ModelBuilder builder) {
    const std::lock_guard<std::mutex> lock(mutex_);
    TORCH_CHECK_VALUE(builders_.emplace(name, std::move(builder)).second, "register_model: '", name,
                      "' is registered already");
  }

  bool remove(const std::string& name) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return builders_.erase(name) != 0;
  }

  ModelBuilder find(const std::string& name) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = builders_.find(name);
    return found == builders_.end() ? ModelBuilder() : found->second;
  }

  std::vector<std::string> names() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::string> result;
    for (const auto& [name, builder] : builders_) {
      result.push_back(name);
    }
    return result;
  }

 private:
  ModelRegistry() = default;
  mutable std::mutex mutex_;
  std::map<std::string, ModelBuilder> builders_;
};

/// The usual names of the zoo's grammar, which itself is unbounded in widths and factors.
inline std::vector<std::string> usual_model_names() {
  std::vector<std::string> names;
  const auto add_with = [&](const std::string& base, std::initializer_list<const char*> suffixes) {
    for (const char* suffix : suffixes) {
      names.push_back(base + suffix);
    }
  };
  for (const bool cifar : {false, true}) {
    const std::string prefix = cifar ? "cifar_" : "";
    for (const char* family : {"resnet", "preresnet"}) {
      for (const int64_t depth : valid_depths(ModelFamily::resnet, cifar)) {
        add_with(prefix + family + std::to_string(depth),
                 {"", "_bsconvu", "_bsconvs_p1d4", "_bsconvs_p1d8"});
      }
    }
    if (cifar) {
      for (const int64_t depth : valid_depths(ModelFamily::wrn, cifar)) {
        for (const int factor : {1, 2, 3, 4, 6, 8, 10, 12}) {
          add_with("cifar_wrn" + std::to_string(depth) + "_" + std::to_string(factor),
                   {"", "_bsconvu", "_bsconvs_p1d4", "_bsconvs_p1d8"});
        }
      }
    }
    for (const char* width : {"w1", "w3d4", "w1d2", "w1d4"}) {
      add_with(prefix + "mobilenetv1_" + width, {"", "_bsconvu"});
    }
    for (const char* width : {"w1", "w3d4", "w1d2", "w1d4"}) {
      add_with(prefix + "mobilenetv2_" + width, {"", "_bsconvs_p1d6"});
    }
    for (const char* size : {"small", "large"}) {
      for (const char* width : {"w1", "w3d4", "w1d2", "w7d20"}) {
        add_with(prefix + "mobilenetv3_" + size + "_" + width, {"", "_bsconvs_p1d6"});
      }
    }
  }
  return names;
}

}  // namespace detail

/// The names of the zoo that match the shell pattern `pattern` (`*resnet*`), registered ones
/// included. `create_model` also takes widths and factors that are not listed.
inline std::vector<std::string> list_models(const std::string& pattern = "*") {
  std::vector<std::string> result;
  const auto add = [&](const std::vector<std::string>& names) {
    for (const auto& name : names) {
      if (detail::matches(detail::lower(pattern), name)) {
        result.push_back(name);
      }
    }
  };
  add(detail::usual_model_names());
  add(detail::ModelRegistry::instance().names());
  return result;
}

/// What `name` says. Throws `c10::ValueError` if it is no name of the zoo's grammar: which part is
/// wrong, what is valid there, and the nearest known name. See `try_parse_model_name`.
inline ModelName parse_model_name(const std::string& name) {
  detail::ModelNameParser parser(name);
  const auto parsed = parser.parse();
  TORCH_CHECK_VALUE(parsed.has_value(), "model name '", name, "': ", parser.error(),
                    "; the nearest known name is '",
                    detail::nearest(detail::lower(name), list_models()), "'");
  return *parsed;
}

/// Lets `create_model(name)` and `list_models` find a model of your own.
///
/// `name` is taken in lower case. Throws `c10::ValueError` if it is empty, registered already, or
/// a name of the zoo's own grammar.
inline void register_model(const std::string& name, ModelBuilder builder) {
  const std::string key = detail::lower(name);
  TORCH_CHECK_VALUE(!key.empty(), "register_model: the name is empty");
  TORCH_CHECK_VALUE(static_cast<bool>(builder), "register_model: '", name, "' has no builder");
  TORCH_CHECK_VALUE(!try_parse_model_name(key), "register_model: '", name,
                    "' is a name of the zoo; choose another");
  detail::ModelRegistry::instance().add(key, std::move(builder));
}

/// Takes a registered model away again. Returns whether there was one.
inline bool unregister_model(const std::string& name) {
  return detail::ModelRegistry::instance().remove(detail::lower(name));
}

}  // namespace bsconv
