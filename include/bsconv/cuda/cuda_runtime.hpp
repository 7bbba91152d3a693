// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>
#include <nvrtc.h>
#include <torch/types.h>
#include <bsconv/cuda/record.hpp>
#include <bsconv/gpu/kernel_cache.hpp>
#include <bsconv/gpu/runtime.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

// This header needs LibTorch with CUDA, and the CUDA toolkit's headers, runtime and NVRTC.

namespace bsconv::cuda {

namespace detail {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    // Whoever asks for the last error next has nothing to do with this one.
    static_cast<void>(cudaGetLastError());
    TORCH_CHECK(false, "CUDA: ", what, ": ", cudaGetErrorString(status));
  }
}

inline void check(nvrtcResult status, const char* what) {
  TORCH_CHECK(status == NVRTC_SUCCESS, "NVRTC: ", what, ": ", nvrtcGetErrorString(status));
}

}  // namespace detail

/// What NVRTC is told for `architecture`, such as "sm_90".
inline std::vector<std::string> nvrtc_options(const std::string& architecture) {
  return {"--gpu-architecture=" + architecture, "--std=c++17", "--extra-device-vectorization"};
}

/// NVRTC's version and what it is told for `architecture`.
inline std::string describe_nvrtc(const std::string& architecture) {
  int major = 0;
  int minor = 0;
  detail::check(nvrtcVersion(&major, &minor), "nvrtcVersion");
  std::string text = "NVRTC " + std::to_string(major) + "." + std::to_string(minor);
  for (const auto& option : nvrtc_options(architecture)) {
    text += ' ' + option;
  }
  return text;
}

/// Compiles CUDA C++ to machine code for `architecture`, such as "sm_90". Throws `c10::Error` with
/// the compiler's messages.
inline std::string compile_to_cubin(const std::string& source, const std::string& architecture) {
  struct Destroy {
    void operator()(nvrtcProgram* program) const { nvrtcDestroyProgram(program); }
  };
  nvrtcProgram program = nullptr;
  detail::check(nvrtcCreateProgram(&program, source.c_str(), "bsconv.cu", 0, nullptr, nullptr),
                "nvrtcCreateProgram");
  const std::unique_ptr<nvrtcProgram, Destroy> owner(&program);
  const auto options = nvrtc_options(architecture);
  std::vector<const char*> texts;
  for (const auto& option : options) {
    texts.push_back(option.c_str());
  }
  const auto status = nvrtcCompileProgram(program, static_cast<int>(texts.size()), texts.data());
  if (status != NVRTC_SUCCESS) {
    std::size_t size = 0;
    nvrtcGetProgramLogSize(program, &size);
    std::string log(size, '\0');
    nvrtcGetProgramLog(program, log.data());
    TORCH_CHECK(false, "NVRTC: the kernels don't compile for ", architecture, ": ",
                nvrtcGetErrorString(status), "\n", log);
  }
  std::size_t size = 0;
  detail::check(nvrtcGetCUBINSize(program, &size), "nvrtcGetCUBINSize");
  std::string cubin(size, '\0');
  detail::check(nvrtcGetCUBIN(program, cubin.data()), "nvrtcGetCUBIN");
  return cubin;
}

/// What a plan runs on: a CUDA device, with kernels compiled by NVRTC, which a `KernelCache` keeps,
/// and runs recorded as CUDA graphs.
class CudaRuntime : public gpu::Runtime {
 public:
  /// On `device`.
  explicit CudaRuntime(torch::Device device) : device_(device) {
    const c10::cuda::CUDAGuard guard(device_);
    cudaDeviceProp properties{};
    detail::check(cudaGetDeviceProperties(&properties, device_.index()), "cudaGetDeviceProperties");
    name_ = properties.name;
    architecture_ = "sm_" + std::to_string(properties.major) + std::to_string(properties.minor);
    compiler_ = describe_nvrtc(architecture_);
  }

  ~CudaRuntime() override {
    for (const auto library : libraries_) {
      static_cast<void>(cudaLibraryUnload(library));
    }
  }

  torch::Device device() const override { return device_; }
  std::string name() const override { return name_; }

  std::vector<gpu::Kernel> compile(const std::string& source,
                                   const std::vector<std::string>& names) override {
    const c10::cuda::CUDAGuard guard(device_);
    const auto cubin =
        cache_.get(compiler_, source, [&] { return compile_to_cubin(source, architecture_); });
    cudaLibrary_t library = nullptr;
    detail::check(
        cudaLibraryLoadData(&library, cubin.data(), nullptr, nullptr, 0, nullptr, nullptr, 0),
        "cudaLibraryLoadData");
    libraries_.push_back(library);
    std::vector<gpu::Kernel> kernels;
    for (const auto& name : names) {
      cudaKernel_t kernel = nullptr;
      detail::check(cudaLibraryGetKernel(&kernel, library, name.c_str()), "cudaLibraryGetKernel");
      kernels.push_back(static_cast<gpu::Kernel>(kernel));
    }
    return kernels;
  }

