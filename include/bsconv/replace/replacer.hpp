// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/modules/container/moduledict.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/types.h>
#include <bsconv/nn/composite.hpp>
#include <bsconv/nn/convert.hpp>
#include <bsconv/nn/describe.hpp>
#include <bsconv/nn/graft.hpp>
#include <bsconv/replace/report.hpp>
#include <bsconv/util/rng_guard.hpp>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <typeinfo>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace bsconv {

/// Which modules to replace, and by what.
struct ReplacementRule {
  /// Whether to replace `module`, which stands at `path` in the model.
  std::function<bool(const torch::nn::Module& module, const std::string& path)> filter;
  /// Makes the replacement, which maps one tensor to one tensor. Dtype, device and mode of the
  /// module it replaces are given to it afterwards.
  std::function<torch::nn::AnyModule(const torch::nn::Module& module, const std::string& path)>
      transformer;
  /// Why a module that `filter` accepts stays as it is nevertheless, with a row in the report;
  /// empty if it is replaced. Optional.
  std::function<std::string(const torch::nn::Module& module, const std::string& path)> keep = {};
  /// Completes the row of a module that `filter` accepts, which is still in its place. Optional.
  std::function<void(Replacement& row, const torch::nn::Module& module)> annotate = {};
};

/// Applies rules to a model, in place.
///
/// The model is tried first, then the modules below it, parents before children; the first rule
/// whose filter accepts a module wins, and what was replaced is not searched further; what is kept
/// is.
///
/// A `Sequential` and a `ChildHost` (every block of this library) get the new module itself. A
/// `Conv2d` anywhere else (a typed member, a `ModuleList`, a `ModuleDict`, an `AnyModule`), or one
/// of a derived class, stays where it is and computes what the new module computes (see `graft`).
/// Other modules are exchanged in a `ModuleList` or `ModuleDict`, and refused where only a typed
/// member holds them.
class Replacer {
 public:
  /// A replacer with `rules`, tried in order.
  explicit Replacer(std::vector<ReplacementRule> rules = {}) : rules_(std::move(rules)) {
    for (const auto& rule : rules_) {
      check(rule);
    }
  }

  /// Appends a rule.
  Replacer& add_rule(ReplacementRule rule) {
    check(rule);
    rules_.push_back(std::move(rule));
    return *this;
  }

  /// Replaces what the rules match in `model` and reports it. All replacements are made before the
  /// first takes its place: if a rule throws, the model stays as it was. With `dry_run` nothing
  /// changes, the random generators included.
  ReplacementReport apply(torch::nn::Module& model, bool dry_run = false) const {
    Run run{*this, {}, {}, {}, {}, {}, {}};
    run.report.dry_run = dry_run;
    run.report.parameters_before = parameter_count(model);
    const auto work = [&] {
      if (!run.try_root(model)) {
        run.search(model, "");
      }
    };
    if (dry_run) {
      const RngGuard rng;
      work();
      run.report.parameters_after = run.report.parameters_before;
      for (const auto& row : run.report.rows) {
        if (row.is_replaced()) {
          run.report.parameters_after += row.parameters_after - row.parameters_before;
        }
      }
    } else {
      work();
      for (const auto& place : run.placements) {
        place();
      }
      run.report.parameters_after = parameter_count(model);
    }
    return std::move(run.report);
  }

 private:
  static void check(const ReplacementRule& rule) {
    TORCH_CHECK_VALUE(rule.filter && rule.transformer,
                      "Replacer: a rule needs both a filter and a transformer");
  }

  struct Run {
    const Replacer& replacer;
    ReplacementReport report;
    std::unordered_map<const torch::nn::Module*, torch::nn::AnyModule> replaced;
    std::unordered_set<const torch::nn::Module*> grafted;
    std::unordered_set<const torch::nn::Module*> kept;
    std::unordered_set<const torch::nn::Module*> searched;
    // What puts the new modules in their places.
    std::vector<std::function<void()>> placements;

    bool is_grafted(const torch::nn::Module& module) const {
      return grafted_substitute(module) != nullptr || grafted.count(&module) != 0;
    }

