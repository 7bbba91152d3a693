// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace bsconv_program {

/// What `bsconv bench --train` times.
struct TrainingBench {
  std::vector<std::string> names;
  int64_t batch;
  /// 0: 100 for models of small images, else 1000.
  int64_t classes;
  torch::Device device;
  /// One line of JSON a model instead of a table.
  bool json;
  /// At least this long for each way.
  double seconds;
};

/// Times training steps (forward, loss, backward, SGD) of LibTorch's operators and of this
/// library's fused ones, in turn.
void bench_training(const TrainingBench& bench);

}  // namespace bsconv_program
