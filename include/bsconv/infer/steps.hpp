// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/infer/step.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::infer {

/// Brings the model's input `[C, H, W]` into a buffer, with an affine map by channel.
class ImportStep : public Step {
 public:
  /// `scale` and `shift` have one float a channel, or none for no map.
  ImportStep(const Buffer& to, AlignedFloats scale, AlignedFloats shift)
      : to_(to), scale_(std::move(scale)), shift_(std::move(shift)) {}

  void run(const Frame& frame, Share share) const override {
    const auto [begin, end] = share.of(to_.height);
    to_.clear_border(frame.arena, begin, end);
    float* first = to_.at(frame.arena);
    const int64_t channel_step = to_.planar ? to_.plane : 1;
    for (int64_t c = 0; c < to_.channels; ++c) {
      const float scale = scale_.data() == nullptr ? 1.0F : scale_.data()[c];
      const float shift = shift_.data() == nullptr ? 0.0F : shift_.data()[c];
      for (int64_t y = begin; y < end; ++y) {
        const float* from = frame.input + (c * to_.height + y) * to_.width;
        float* to = first + c * channel_step + y * to_.row;
        if (to_.pixel == 1) {
          for (int64_t x = 0; x < to_.width; ++x) {
            to[x] = from[x] * scale + shift;
          }
        } else {
          for (int64_t x = 0; x < to_.width; ++x) {
            to[x * to_.pixel] = from[x] * scale + shift;
          }
        }
      }
    }
    if (!to_.planar) {
      clear_padding(first, begin, end);
    }
  }

  std::string describe() const override {
    return scale_.data() == nullptr ? "import" : "import + affine";
  }

 private:
  // The lanes behind the last channel.
  void clear_padding(float* first, int64_t begin, int64_t end) const {
    for (int64_t y = begin; y < end; ++y) {
      for (int64_t x = 0; x < to_.width; ++x) {
        float* pixel = first + y * to_.row + x * to_.pixel;
        std::fill(pixel + to_.channels, pixel + to_.pixel, 0.0F);
      }
    }
  }

  const Buffer& to_;
  AlignedFloats scale_;
  AlignedFloats shift_;
};

/// The epilogue of `node`, whose residual lies in `residual`.
inline kernels::Epilogue epilogue_of(const Node& node, const Buffer* residual, float* arena) {
  kernels::Epilogue epilogue;
  epilogue.before = node.before;
  epilogue.after = node.after;
  if (residual != nullptr) {
    epilogue.residual = residual->input(arena);
  }
  return epilogue;
}

/// `image` from `row` and `pixel` on.
template <class Float>
kernels::Image<Float> from(kernels::Image<Float> image, int64_t row, int64_t pixel = 0) {
  if (image.data != nullptr) {
    image.data += row * image.row + pixel * image.pixel;
  }
  return image;
}

