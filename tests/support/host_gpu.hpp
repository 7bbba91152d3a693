// SPDX-License-Identifier: BSD-3-Clause-Clear
// Runs the kernels of a GPU plan on the CPU: their text is compiled by the compiler of the tests.
#pragma once

#include <dlfcn.h>
#include <bsconv/gpu/runtime.hpp>

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../test_files.hpp"

namespace bsconv_test {

/// What CUDA's compiler brings along. The threads of a block run one after the other, each up to
/// where they meet.
inline constexpr const char* host_prologue = R"(
#include <math.h>
#include <string.h>
#include <stdlib.h>
#include <ucontext.h>
#include <cstddef>
#include <utility>
#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(threads)
#define BSCONV_HAS_CONVERSIONS
struct Index { int x, y, z; };
static Index blockIdx, threadIdx;
// The threads of a block; all but the first have a stack of their own only where they meet.
struct Fiber {
  ucontext_t context;
  char* stack;
  bool ended;
};
static Fiber fibers[1024];
static int fiber_count;
static ucontext_t scheduler;
static void (*invoke)(void*);
static void* invoked;
static bool met;
inline void __syncthreads() {
  if (fiber_count == 0) return;
  met = true;
  swapcontext(&fibers[threadIdx.x].context, &scheduler);
}
inline float __shfl_xor_sync(unsigned, float value, int distance) {
  static float shared[1024];
  const int other = threadIdx.x ^ distance;
  shared[threadIdx.x] = value;
  __syncthreads();
  const float result = shared[other];
  __syncthreads();
  return result;
}
inline void run_fiber() {
  invoke(invoked);
  fibers[threadIdx.x].ended = true;
  swapcontext(&fibers[threadIdx.x].context, &scheduler);
}
template <class Work>
void run_block(int threads, Work work) {
  constexpr std::size_t stack_bytes = 64 * 1024;
  if (threads == 1) {
    threadIdx.x = 0;
    work();
    return;
  }
  invoke = [](void* argument) { (*static_cast<Work*>(argument))(); };
  invoked = &work;
  met = false;
  fiber_count = threads;
  bool going = true;
  for (bool begins = true; going; begins = false) {
    going = false;
    for (int i = 0; i < threads; ++i) {
      Fiber& fiber = fibers[i];
      threadIdx.x = i;
      if (begins && i > 0 && !met) {
        work();
        fiber.ended = true;
        continue;
      }
      if (begins) {
        getcontext(&fiber.context);
        if (fiber.stack == nullptr) fiber.stack = static_cast<char*>(malloc(stack_bytes));
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = stack_bytes;
        fiber.context.uc_link = &scheduler;
        fiber.ended = false;
        makecontext(&fiber.context, run_fiber, 0);
      }
      if (!fiber.ended) swapcontext(&scheduler, &fiber.context);
      going = going || !fiber.ended;
    }
  }
  fiber_count = 0;
}
struct half_t;
struct bf16_t;
inline float to_float(float value) { return value; }
float to_float(half_t value);
float to_float(bf16_t value);
inline void from_float(float value, float& result) { result = value; }
void from_float(float value, half_t& result);
void from_float(float value, bf16_t& result);
)";

