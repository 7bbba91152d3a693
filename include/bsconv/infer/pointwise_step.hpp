// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/infer/step.hpp>

#include <cstdint>
#include <string>
#include <utility>

namespace bsconv::infer {

/// An affine map, an activation, a sum or a gate on its own.
class PointwiseStep : public Step {
 public:
  /// `scale` and `shift` have one float a channel or none; `gate` is a buffer of one pixel.
  PointwiseStep(const kernels::KernelTable& kernels, const Node& node, const Buffer& input,
                const Buffer* residual, const Buffer* gate, const Buffer& output,
                AlignedFloats scale, AlignedFloats shift)
      : kernels_(kernels),
        node_(node),
        input_(input),
        residual_(residual),
        gate_(gate),
        output_(output),
        scale_(std::move(scale)),
        shift_(std::move(shift)) {}

  void run(const Frame& frame, Share share) const override {
    const auto [begin, end] = share.of(output_.height);
    output_.clear_border(frame.arena, begin, end);
    kernels::Pointwise e;
    e.input = from(input_.input(frame.arena), begin);
    e.scale = gate_ == nullptr ? scale_.data() : gate_->at(frame.arena);
    e.shift = shift_.data();
    e.output = from(output_.image(frame.arena), begin);
    e.rows = end - begin;
    e.pixels = output_.width;
    e.vectors = output_.pixel / kernels_.width;
    e.epilogue = from(epilogue_of(node_, residual_, output_, frame.arena), begin);
    kernels_.pointwise(e);
  }

  std::string describe() const override {
    std::string text = gate_ != nullptr              ? "gate"
                       : node_.kind == NodeKind::add ? "sum"
                       : scale_.data() != nullptr    ? "affine"
                                                     : "activation";
    return text + describe_epilogue(node_);
  }

 private:
  const kernels::KernelTable& kernels_;
  const Node& node_;
  const Buffer& input_;
  const Buffer* residual_;
  const Buffer* gate_;
  const Buffer& output_;
  AlignedFloats scale_;
  AlignedFloats shift_;
};

}  // namespace bsconv::infer