    const ReplacementRule* match(const torch::nn::Module& module, const std::string& path) const {
      for (const auto& rule : replacer.rules_) {
        if (rule.filter(module, path)) {
          return &rule;
        }
      }
      return nullptr;
    }

    torch::nn::AnyModule make(const ReplacementRule& rule, const torch::nn::Module& module,
                              const std::string& path) const {
      torch::nn::AnyModule made = rule.transformer(module, path);
      TORCH_CHECK_VALUE(!made.is_empty(), "Replacer: the transformer returned no module for '",
                        path, "' (", describe(module), ")");
      const auto pointer = made.ptr();
      for (const auto& parameter : module.parameters()) {
        detail::convert(*pointer, parameter.device(), parameter.scalar_type());
        break;
      }
      pointer->train(module.is_training());
      return made;
    }

    bool try_root(torch::nn::Module& model) {
      const auto* rule = match(model, "");
      if (rule == nullptr || keeps(*rule, model, "")) {
        return false;
      }
      Replacement row = begin_row(model, "");
      if (auto* conv = dynamic_cast<torch::nn::Conv2dImpl*>(&model)) {
        const auto made = make(*rule, model, "");
        finish_row(row, *made.ptr(), ReplacementKind::grafted);
        placements.emplace_back([conv, made] { graft(*conv, made); });
      } else {
        row.reason = "the model itself can't be exchanged in place; put it into a container";
      }
      add_row(std::move(row), *rule, model);
      return true;
    }

    // Whether `rule` keeps `module`, which then gets a row, once if it stands at several places.
    bool keeps(const ReplacementRule& rule, const torch::nn::Module& module,
               const std::string& path) {
      auto reason = rule.keep ? rule.keep(module, path) : std::string();
      if (reason.empty()) {
        return false;
      }
      if (kept.insert(&module).second) {
        Replacement row = begin_row(module, path);
        row.parameters_after = row.parameters_before;
        row.kind = ReplacementKind::kept;
        row.reason = std::move(reason);
        add_row(std::move(row), rule, module);
      }
      return true;
    }

    void add_row(Replacement row, const ReplacementRule& rule, const torch::nn::Module& module) {
      if (rule.annotate) {
        rule.annotate(row, module);
      }
      report.rows.push_back(std::move(row));
    }

    void search(torch::nn::Module& parent, const std::string& prefix) {
      if (grafted_substitute(parent) != nullptr || !searched.insert(&parent).second) {
        return;
      }
      for (const auto& item : parent.named_children()) {
        const auto& child = item.value();
        const std::string path = prefix.empty() ? item.key() : prefix + "." + item.key();
        if (is_grafted(*child)) {
          continue;
        }
        if (const auto known = replaced.find(child.get()); known != replaced.end()) {
          Replacement row = begin_row(*child, path);
          row.reason = place(parent, item.key(), child, [&] { return known->second; });
          if (!row.reason.empty()) {
            report.rows.push_back(std::move(row));
          }
        } else if (const auto* rule = match(*child, path);
                   rule != nullptr && !keeps(*rule, *child, path)) {
          Replacement row = begin_row(*child, path);
          torch::nn::AnyModule made;
          const auto maker = [&] { return made = make(*rule, *child, path); };
          const auto kind = grafts(parent, item.key(), child) ? ReplacementKind::grafted
                                                              : ReplacementKind::exchanged;
          row.reason = place(parent, item.key(), child, maker);
          if (row.reason.empty()) {
            finish_row(row, *made.ptr(), kind);
            replaced.emplace(child.get(), made);
          }
          add_row(std::move(row), *rule, *child);
        } else {
          search(*child, path);
        }
      }
    }

    static Replacement begin_row(const torch::nn::Module& module, const std::string& path) {
      Replacement row;
      row.path = path;
      row.old_type = describe(module);
      row.parameters_before = parameter_count(module);
      return row;
    }

    static void finish_row(Replacement& row, const torch::nn::Module& made, ReplacementKind kind) {
      row.new_type = describe(made);
      row.parameters_after = parameter_count(made);
      row.kind = kind;
    }

