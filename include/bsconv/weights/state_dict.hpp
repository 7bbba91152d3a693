// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cstddef>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <torch/arg.h>
#include <torch/nn/module.h>
#include <torch/ordered_dict.h>
#include <torch/types.h>

namespace bsconv::weights {

/// Names and tensors in a fixed order. A name may occur once; inserting it again throws.
using StateDict = torch::OrderedDict<std::string, torch::Tensor>;

/// What `load_state_dict` does with a tensor whose dtype is not the module's.
enum class DtypePolicy {
  /// Refuse it and list it among the differences.
  exact,
  /// Convert its values to the module's dtype.
  convert,
};

/// Options of `load_state_dict` and `compare_state_dict`.
struct LoadOptions {
  /// Whether missing and unexpected names are errors. Tensors of a wrong shape always are.
  TORCH_ARG(bool, strict) = true;
  /// What happens to tensors of another dtype. Default: they are refused.
  TORCH_ARG(DtypePolicy, dtype_policy) = DtypePolicy::exact;
};

/// One tensor that stands in both dictionaries but does not fit.
struct StateMismatch {
  /// The tensor's name.
  std::string name;
  /// What the module has, such as "float [16, 3, 3, 3]".
  std::string expected;
  /// What the dictionary has.
  std::string found;
};

/// The differences between a module and a state dictionary.
struct StateDifference {
  /// Names the module has and the dictionary lacks.
  std::vector<std::string> missing;
  /// Names the dictionary has and the module lacks.
  std::vector<std::string> unexpected;
  /// Tensors whose shape differs.
  std::vector<StateMismatch> shapes;
  /// Tensors whose shape agrees and whose dtype differs.
  std::vector<StateMismatch> dtypes;

  /// Whether there is no difference at all.
  bool empty() const {
    return missing.empty() && unexpected.empty() && shapes.empty() && dtypes.empty();
  }

  /// The differences, one a line, each line indented by two spaces: of each kind at most `limit`,
  /// and how many more there are.
  std::string to_string(std::size_t limit = 10) const {
    std::ostringstream out;
    const auto list = [&](const char* kind, const auto& items, const auto& describe) {
      for (std::size_t i = 0; i < std::min(limit, items.size()); ++i) {
        out << "  " << kind << ": " << describe(items[i]) << '\n';
      }
      if (items.size() > limit) {
        out << "  " << kind << ": and " << items.size() - limit << " more\n";
      }
    };
    const auto name = [](const std::string& text) { return text; };
    const auto mismatch = [](const StateMismatch& item) {
      return item.name + ": the model has " + item.expected + ", found " + item.found;
    };
    list("missing", missing, name);
    list("unexpected", unexpected, name);
    list("wrong shape", shapes, mismatch);
    list("wrong dtype", dtypes, mismatch);
    return out.str();
  }
};

namespace detail {

inline std::string describe(const torch::Tensor& tensor) {
  std::ostringstream out;
  out << c10::toString(tensor.scalar_type()) << ' ' << tensor.sizes();
  return out.str();
}

inline void collect_state(const torch::nn::Module& module, const std::string& prefix,
                          StateDict& state) {
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    if (item.value().defined()) {
      state.insert(prefix + item.key(), item.value());
    }
  }
  for (const auto& item : module.named_buffers(/*recurse=*/false)) {
    if (item.value().defined()) {
      state.insert(prefix + item.key(), item.value());
    }
  }
  for (const auto& child : module.named_children()) {
    collect_state(*child.value(), prefix + child.key() + ".", state);
  }
}

}  // namespace detail

/// The parameters and buffers of `module` under the names and in the order of Python's
/// `Module.state_dict()`: a module's own parameters, its own buffers, then its children in the
/// order of registration. The tensors are the module's own, not copies.
inline StateDict state_dict(const torch::nn::Module& module) {
  StateDict state;
  detail::collect_state(module, "", state);
  return state;
}

/// Copies of all tensors of `state`, detached from any graph, on `device`.
inline StateDict clone_state_dict(const StateDict& state, torch::Device device = torch::kCPU) {
  StateDict copy;
  copy.reserve(state.size());
  for (const auto& item : state) {
    copy.insert(item.key(), item.value().detach().to(device, item.value().scalar_type(),
                                                     /*non_blocking=*/false, /*copy=*/true));
  }
  return copy;
}

/// `state` with every name replaced by what `rename` makes of it. Throws `c10::ValueError` if two
/// names become one.
template <class Rename>
StateDict rename_keys(const StateDict& state, Rename&& rename) {
  StateDict renamed;
  renamed.reserve(state.size());
  for (const auto& item : state) {
    const std::string name = rename(item.key());
    TORCH_CHECK_VALUE(!renamed.contains(name), "rename_keys: '", item.key(),
                      "' and another name both become '", name, "'");
    renamed.insert(name, item.value());
  }
  return renamed;
}

/// `state` without `prefix`, such as the "module." of Python's DataParallel, before its names.
/// Names that don't begin with it stay.
inline StateDict strip_prefix(const StateDict& state, const std::string& prefix) {
  return rename_keys(state, [&](const std::string& name) {
    return name.compare(0, prefix.size(), prefix) == 0 ? name.substr(prefix.size()) : name;
  });
}

/// Everything in which `state` differs from what `module` expects; neither is changed.
inline StateDifference compare_state_dict(const torch::nn::Module& module, const StateDict& state) {
  StateDifference difference;
  const StateDict expected = state_dict(module);
  for (const auto& item : expected) {
    const torch::Tensor* found = state.find(item.key());
    if (found == nullptr) {
      difference.missing.push_back(item.key());
    } else if (!found->defined()) {
      difference.shapes.push_back(
          {item.key(), detail::describe(item.value()), "an undefined tensor"});
    } else if (found->sizes() != item.value().sizes()) {
      difference.shapes.push_back(
          {item.key(), detail::describe(item.value()), detail::describe(*found)});
    } else if (found->scalar_type() != item.value().scalar_type()) {
      difference.dtypes.push_back(
          {item.key(), detail::describe(item.value()), detail::describe(*found)});
    }
  }
  for (const auto& item : state) {
    if (!expected.contains(item.key())) {
      difference.unexpected.push_back(item.key());
    }
  }
  return difference;
}

/// Copies `state` into the parameters and buffers of `module`, across devices where needed.
///
/// Throws `c10::Error` that lists the differences the options do not allow, of each kind the first
/// ten; the module is then unchanged. Returns the differences that were allowed.
inline StateDifference load_state_dict(torch::nn::Module& module, const StateDict& state,
                                       const LoadOptions& options = {}) {
  StateDifference difference = compare_state_dict(module, state);
  StateDifference refused;
  refused.shapes = difference.shapes;
  if (options.strict()) {
    refused.missing = difference.missing;
    refused.unexpected = difference.unexpected;
  }
  if (options.dtype_policy() == DtypePolicy::exact) {
    refused.dtypes = difference.dtypes;
  }
  TORCH_CHECK(refused.empty(), "the state does not fit the model, which is left unchanged:\n",
              refused.to_string());

  const torch::NoGradGuard no_grad;
  for (auto& item : state_dict(module)) {
    if (const torch::Tensor* found = state.find(item.key())) {
      item.value().copy_(*found);
    }
  }
  return difference;
}

}  // namespace bsconv::weights
