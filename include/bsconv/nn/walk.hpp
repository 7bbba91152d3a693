// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <bsconv/nn/graft.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <unordered_set>

namespace bsconv {

namespace detail {

/// Whether `child` is registered in `module` itself.
inline bool has_child(const torch::nn::Module& module,
                      const std::shared_ptr<torch::nn::Module>& child) {
  const auto children = module.children();
  return std::find(children.begin(), children.end(), child) != children.end();
}

template <class Module, class Visitor>
void walk(Module& module, const std::string& path,
          std::unordered_set<const torch::nn::Module*>& seen, Visitor& visit) {
  if (!seen.insert(&module).second) {
    return;
  }
  visit(module, path);
  const auto substitute = grafted_substitute(module);
  if (substitute != nullptr && !has_child(module, substitute) &&
      seen.insert(substitute.get()).second) {
    visit(static_cast<Module&>(*substitute), path);
  }
  for (const auto& child : module.named_children()) {
    walk(static_cast<Module&>(*child.value()),
         path.empty() ? child.key() : path + "." + child.key(), seen, visit);
  }
}

}  // namespace detail

/// Calls `visit(module, path)` once for `root` and every module below it, parents first, children
/// in registration order. The root's path is empty; a substitute grafted onto a `Conv2d` follows
/// the `Conv2d` with the same path.
///
/// Unlike `Module::modules()` it also takes a module that no `shared_ptr` owns.
template <class Visitor>
void for_each_module(const torch::nn::Module& root, Visitor&& visit) {
  std::unordered_set<const torch::nn::Module*> seen;
  detail::walk<const torch::nn::Module>(root, std::string(), seen, visit);
}

/// The same for a visitor that may change the modules.
template <class Visitor>
void for_each_module(torch::nn::Module& root, Visitor&& visit) {
  std::unordered_set<const torch::nn::Module*> seen;
  detail::walk<torch::nn::Module>(root, std::string(), seen, visit);
}

}  // namespace bsconv