    // Whether what `parent` runs as its child `name` is an entry that can be exchanged. A class of
    // one's own may have registered further children.
    static bool exchanges(torch::nn::Module& parent, const std::string& name,
                          const std::shared_ptr<torch::nn::Module>& child) {
      if (auto* sequential = dynamic_cast<torch::nn::SequentialImpl*>(&parent)) {
        return holds(*sequential, child);
      }
      const auto* host = dynamic_cast<const ChildHost*>(&parent);
      return host != nullptr && host->holds_child(name);
    }

    // A `Conv2d` of a derived type may do more than convolve, such as pad: that stays.
    static bool grafts(torch::nn::Module& parent, const std::string& name,
                       const std::shared_ptr<torch::nn::Module>& child) {
      const auto& module = *child;
      return dynamic_cast<const torch::nn::Conv2dImpl*>(&module) != nullptr &&
             (typeid(module) != typeid(torch::nn::Conv2dImpl) || !exchanges(parent, name, child));
    }

    // Returns why it can't be done, or nothing.
    template <class Maker>
    std::string place(torch::nn::Module& parent, const std::string& name,
                      const std::shared_ptr<torch::nn::Module>& child, Maker&& make_module) {
      if (grafts(parent, name, child)) {
        grafted.insert(child.get());
        placements.emplace_back([child, made = torch::nn::AnyModule(make_module())] {
          graft(dynamic_cast<torch::nn::Conv2dImpl&>(*child), made);
        });
        return {};
      }
      auto* host = dynamic_cast<ChildHost*>(&parent);
      auto* sequential = dynamic_cast<torch::nn::SequentialImpl*>(&parent);
      auto* list = dynamic_cast<torch::nn::ModuleListImpl*>(&parent);
      auto* dict = dynamic_cast<torch::nn::ModuleDictImpl*>(&parent);
      if (!exchanges(parent, name, child) && (list == nullptr || !holds(*list, child)) &&
          (dict == nullptr || !dict->contains(name))) {
        return "its holder (" + parent.name() +
               ") has it as a member of a fixed type; only Conv2d can be replaced there";
      }
      const auto entry = sequential != nullptr ? entry_of(*sequential, name, child)
                         : list != nullptr     ? entry_of(*list, name, child)
                                               : std::optional<std::ptrdiff_t>(0);
      if (!entry) {
        return "its holder (" + parent.name() + ") runs it under another name only";
      }
      placements.emplace_back([=, &parent, made = torch::nn::AnyModule(make_module())] {
        if (host != nullptr) {
          host->replace_child(name, made);
        } else if (sequential != nullptr) {
          *(sequential->begin() + *entry) = made;
          parent.replace_module(name, made.ptr());
        } else if (list != nullptr) {
          *(list->begin() + *entry) = made.ptr();
          parent.replace_module(name, made.ptr());
        } else {
          dict->update({{name, made.ptr()}});
        }
      });
      return {};
    }

    // The entry of `container` that is registered as `name`: `child` may stand in it several times.
    template <class Container>
    static std::optional<std::ptrdiff_t> entry_of(Container& container, const std::string& name,
                                                  const std::shared_ptr<torch::nn::Module>& child) {
      std::ptrdiff_t before = 0;
      for (const auto& item : container.named_children()) {
        if (item.key() == name) {
          break;
        }
        before += item.value() == child ? 1 : 0;
      }
      for (auto entry = container.begin(); entry != container.end(); ++entry) {
        if (module_of(*entry) == child && before-- == 0) {
          return entry - container.begin();
        }
      }
      return std::nullopt;
    }

    static std::shared_ptr<torch::nn::Module> module_of(const torch::nn::AnyModule& entry) {
      return entry.ptr();
    }

    static std::shared_ptr<torch::nn::Module> module_of(
        const std::shared_ptr<torch::nn::Module>& entry) {
      return entry;
    }

    // Whether `child` is an entry of `container`.
    template <class Container>
    static bool holds(Container& container, const std::shared_ptr<torch::nn::Module>& child) {
      return std::any_of(container.begin(), container.end(),
                         [&](const auto& entry) { return module_of(entry) == child; });
    }
  };

  std::vector<ReplacementRule> rules_;
};

}  // namespace bsconv
