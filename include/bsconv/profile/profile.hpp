// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/arg.h>
#include <torch/types.h>
#include <bsconv/profile/cost.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace bsconv {

/// Options for `profile`.
struct ProfileOptions {
  ProfileOptions() = default;

  /// How multiply-adds are counted. Default: the reference's convention
  TORCH_ARG(Convention, convention) = Convention::reference;

  /// How many times the model runs to be timed; 0 does not time it. Default: 0
  TORCH_ARG(int64_t, timed_runs) = 0;
};

/// What a module costs, by itself or with all modules below it.
struct ModuleCost {
  /// The elements of parameters that require a gradient.
  int64_t parameters = 0;
  /// The multiply-adds of one forward pass.
  int64_t flops = 0;
  /// The bytes of all results that the operators wrote to memory of their own.
  int64_t activation_bytes = 0;
  /// The shortest time of one forward pass, in seconds; 0 without `timed_runs`.
  double seconds = 0.0;
  /// How many operators ran.
  int64_t operators = 0;
};

/// One module of a profiled model.
struct ProfileRow {
  /// The path in the model, empty for the model itself.
  std::string path;
  /// How far below the model it is: 0 for the model itself.
  int64_t depth = 0;
  /// The type without namespace: `Conv2d`.
  std::string type;
  /// The kind of a convolution: `3x3`, `1x1 PW`, `3x3 DW`; empty for other modules.
  std::string info;
  /// The shape of the first tensor that went in.
  std::vector<int64_t> input_shape;
  /// The shape of the last tensor that came out.
  std::vector<int64_t> output_shape;
  /// Whether there are no modules below it.
  bool is_leaf = true;
  /// What the module itself costs.
  ModuleCost own;
  /// What it costs with all modules below it.
  ModuleCost total;
};

/// What a model costs, module by module.
class Profile {
 public:
  /// All modules, parents first, in registration order; the first is the model itself.
  std::vector<ProfileRow> rows;
  /// How multiply-adds were counted.
  Convention convention = Convention::reference;
  /// The most bytes of results that were alive at the same time.
  int64_t peak_activation_bytes = 0;
  /// The operators that count 0 because the convention has no cost for them, and how often they
  /// ran.
  std::map<std::string, int64_t> uncounted;

  /// What the whole model costs.
  const ModuleCost& total() const { return rows.front().total; }
  /// The elements of all parameters that require a gradient.
  int64_t parameters() const { return total().parameters; }
  /// The multiply-adds of one forward pass.
  int64_t flops() const { return total().flops; }
};

}  // namespace bsconv
