// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/infer/step.hpp>

#include <algorithm>
#include <cstdint>
#include <string>

namespace bsconv::infer {

/// A maximum or mean of windows.
class PoolStep : public Step {
 public:
  /// A step that does what `node` says on `input` into `output`.
  PoolStep(const kernels::KernelTable& kernels, const Node& node, const Buffer& input,
           const Buffer& output)
      : kernels_(kernels), node_(node), input_(input), output_(output) {}

  void run(const Frame& frame, Share share) const override {
    const auto [begin, end] = share.of(output_.height);
    output_.clear_border(frame.arena, begin, end);
    kernels::Pool pool;
    pool.input = input_.input(frame.arena);
    pool.height = input_.height;
    pool.width = input_.width;
    std::copy(node_.kernel.begin(), node_.kernel.end(), pool.kernel);
    std::copy(node_.stride.begin(), node_.stride.end(), pool.stride);
    std::copy(node_.padding.begin(), node_.padding.end(), pool.padding);
    std::copy(node_.dilation.begin(), node_.dilation.end(), pool.dilation);
    pool.greatest = node_.greatest;
    pool.count_padding = node_.count_padding;
    pool.divisor = node_.divisor;
    pool.output = output_.image(frame.arena);
    pool.first_row = begin;
    pool.rows = end - begin;
    pool.pixels = output_.width;
    pool.vectors = output_.pixel / kernels_.width;
    kernels_.pool(pool);
  }

  std::string describe() const override {
    std::string text = node_.greatest ? "max pool " : "mean pool ";
    return text + std::to_string(node_.kernel[0]) + "x" + std::to_string(node_.kernel[1]);
  }

 private:
  const kernels::KernelTable& kernels_;
  const Node& node_;
  const Buffer& input_;
  const Buffer& output_;
};

}  // namespace bsconv::infer