/// A convolution that sums over channels.
class ConvolutionStep : public Step {
 public:
  ConvolutionStep(const kernels::KernelTable& kernels, const Node& node, const Buffer& input,
                  const Buffer* residual, const Buffer& output,
                  std::shared_ptr<const PackedConvolution> weights)
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
    const bool whole_rows = dilation[1] == 1 && !input_.planar && input_.pixel == channels;
    const int64_t columns = whole_rows ? 1 : kernel[1];
    depth_ = (input_.planar ? 1 : channels) * (whole_rows ? kernel[1] : 1);
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
  }

  void run(const Frame& frame, Share share) const override {
    kernels::Convolution c;
    c.epilogue = epilogue_of(node_, residual_, frame.arena);
    c.input = input_.input(frame.arena);
    c.input.row *= node_.stride[0];
    c.input.pixel *= node_.stride[1];
    c.output = output_.image(frame.arena);
    c.output_vector = kernels_.width;
    if (flat_) {
      const auto [begin, end] = share.of(output_.height * output_.width);
      c.rows = 1;
      c.pixels = end - begin;
      c.input = from(c.input, 0, begin);
      c.output = from(c.output, 0, begin);
      c.epilogue.residual = from(c.epilogue.residual, 0, begin);
    } else {
      const auto [begin, end] = share.of(output_.height);
      output_.clear_border(frame.arena, begin, end);
      c.rows = end - begin;
      c.pixels = output_.width;
      c.input = from(c.input, begin);
      c.output = from(c.output, begin);
      c.epilogue.residual = from(c.epilogue.residual, begin);
    }
    if (c.rows > 0 && c.pixels > 0) {
      run_panels(c);
    }
  }

  int64_t multiply_adds() const override { return multiply_adds_; }

  std::string describe() const override {
    std::string text = "convolution ";
    text += std::to_string(node_.kernel[0]) + "x" + std::to_string(node_.kernel[1]);
    return text + describe_epilogue(node_);
  }

 private:
  void run_panels(kernels::Convolution c) const {
    // As much of a panel as stays in the second-level cache while all pixels use it.
    constexpr int64_t panel_bytes = 384 * 1024;
    const auto output = c.output;
    const auto residual = c.epilogue.residual;
    const int64_t count = static_cast<int64_t>(segments_.size());
    for (const auto& panel : weights_->panels) {
      const int64_t lanes = panel.vectors * kernels_.width;
      const int64_t fitting =
          std::max<int64_t>(1, panel_bytes / (depth_ * lanes * int64_t{sizeof(float)}));
      const int64_t rounds = (count + fitting - 1) / fitting;
      c.depth = depth_;
      c.vectors = panel.vectors;
      c.bias = weights_->data.data() + panel.bias;
      c.output.data = output.data + panel.first * kernels_.width;
      c.epilogue.residual.data =
          residual.data == nullptr ? nullptr : residual.data + panel.first * kernels_.width;
      for (int64_t round = 0; round < rounds; ++round) {
        const auto [begin, end] = Share{round, rounds}.of(count);
        c.segments = segments_.data() + begin;
        c.segment_count = end - begin;
        c.weights = weights_->data.data() + panel.weights + begin * depth_ * lanes;
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
  std::shared_ptr<const PackedConvolution> weights_;
  std::vector<int64_t> segments_;
  int64_t depth_ = 0;
  int64_t multiply_adds_ = 0;
  bool flat_ = false;
};

/// A pointwise convolution and the depthwise one after it, whose rows meet in the first-level
/// cache; or a depthwise convolution alone.
class DepthwiseStep : public Step {
 public:
  /// How many panels' worth of channels, and how many rows, go together.
  struct Blocking {
    int64_t vectors = 1;
    int64_t rows = 1;
  };

  /// Chooses the blocking that keeps the rows between the two in `bytes` of memory.
  static Blocking choose(const Node& node, const Buffer& input, const Buffer& output, int64_t width,
                         int64_t most_vectors, int64_t bytes) {
    const int64_t vectors = output.pixel / width;
    Blocking best;
    for (int64_t v = std::min(vectors, most_vectors); v >= 1; --v) {
      const int64_t row_bytes = columns(node, input, output) * v * width * int64_t{sizeof(float)};
      const int64_t fitting = bytes / row_bytes - span(node);
      best.vectors = v;
      best.rows = std::clamp<int64_t>(fitting / node.stride[0] + 1, 1, output.height);
      if (best.rows * node.stride[0] >= std::min<int64_t>(output.height, 4)) {
        break;
      }
    }
    return best;
  }

  DepthwiseStep(const kernels::KernelTable& kernels, const Node* pointwise, const Node& depthwise,
                const Buffer& input, const Buffer* residual, const Buffer& output,
                std::shared_ptr<const PackedConvolution> pointwise_weights,
                std::shared_ptr<const PackedDepthwise> weights, Blocking blocking)
      : kernels_(kernels),
        pointwise_(pointwise),
        node_(depthwise),
        input_(input),
        residual_(residual),
        output_(output),
        pointwise_weights_(std::move(pointwise_weights)),
        weights_(std::move(weights)),
        blocking_(blocking),
        columns_(columns(node_, input_, output_)) {
    multiply_adds_ = node_.weight.numel() * output_.height * output_.width;
    if (pointwise_ != nullptr) {
      multiply_adds_ += pointwise_->weight.numel() * input_.height * input_.width;
    }
    panels_ = pointwise_weights_ != nullptr
                  ? pointwise_weights_->panels
                  : split_panels(output_.pixel / kernels_.width, blocking_.vectors);
    int64_t most = 0;
    for (const auto& panel : panels_) {
      most = std::max(most, panel.vectors);
    }
    blocking_.vectors = most;
    if (input_.planar) {
      for (int64_t c = 0; c < input_.channels; ++c) {
        segments_.push_back(c * input_.plane);
      }
    } else {
      segments_.push_back(0);
    }
  }

  void run(const Frame& frame, Share share) const override {
    const auto [begin, end] = share.of(output_.height);
    output_.clear_border(frame.arena, begin, end);
    if (begin == end) {
      return;
    }
    for (const auto& panel : panels_) {
      run_panel(frame, panel, begin, end);
    }
  }

  int64_t multiply_adds() const override { return multiply_adds_; }

  std::size_t scratch() const override {
    return static_cast<std::size_t>(plane() * blocking_.vectors);
  }

  std::string describe() const override {
    std::string text;
    if (pointwise_ != nullptr) {
      text += "convolution 1x1" + describe_epilogue(*pointwise_) + " -> ";
    }
    text += "depthwise ";
    text += std::to_string(node_.kernel[0]) + "x" + std::to_string(node_.kernel[1]);
    return text + describe_epilogue(node_);
  }

 private:
  // Rows that a window covers.
  static int64_t span(const Node& node) { return (node.kernel[0] - 1) * node.dilation[0] + 1; }

  // Pixels from a row to the next: those of the input and the zeros between two rows, which serve
  // as the right end of one and the left end of the other.
  static int64_t columns(const Node& node, const Buffer& input, const Buffer& output) {
    const int64_t reach = (output.width - 1) * node.stride[1] +
                          (node.kernel[1] - 1) * node.dilation[1] + 1 - node.padding[1];
    return input.width + std::max({int64_t{0}, node.padding[1], reach - input.width});
  }

  // Floats of a row between the two layers, for one vector of channels.
  int64_t row() const { return columns_ * kernels_.width; }
  // Rows between the two layers.
  int64_t capacity() const { return (blocking_.rows - 1) * node_.stride[0] + span(node_); }

  // Floats of all rows of one vector, with the zeros before the first.
  int64_t plane() const { return capacity() * row() + node_.padding[1] * kernels_.width; }

  void run_panel(const Frame& frame, const PackedConvolution::Panel& panel, int64_t begin,
                 int64_t end) const {
    const int64_t stride = node_.stride[0];
    float* rows = frame.scratch;
    const int64_t plane = this->plane();
    clear_columns(rows, panel.vectors);

    kernels::Depthwise d;
    d.input = rows;
    d.input_row = row();
    d.input_vector = plane;
    std::copy(node_.kernel.begin(), node_.kernel.end(), d.kernel);
    std::copy(node_.stride.begin(), node_.stride.end(), d.stride);
    std::copy(node_.dilation.begin(), node_.dilation.end(), d.dilation);
    const int64_t channel = panel.first * kernels_.width;
    d.weights = weights_->weights.data() + channel * node_.kernel[0] * node_.kernel[1];
    d.bias = weights_->bias.data() + channel;
    d.pixels = output_.width;
    d.vectors = panel.vectors;
    d.epilogue = epilogue_of(node_, residual_, frame.arena);
    const auto residual = d.epilogue.residual;
    const auto output = output_.image(frame.arena);

    int64_t carried = 0;
    for (int64_t y = begin; y < end; y += blocking_.rows) {
      const int64_t count = std::min(blocking_.rows, end - y);
      const int64_t needed = (count - 1) * stride + span(node_);
      const int64_t first = y * stride - node_.padding[0];
      make_rows(frame, panel, first + carried, needed - carried, rows + carried * row());
      d.rows = count;
      d.output = from(output, y);
      d.output.data += channel;
      d.epilogue.residual = from(residual, y);
      if (residual.data != nullptr) {
        d.epilogue.residual.data += channel;
      }
      kernels_.depthwise(d);
      carried = std::max<int64_t>(0, needed - count * stride);
      if (carried > 0 && y + count < end) {
        for (int64_t v = 0; v < panel.vectors; ++v) {
          std::memmove(rows + v * plane, rows + v * plane + count * stride * row(),
                       static_cast<std::size_t>(carried * row()) * sizeof(float));
        }
      }
    }
  }

  // The zeros before, between and behind the rows of `vectors` images.
  void clear_columns(float* rows, int64_t vectors) const {
    const int64_t left = node_.padding[1] * kernels_.width;
    const int64_t inside = input_.width * kernels_.width;
    for (int64_t v = 0; v < vectors; ++v) {
      float* at = rows + v * plane();
      std::fill_n(at, left, 0.0F);
      at += left + inside;
      for (int64_t y = 0; y < capacity(); ++y, at += row()) {
        std::fill_n(at, row() - inside, 0.0F);
      }
    }
  }

  // Fills `count` rows with those of the input from `first` on; rows outside of it are zeros.
  void make_rows(const Frame& frame, const PackedConvolution::Panel& panel, int64_t first,
                 int64_t count, float* to) const {
    const int64_t plane = this->plane();
    const int64_t begin = std::clamp<int64_t>(first, 0, input_.height);
    const int64_t end = std::clamp<int64_t>(first + count, begin, input_.height);
    float* inside = to + node_.padding[1] * kernels_.width;
    for (int64_t y = first; y < first + count; ++y) {
      for (int64_t v = 0; (y < begin || y >= end) && v < panel.vectors; ++v) {
        std::fill_n(inside + v * plane + (y - first) * row(), input_.width * kernels_.width, 0.0F);
      }
    }
    if (begin == end) {
      return;
    }
    inside += (begin - first) * row();
    if (pointwise_ == nullptr) {
      copy_rows(from(input_.input(frame.arena), begin), panel, end - begin, inside);
      return;
    }
    kernels::Convolution c;
    c.input = from(input_.input(frame.arena), begin);
    c.segments = segments_.data();
    c.segment_count = static_cast<int64_t>(segments_.size());
    c.depth = input_.planar ? 1 : input_.channels;
    c.weights = pointwise_weights_->data.data() + panel.weights;
    c.bias = pointwise_weights_->data.data() + panel.bias;
    c.output = {inside, row(), kernels_.width};
    c.output_vector = plane;
    c.rows = end - begin;
    c.pixels = input_.width;
    c.vectors = panel.vectors;
    c.epilogue.before = pointwise_->before;
    c.epilogue.after = pointwise_->after;
    kernels_.convolve(c);
  }

  void copy_rows(kernels::Image<const float> image, const PackedConvolution::Panel& panel,
                 int64_t count, float* to) const {
    kernels::Pointwise copy;
    copy.input = image;
    copy.rows = count;
    copy.pixels = input_.width;
    for (int64_t v = 0; v < panel.vectors; ++v) {
      copy.input.data = image.data + (panel.first + v) * kernels_.width;
      copy.output = {to + v * plane(), row(), kernels_.width};
      kernels_.pointwise(copy);
    }
  }

  const kernels::KernelTable& kernels_;
  const Node* pointwise_;
  const Node& node_;
  const Buffer& input_;
  const Buffer* residual_;
  const Buffer& output_;
  std::shared_ptr<const PackedConvolution> pointwise_weights_;
  std::shared_ptr<const PackedDepthwise> weights_;
  Blocking blocking_;
  int64_t columns_;
  int64_t multiply_adds_ = 0;
  std::vector<PackedConvolution::Panel> panels_;
  std::vector<int64_t> segments_;
};

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
    e.epilogue = epilogue_of(node_, residual_, frame.arena);
    e.epilogue.residual = from(e.epilogue.residual, begin);
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

/// A maximum or mean of windows.
class PoolStep : public Step {
 public:
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
