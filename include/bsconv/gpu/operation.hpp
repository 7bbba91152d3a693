// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/types.h>
#include <bsconv/gpu/geometry.hpp>
#include <bsconv/gpu/runtime.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

/// \file
/// The operations of a GPU plan.

namespace bsconv::gpu {

/// The tensors of a run, by value; undefined where they don't exist yet or any more. An image is
/// `[N, C, H, W]` with its channels last, in the plan's type of elements.
using Values = std::vector<torch::Tensor>;

/// What every operation of a plan knows.
struct Context {
  /// Where kernels run.
  Runtime& runtime;
  /// The type of the images' elements.
  torch::ScalarType dtype;

  /// An image of `sizes`, `[N, C, H, W]`, without values.
  torch::Tensor empty(const std::vector<int64_t>& sizes) const {
    return torch::empty(sizes, torch::TensorOptions().dtype(dtype).device(runtime.device()),
                        torch::MemoryFormat::ChannelsLast);
  }

  /// `constant` as kernels read it: contiguous 32-bit floats on the device.
  torch::Tensor upload(const torch::Tensor& constant) const {
    return constant.to(runtime.device(), torch::kFloat).contiguous();
  }
};

/// A kernel with the grid that runs it; compiled by the planner.
struct Launch {
  /// The kernel before it is compiled.
  KernelText text;
  /// Its blocks and threads.
  Grid grid;
  /// The compiled kernel.
  Kernel kernel = nullptr;
};

/// One operation of a plan.
class Operation {
 public:
  Operation() = default;
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  Operation(Operation&&) = delete;
  Operation& operator=(Operation&&) = delete;
  virtual ~Operation() = default;

