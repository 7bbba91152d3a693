// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/infer/step.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::infer {

/// A convolution that sums over channels.
class ConvolutionStep : public Step {
 public:
  /// A step that does what `node` says on `input` into `output`; `residual` may be null.
  ConvolutionStep(const kernels::KernelTable& kernels, const Node& node, const Buffer& input,
                  const Buffer* residual, const Buffer& output,
                  std::shared_ptr<const kernels::PackedConvolution> weights)
      : kernels_(kernels),
        node_(node),
        input_(input),
        residual_(residual),
        output_(output),
        weights_(std::move(weights)) {
    const auto& kernel = node_.kernel;
    const auto& dilation = node_.dilation;
    const int64_t channels = input_.channels;
    const int64_t planes = input_.planar ? channels : 1;
    // What lies together in a window is one segment.
    const bool whole_rows =
        dilation[1] == 1 && (input_.planar ? weights_->pairs : input_.pixel == channels);
    const int64_t columns = whole_rows ? 1 : kernel[1];
    depth_ = (input_.planar ? 1 : channels) * (whole_rows ? kernel[1] : 1);
    depth_ += weights_->pairs ? depth_ % 2 : 0;
    for (int64_t c = 0; c < planes; ++c) {
      for (int64_t y = 0; y < kernel[0]; ++y) {
        for (int64_t x = 0; x < columns; ++x) {
          segments_.push_back(c * input_.plane + (y * dilation[0] - node_.padding[0]) * input_.row +
                              (x * dilation[1] - node_.padding[1]) * input_.pixel);
        }
      }
    }
    multiply_adds_ = node_.weight.numel() * output_.height * output_.width;
    flat_ = input_.is_dense() && output_.is_dense() && node_.is_pointwise() &&
            node_.stride[0] == 1 && node_.stride[1] == 1 &&
            (residual_ == nullptr || residual_->is_dense());
    // The weights of a window wider than a pixel are larger than a band.
    const bool one_panel = weights_->panels.size() == 1;
    const bool banded = rounds_input() ? !input_.planar && (node_.is_pointwise() || one_panel)
                                       : node_.is_pointwise() && !one_panel;
    const int64_t total = flat_ ? output_.height * output_.width : output_.height;
    band_ = banded
                ? std::min(total, rows_in_band(flat_ ? input_.pixel : input_.row * node_.stride[0]))
                : total;
  }

  void run(const Frame& frame, Share share) const override {
    kernels::Convolution c;
    c.epilogue = epilogue_of(node_, residual_, output_, frame.arena);
    c.rounded = weights_->pairs ? input_.rounded(frame.arena).data : nullptr;
    c.input = input_.input(frame.arena);
    c.input.row *= node_.stride[0];
    c.input.pixel *= node_.stride[1];
    c.output = output_.image(frame.arena);
    c.output_vector = kernels_.width;
    const auto [begin, end] = share.of(flat_ ? output_.height * output_.width : output_.height);
    if (!flat_) {
      output_.clear_border(frame.arena, begin, end);
    }
    for (int64_t first = begin; first < end; first += band_) {
      auto band = part(c, first, std::min(first + band_, end));
      if (rounds_input()) {
        auto* rounded = reinterpret_cast<uint16_t*>(frame.scratch);
        kernels_.round(band.input.data + segments_.front(), covered(band), rounded);
        band.rounded = rounded - segments_.front();
      }
      run_panels(band);
    }
  }

  int64_t multiply_adds() const override { return multiply_adds_; }

  std::size_t scratch() const override {
    if (!rounds_input()) {
      return 0;
    }
    kernels::Convolution c;
    c.input = {nullptr, input_.row * node_.stride[0], input_.pixel * node_.stride[1]};
    return static_cast<std::size_t>(floats_of_rounded(covered(part(c, 0, band_))));
  }

  std::string describe() const override {
    std::string text = "convolution ";
    text += std::to_string(node_.kernel[0]) + "x" + std::to_string(node_.kernel[1]);
    return text + describe_epilogue(node_);
  }

 private:
  // Whether the input is needed in bf16 and there in floats only.
  bool rounds_input() const { return weights_->pairs && !input_.in_bf16; }

  // How many numbers lie between the first and the last of all windows of `c`; segments ascend.
  int64_t covered(const kernels::Convolution& c) const {
    return segments_.back() - segments_.front() + depth_ + (c.rows - 1) * c.input.row +
           (c.pixels - 1) * c.input.pixel;
  }

  // Rows, or pixels if flat, `begin` to `end` of `c`.
  kernels::Convolution part(kernels::Convolution c, int64_t begin, int64_t end) const {
    const int64_t row = flat_ ? 0 : begin;
    const int64_t pixel = flat_ ? begin : 0;
    c.rows = flat_ ? 1 : end - begin;
    c.pixels = flat_ ? end - begin : output_.width;
    if (c.rounded != nullptr) {
      c.rounded += row * c.input.row + pixel * c.input.pixel;
    }
    c.input = from(c.input, row, pixel);
    c.output = from(c.output, row, pixel);
    c.epilogue = from(c.epilogue, row, pixel);
    return c;
  }

  void run_panels(kernels::Convolution c) const {
    // As much of a panel as stays in the second-level cache while all pixels use it.
    constexpr int64_t panel_bytes = 384 * 1024;
    const auto output = c.output;
    const auto epilogue = c.epilogue;
    const int64_t count = static_cast<int64_t>(segments_.size());
    const int64_t deep = weights_->pairs ? depth_ / 2 : depth_;
    for (const auto& panel : weights_->panels) {
      const int64_t lanes = panel.vectors * kernels_.width;
      const int64_t fitting =
          std::max<int64_t>(1, panel_bytes / (deep * lanes * int64_t{sizeof(float)}));
      const int64_t rounds = (count + fitting - 1) / fitting;
      c.depth = depth_;
      c.vectors = panel.vectors;
      c.bias = weights_->data.data() + panel.bias;
      c.output = from(output, 0, 0, panel.first * kernels_.width);
      c.epilogue = from(epilogue, 0, 0, panel.first * kernels_.width);
      for (int64_t round = 0; round < rounds; ++round) {
        const auto [begin, end] = Share{round, rounds}.of(count);
        c.segments = segments_.data() + begin;
        c.segment_count = end - begin;
        c.weights = weights_->data.data() + panel.weights + begin * deep * lanes;
        c.first = round == 0;
        c.last = round == rounds - 1;
        kernels_.convolve(c);
      }
    }
  }

  const kernels::KernelTable& kernels_;
  const Node& node_;
  const Buffer& input_;
  const Buffer* residual_;
  const Buffer& output_;
  std::shared_ptr<const kernels::PackedConvolution> weights_;
  std::vector<int64_t> segments_;
  int64_t depth_ = 0;
  int64_t multiply_adds_ = 0;
  bool flat_ = false;
  // Rows, or pixels if flat, that all panels go over before the next ones come.
  int64_t band_ = 0;
};

}  // namespace bsconv::infer
