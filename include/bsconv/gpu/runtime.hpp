// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

/// \file
/// What a plan needs of a GPU.

namespace bsconv::gpu {

/// A compiled kernel; its meaning is the runtime's.
using Kernel = const void*;

/// How many blocks and threads run a kernel.
struct Grid {
  /// Blocks in x, y and z.
  std::array<int64_t, 3> blocks{1, 1, 1};
  /// Threads in a block.
  int64_t threads = 1;
};

/// A sequence of launches that was written down and can be repeated at once.
class Recording {
 public:
  Recording() = default;
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  Recording(Recording&&) = delete;
  Recording& operator=(Recording&&) = delete;
  virtual ~Recording() = default;

  /// Runs it on `input`, which has the shape of the one it was recorded with. Waits for no result;
  /// what it returns is the caller's own. One thread at a time, on any stream.
  virtual torch::Tensor replay(const torch::Tensor& input) = 0;
};

/// Compiles and launches kernels on a device: CUDA, or a stand-in for tests.
class Runtime {
 public:
  Runtime() = default;
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
  Runtime(Runtime&&) = delete;
  Runtime& operator=(Runtime&&) = delete;
  virtual ~Runtime() = default;

  /// The device whose tensors the kernels read and write.
  virtual torch::Device device() const = 0;

  /// Its name, for reports.
  virtual std::string name() const = 0;

  /// The `extern "C"` kernels called `names` of `source`. Throws `c10::Error` with the compiler's
  /// messages if it does not compile.
  virtual std::vector<Kernel> compile(const std::string& source,
                                      const std::vector<std::string>& names) = 0;

  /// Starts `kernel`, whose arguments are pointers.
  virtual void launch(Kernel kernel, const Grid& grid,
                      const std::vector<const void*>& arguments) = 0;

  /// Seconds that `work` takes on the device, the least of a few runs.
  virtual double time(const std::function<void()>& work) = 0;

  /// Writes down what `work` launches for `input`.
  virtual std::unique_ptr<Recording> record(
      const std::function<torch::Tensor(const torch::Tensor&)>& work,
      const torch::Tensor& input) = 0;
};

}  // namespace bsconv::gpu