  void launch(gpu::Kernel kernel, const gpu::Grid& grid,
              const std::vector<const void*>& arguments) override {
    const c10::cuda::CUDAGuard guard(device_);
    const auto size = [](int64_t count) { return static_cast<unsigned int>(count); };
    std::vector<void*> pointers;
    pointers.reserve(arguments.size());
    for (const auto& argument : arguments) {
      pointers.push_back(const_cast<void*>(static_cast<const void*>(&argument)));
    }
    detail::check(
        cudaLaunchKernel(kernel,
                         dim3(size(grid.blocks[0]), size(grid.blocks[1]), size(grid.blocks[2])),
                         dim3(size(grid.threads)), pointers.data(), 0,
                         c10::cuda::getCurrentCUDAStream(device_.index())),
        "cudaLaunchKernel");
  }

  double time(const std::function<void()>& work) override {
    constexpr int groups = 4;
    constexpr int runs = 8;
    const c10::cuda::CUDAGuard guard(device_);
    const auto stream = c10::cuda::getCurrentCUDAStream(device_.index());
    Event begin;
    Event end;
    work();
    float least = 0;
    for (int group = 0; group < groups; ++group) {
      detail::check(cudaEventRecord(begin.event, stream), "cudaEventRecord");
      for (int run = 0; run < runs; ++run) {
        work();
      }
      detail::check(cudaEventRecord(end.event, stream), "cudaEventRecord");
      detail::check(cudaEventSynchronize(end.event), "cudaEventSynchronize");
      float milliseconds = 0;
      detail::check(cudaEventElapsedTime(&milliseconds, begin.event, end.event),
                    "cudaEventElapsedTime");
      least = group == 0 ? milliseconds : std::min(least, milliseconds);
    }
    return least * 1e-3 / runs;
  }

  std::unique_ptr<gpu::Recording> record(
      const std::function<torch::Tensor(const torch::Tensor&)>& work,
      const torch::Tensor& input) override {
    return std::make_unique<RecordedRun>(work, input);
  }

 private:
  struct Event {
    Event() { detail::check(cudaEventCreate(&event), "cudaEventCreate"); }
    ~Event() { static_cast<void>(cudaEventDestroy(event)); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    Event(Event&&) = delete;
    Event& operator=(Event&&) = delete;

    cudaEvent_t event = nullptr;
  };

  class RecordedRun : public gpu::Recording {
   public:
    RecordedRun(const std::function<torch::Tensor(const torch::Tensor&)>& work,
                const torch::Tensor& input)
        : work_(work), input_(made_like(input)) {
      const c10::cuda::CUDAGuard guard(input.device());
      // Libraries choose their algorithms in a first run.
      work(input_);
      const auto current = c10::cuda::getCurrentCUDAStream(input.device().index());
      detail::check(cudaStreamSynchronize(current), "cudaStreamSynchronize");
      const RecordingStream stream(input.device().index(), /*priority=*/0);
      const c10::cuda::CUDAStreamGuard beside(stream.get());
      cuda::record(*graph_, [&] { output_ = work(input_); });
    }

    // Its memory may be used on another stream next.
    ~RecordedRun() override {
      if (done_.isCreated()) {
        static_cast<void>(cudaEventSynchronize(done_.event()));
      }
    }

    torch::Tensor replay(const torch::Tensor& input) override {
      // A part of what is recorded, such as a training step, can be no recording itself.
      if (detail::is_recording()) {
        return work_(input);
      }
      const c10::cuda::CUDAGuard guard(input.device());
      const auto stream = c10::cuda::getCurrentCUDAStream(input.device().index());
      // The run before this one may be on another stream.
      if (done_.isCreated()) {
        done_.block(stream);
      }
      input_.copy_(input, /*non_blocking=*/true);
      cuda::replay(*graph_);
      auto result = output_.clone();
      done_.record(stream);
      return result;
    }

   private:
    // Writable later, in inference mode or not.
    static torch::Tensor made_like(const torch::Tensor& input) {
      const c10::InferenceMode normal(false);
      auto made = torch::empty_like(input);
      made.copy_(input);
      return made;
    }

    std::function<torch::Tensor(const torch::Tensor&)> work_;
    torch::Tensor input_;
    torch::Tensor output_;
    Graph graph_ = make_graph();
    at::cuda::CUDAEvent done_;
  };

  torch::Device device_;
  std::string name_;
  std::string architecture_;
  std::string compiler_;
  gpu::KernelCache cache_;
  std::vector<cudaLibrary_t> libraries_;
};

}  // namespace bsconv::cuda