inline constexpr const char* host_epilogue = R"(
unsigned bits_of(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
float to_float(half_t value) {
  const unsigned exponent = (value.bits >> 10) & 31u;
  const unsigned mantissa = value.bits & 0x3ffu;
  float result;
  if (exponent == 0) {
    result = static_cast<float>(mantissa) / 16777216.0f;
  } else {
    const unsigned bits = (exponent == 31 ? 255u : exponent + 112u) << 23 | mantissa << 13;
    memcpy(&result, &bits, 4);
  }
  return (value.bits & 0x8000u) != 0 ? -result : result;
}
void from_float(float value, half_t& result) {
  const unsigned bits = bits_of(value) & 0x7fffffffu;
  unsigned half;
  if (bits > 0x7f800000u) {
    half = 0x7e00u;
  } else if (bits >= 0x477ff000u) {
    half = 0x7c00u;
  } else if (bits >= 0x38800000u) {
    half = (bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  } else {
    half = bits_of(fabsf(value) + 0.5f) - 0x3f000000u;
  }
  result.bits = static_cast<unsigned short>((bits_of(value) >> 16 & 0x8000u) | half);
}
float to_float(bf16_t value) {
  const unsigned bits = static_cast<unsigned>(value.bits) << 16;
  float result;
  memcpy(&result, &bits, 4);
  return result;
}
void from_float(float value, bf16_t& result) {
  unsigned bits;
  memcpy(&bits, &value, 4);
  result.bits = static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
template <class... A, std::size_t... I>
void call(void (*kernel)(A...), const void* const* arguments, std::index_sequence<I...>) {
  kernel((A)(arguments[I])...);
}
template <class... A>
void run(void (*kernel)(A...), const long long* grid, const void* const* arguments) {
  for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x)
        run_block(grid[3], [&] { call(kernel, arguments, std::index_sequence_for<A...>()); });
}
)";

/// A GPU that is none. Which of several ways is the fastest is drawn from `seed`.
class HostGpu : public bsconv::gpu::Runtime {
 public:
  explicit HostGpu(std::string compiler, uint32_t seed)
      : compiler_(std::move(compiler)), random_(seed) {}

  torch::Device device() const override { return torch::kCPU; }
  std::string name() const override { return "host"; }

  std::vector<bsconv::gpu::Kernel> compile(const std::string& source,
                                           const std::vector<std::string>& names) override {
    const auto base = (directory_ / ("kernels" + std::to_string(count_++))).native();
    auto text = host_prologue + source + host_epilogue;
    std::vector<bool> meets;
    for (const auto& name : names) {
      // One thread does the work of all, since that is faster and this function's threads can.
      const auto body = text.find(") " + name + "(");
      meets.push_back(text.find("convolve<", body) < text.find("}\n", body));
      if (meets.back()) {
        const auto at = text.find(" threads = ", text.find("struct " + name + "_sizes {"));
        text.replace(at, text.find(';', at) - at, " threads = 1");
      }
      text += "extern \"C\" __attribute__((visibility(\"default\"))) void run_" + name +
              "(const long long* grid, const void** arguments) " + "{ run(&" + name +
              ", grid, arguments); }\n";
    }
    write_file(base + ".cpp", text);
    const auto command = compiler_ + " -std=c++20 -O0 -w -shared -fPIC -fvisibility=hidden '" +
                         base + ".cpp' -o '" + base + ".so' > '" + base + ".log' 2>&1";
    TORCH_CHECK(std::system(command.c_str()) == 0, read_file(base + ".log").substr(0, 4000));
    void* library = dlopen((base + ".so").c_str(), RTLD_NOW | RTLD_LOCAL);
    TORCH_CHECK(library != nullptr, dlerror());
    std::vector<bsconv::gpu::Kernel> kernels;
    for (std::size_t i = 0; i < names.size(); ++i) {
      kernels_.push_back(std::make_unique<HostKernel>(
          HostKernel{reinterpret_cast<HostKernel::Run>(dlsym(library, ("run_" + names[i]).c_str())),
                     meets[i]}));
      kernels.push_back(kernels_.back().get());
    }
    return kernels;
  }

  void launch(bsconv::gpu::Kernel kernel, const bsconv::gpu::Grid& grid,
              const std::vector<const void*>& arguments) override {
    const auto& own = *static_cast<const HostKernel*>(kernel);
    const long long sizes[] = {grid.blocks[0], grid.blocks[1], grid.blocks[2],
                               own.meets ? 1 : grid.threads};
    auto pointers = arguments;
    own.run(sizes, pointers.data());
    ++launches;
  }

  double time(const std::function<void()>& work) override {
    work();
    random_ = random_ * 1664525U + 1013904223U;
    return random_;
  }

  std::unique_ptr<bsconv::gpu::Recording> record(
      const std::function<torch::Tensor(const torch::Tensor&)>& work,
      const torch::Tensor&) override {
    class Repeat : public bsconv::gpu::Recording {
     public:
      explicit Repeat(std::function<torch::Tensor(const torch::Tensor&)> work)
          : work_(std::move(work)) {}
      torch::Tensor replay(const torch::Tensor& input) override { return work_(input); }

     private:
      std::function<torch::Tensor(const torch::Tensor&)> work_;
    };
    return std::make_unique<Repeat>(work);
  }

  int64_t launches = 0;

 private:
  struct HostKernel {
    using Run = void (*)(const long long*, const void**);
    Run run;
    bool meets;
  };

  std::string compiler_;
  uint32_t random_;
  int count_ = 0;
  TemporaryDirectory directory_;
  std::vector<std::unique_ptr<HostKernel>> kernels_;
};

}  // namespace bsconv_test