  /// Reads and makes values.
  virtual void run(const Context& context, Values& values) const = 0;
  /// What it does, for the report.
  virtual std::string describe() const = 0;
  /// Its kernel, if it has one of ours.
  virtual Launch* launch() { return nullptr; }
  /// Multiply-adds for all images.
  virtual int64_t multiply_adds() const { return 0; }
};

/// The address of a tensor's elements, or null for an undefined one.
inline const void* address(const torch::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

/// A pointwise convolution, a depthwise one, or both, as one kernel.
class ConvolveOperation : public Operation {
 public:
  /// Weights of the parts: pointwise `[in, out]`, depthwise `[height * width, out]`; biases
  /// `[out]`.
  struct Weights {
    /// The pointwise part.
    torch::Tensor pointwise;
    /// Its bias.
    torch::Tensor pointwise_bias;
    /// The depthwise part.
    torch::Tensor depthwise;
    /// Its bias.
    torch::Tensor depthwise_bias;
  };

  /// Values are given by index; `residual` is not read unless the shape has one.
  ConvolveOperation(const ConvolutionShape& shape, const Tile& tile, Weights weights,
                    std::size_t input, std::size_t residual, std::size_t output,
                    std::vector<int64_t> sizes)
      : shape_(shape),
        tile_(tile),
        launch_{shape.text(tile), shape.grid(tile)},
        weights_(std::move(weights)),
        input_(input),
        residual_(residual),
        output_(output),
        sizes_(std::move(sizes)) {}

  void run(const Context& context, Values& values) const override {
    auto output = context.empty(sizes_);
    context.runtime.launch(
        launch_.kernel, launch_.grid,
        {address(values[input_]), address(weights_.pointwise), address(weights_.pointwise_bias),
         address(weights_.depthwise), address(weights_.depthwise_bias),
         shape_.residual ? address(values[residual_]) : nullptr, address(output)});
    values[output_] = std::move(output);
  }

  std::string describe() const override {
    std::string text = shape_.pointwise ? "pointwise" : "";
    if (shape_.depthwise) {
      text += text.empty() ? "" : " -> ";
      text +=
          "depthwise " + std::to_string(shape_.kernel[0]) + "x" + std::to_string(shape_.kernel[1]);
    }
    return text + ", tile " + std::to_string(tile_.height) + "x" + std::to_string(tile_.width) +
           "x" + std::to_string(tile_.group);
  }

  Launch* launch() override { return &launch_; }
  int64_t multiply_adds() const override { return shape_.multiply_adds(); }

 private:
  ConvolutionShape shape_;
  Tile tile_;
  Launch launch_;
  Weights weights_;
  std::size_t input_;
  std::size_t residual_;
  std::size_t output_;
  std::vector<int64_t> sizes_;
};

/// A kernel with one thread a number: `map`, `pool`, `bring_in` and `bring_out`.
class ElementOperation : public Operation {
 public:
  /// What it reads and makes.
  struct Operands {
    /// Values, or constants where they are defined, in the order of the kernel's arguments.
    std::vector<std::pair<int64_t, torch::Tensor>> inputs;
    /// The value it makes.
    std::size_t output = 0;
    /// The result's shape.
    std::vector<int64_t> sizes;
    /// Whether the result is of floats in LibTorch's order, which leaves the plan.
    bool leaves = false;
  };

  /// `text` without the constants `count` and `threads`, which are added.
  ElementOperation(std::string name, KernelText text, Operands operands)
      : name_(std::move(name)), launch_{std::move(text), {}}, operands_(std::move(operands)) {
    constexpr int64_t threads = 256;
    int64_t count = 1;
    for (const int64_t size : operands_.sizes) {
      count *= size;
    }
    launch_.text.constants.set("count", count).set("threads", threads);
    launch_.text.threads = threads;
    launch_.grid = {{(count + threads - 1) / threads, 1, 1}, threads};
  }

  void run(const Context& context, Values& values) const override {
    auto output =
        operands_.leaves
            ? torch::empty(
                  operands_.sizes,
                  torch::TensorOptions().dtype(torch::kFloat).device(context.runtime.device()))
            : context.empty(operands_.sizes);
    std::vector<const void*> arguments;
    for (const auto& [value, constant] : operands_.inputs) {
      arguments.push_back(value < 0 ? address(constant)
                                    : address(values[static_cast<std::size_t>(value)]));
    }
    arguments.push_back(address(output));
    context.runtime.launch(launch_.kernel, launch_.grid, arguments);
    values[operands_.output] = std::move(output);
  }

  std::string describe() const override { return name_; }
  Launch* launch() override { return &launch_; }

 private:
  std::string name_;
  Launch launch_;
  Operands operands_;
};

/// A convolution of LibTorch's, which is cuDNN's or cuBLAS's.
class LibraryConvolution : public Operation {
 public:
  /// Weights and geometry.
  struct Parts {
    /// `[out, in, height, width]`
    torch::Tensor weight;
    /// `[out]`
    torch::Tensor bias;
    /// Pixels from a window to the next, down and across.
    std::vector<int64_t> stride;
    /// Zeros on the left, right, above and below.
    std::vector<int64_t> padding;
    /// Rows of the result.
    int64_t height = 1;
    /// Pixels in a row of the result.
    int64_t width = 1;
    /// Groups of channels that are kept apart.
    int64_t groups = 1;
    /// Pixels between the taps.
    std::vector<int64_t> dilation;
  };

  /// Values are given by index.
  LibraryConvolution(Parts parts, std::size_t input, std::size_t output, int64_t multiply_adds)
      : parts_(std::move(parts)), input_(input), output_(output), multiply_adds_(multiply_adds) {}

  void run(const Context&, Values& values) const override {
    // The caller's autocast has no say in what type results are of.
    const c10::impl::ExcludeDispatchKeyGuard as_planned(c10::autocast_dispatch_keyset);
    // More padding on one side than on the other is laid out; a window too many is left out.
    const auto& p = parts_.padding;
    const bool even = p[0] >= p[1] && p[2] >= p[3];
    const auto input = even ? values[input_] : torch::constant_pad_nd(values[input_], p);
    const auto padding = even ? std::vector<int64_t>{p[2], p[0]} : std::vector<int64_t>{0, 0};
    values[output_] = torch::conv2d(input, parts_.weight, parts_.bias, parts_.stride, padding,
                                    parts_.dilation, parts_.groups)
                          .narrow(2, 0, parts_.height)
                          .narrow(3, 0, parts_.width)
                          .contiguous(torch::MemoryFormat::ChannelsLast);
  }

  std::string describe() const override {
    return "library convolution " + std::to_string(parts_.weight.size(2)) + "x" +
           std::to_string(parts_.weight.size(3));
  }

  int64_t multiply_adds() const override { return multiply_adds_; }

 private:
  Parts parts_;
  std::size_t input_;
  std::size_t output_;
  int64_t multiply_adds_;
};

}  // namespace bsconv::gpu
