// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/macros/Export.h>
#include <torch/types.h>
#include <bsconv/infer/graph.hpp>
#include <bsconv/infer/report.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

/// \file
/// What `optimize` makes of a model, and how devices other than the CPU take part.

namespace bsconv::infer {

/// A model for one shape of input, ready to run. Any number of threads may run it at once.
class Executable {
 public:
  Executable() = default;
  Executable(const Executable&) = delete;
  Executable& operator=(const Executable&) = delete;
  Executable(Executable&&) = delete;
  Executable& operator=(Executable&&) = delete;
  virtual ~Executable() = default;

  /// Runs it on `input`, a contiguous float tensor of the shape that it was made for. Throws
  /// `NotCapturable` if a shape in the middle is another one than with the input it was made from.
  virtual torch::Tensor run(const torch::Tensor& input) const = 0;

  /// The least seconds that each step of the report took in `repeats` runs; zeros where unknown.
  virtual std::vector<double> time_steps(const torch::Tensor& input, int64_t repeats) const = 0;

  /// Its steps.
  virtual InferenceReport report() const = 0;

  /// How far results may lie from LibTorch's in 32-bit floats, as a share of their mean magnitude.
  virtual double tolerance() const { return 1e-3; }
};

/// Makes executables for a device: `graph` was captured from an input like `example`, and is to
/// run with elements of `dtype`.
using DevicePlanner = std::function<std::unique_ptr<Executable>(
    Graph graph, const torch::Tensor& example, torch::ScalarType dtype)>;

namespace detail {

/// The planner of GPUs, once `register_gpu_planner` was called.
struct GpuPlanner {
  std::mutex mutex;
  DevicePlanner planner;

  C10_EXPORT static GpuPlanner& instance() {
    static GpuPlanner registered;
    return registered;
  }
};

}  // namespace detail

/// Lets `optimize` plan models whose example input lies on a GPU. `<bsconv/cuda.hpp>` does it.
inline bool register_gpu_planner(DevicePlanner planner) {
  auto& registered = detail::GpuPlanner::instance();
  const std::lock_guard lock(registered.mutex);
  registered.planner = std::move(planner);
  return true;
}

/// The planner of GPUs, or an empty function.
inline DevicePlanner gpu_planner() {
  auto& registered = detail::GpuPlanner::instance();
  const std::lock_guard lock(registered.mutex);
  return registered.planner;
}

}  // namespace bsconv::infer
