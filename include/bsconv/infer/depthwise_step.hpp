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

/// A pointwise convolution and the depthwise one after it, whose rows meet in the first-level
/// cache; or a depthwise convolution alone.
class DepthwiseStep : public Step {
 public:
  /// How many panels' worth of channels, and how many rows, go together.
  struct Blocking {
    /// Vectors of channels that go together.
    int64_t vectors = 1;
    /// Rows of output that go together.
    int64_t rows = 1;
    /// Rows of output that all panels go over before the next rows come.
    int64_t band = 1;
  };

  /// Chooses the blocking that keeps the rows between the two in `bytes` of memory. Bands serve
  /// the panels of a `pointwise` convolution, which may be null: each of them reads all channels.
  static Blocking choose(const Node* pointwise, const Node& node, const Buffer& input,
                         const Buffer& output, int64_t width, int64_t most_vectors, int64_t bytes) {
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
    best.band = output.height;
    if (pointwise != nullptr && vectors > best.vectors) {
      const int64_t rows = rows_in_band(node.stride[0] * input.row);
      best.band = std::min(std::max(rows / best.rows, int64_t{1}) * best.rows, output.height);
    }
    return best;
  }

  /// A step for `depthwise`, with `pointwise` before it unless that is null; `residual` may be
  /// null.
  DepthwiseStep(const kernels::KernelTable& kernels, const Node* pointwise, const Node& depthwise,
                const Buffer& input, const Buffer* residual, const Buffer& output,
                std::shared_ptr<const kernels::PackedConvolution> pointwise_weights,
                std::shared_ptr<const kernels::PackedDepthwise> weights, Blocking blocking)
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
                  : kernels::split_panels(output_.pixel / kernels_.width, blocking_.vectors);
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
    for (int64_t band = begin; band < end; band += blocking_.band) {
      const int64_t band_end = std::min(band + blocking_.band, end);
      const uint16_t* rounded = input_.rounded(frame.arena).data;
      if (rounds_input() && panels_.size() > 1) {
        const int64_t top = first_row(band) + (band > begin ? carried_rows() : 0);
        const auto rows = rows_inside(top, first_row(band_end - 1) + span(node_) - top);
        rounded = round(frame, rows.first, rows.second);
      }
      for (const auto& panel : panels_) {
        run_panel(frame, panel, rounded, band, band_end, begin, end);
      }
    }
  }

  int64_t multiply_adds() const override { return multiply_adds_; }

  std::size_t scratch() const override {
    int64_t floats = rounded_offset();
    if (rounds_input()) {
      const int64_t rows = panels_.size() > 1 ? blocking_.band : blocking_.rows;
      floats += floats_of_rounded(((rows - 1) * node_.stride[0] + span(node_)) * input_.row);
    }
    return static_cast<std::size_t>(floats);
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

  // Rows between the layers that two blocks of rows share.
  int64_t carried_rows() const { return std::max<int64_t>(0, span(node_) - node_.stride[0]); }

  // Floats of a row between the two layers, for one vector of channels.
  int64_t row() const { return columns_ * kernels_.width; }
  // Rows between the two layers.
  int64_t capacity() const { return (blocking_.rows - 1) * node_.stride[0] + span(node_); }

  // Floats of all rows of one vector, with the zeros before the first.
  int64_t plane() const { return capacity() * row() + node_.padding[1] * kernels_.width; }

  // Floats of the rows that two blocks share, for one vector of channels.
  int64_t carried_plane() const { return carried_rows() * row(); }

  bool in_bf16() const { return pointwise_weights_ != nullptr && pointwise_weights_->pairs; }

  // Whether the input is there in floats only.
  bool rounds_input() const { return in_bf16() && !input_.in_bf16; }

  // Where in the scratch memory the rows in bf16 lie, behind those between the two layers and those
  // that two bands share.
  int64_t rounded_offset() const {
    const int64_t kept = blocking_.band < output_.height ? output_.pixel / kernels_.width : 0;
    return plane() * blocking_.vectors + kept * carried_plane();
  }

  // The first row under the window of row `y` of the output; it may lie above the image.
  int64_t first_row(int64_t y) const { return y * node_.stride[0] - node_.padding[0]; }

  // Those of `count` rows from `first` on that the input has: the first one and the end.
  std::pair<int64_t, int64_t> rows_inside(int64_t first, int64_t count) const {
    const int64_t begin = std::clamp<int64_t>(first, 0, input_.height);
    return {begin, std::clamp<int64_t>(first + count, begin, input_.height)};
  }

  // Rounds rows `begin` to `end` of the input; returns where the first row of the image would be.
  const uint16_t* round(const Frame& frame, int64_t begin, int64_t end) const {
    auto* to = reinterpret_cast<uint16_t*>(frame.scratch + rounded_offset());
    if (begin < end) {
      const auto rows = from(input_.input(frame.arena), begin);
      kernels_.round(rows.data, (end - begin - 1) * input_.row + input_.width * input_.pixel, to);
    }
    return to - begin * input_.row;
  }

  // Rows `begin` to `end` of those from `first` to `last` that this thread makes. `rounded` is the
  // input in bf16, or null if each block of rows is rounded when its turn comes.
  void run_panel(const Frame& frame, const kernels::PackedConvolution::Panel& panel,
                 const uint16_t* rounded, int64_t begin, int64_t end, int64_t first,
                 int64_t last) const {
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
    const auto epilogue = epilogue_of(node_, residual_, output_, frame.arena);
    const auto output = output_.image(frame.arena);

    float* kept = frame.scratch + plane * blocking_.vectors + panel.first * carried_plane();
    int64_t carried = 0;
    if (begin > first) {
      carried = carried_rows();
      carry(kept, carried_plane(), rows, plane, panel.vectors);
    }
    for (int64_t y = begin; y < end; y += blocking_.rows) {
      const int64_t count = std::min(blocking_.rows, end - y);
      const int64_t needed = (count - 1) * stride + span(node_);
      make_rows(frame, panel, rounded, first_row(y) + carried, needed - carried,
                rows + carried * row());
      d.rows = count;
      d.output = from(output, y, 0, channel);
      d.epilogue = from(epilogue, y, 0, channel);
      kernels_.depthwise(d);
      carried = carried_rows();
      const float* next = rows + count * stride * row();
      if (y + count < end) {
        carry(next, plane, rows, plane, panel.vectors);
      } else if (end < last) {
        carry(next, plane, kept, carried_plane(), panel.vectors);
      }
    }
  }

  // Copies the rows that two blocks share.
  void carry(const float* from, int64_t from_plane, float* to, int64_t to_plane,
             int64_t vectors) const {
    for (int64_t v = 0; v < vectors; ++v) {
      std::memmove(to + v * to_plane, from + v * from_plane,
                   static_cast<std::size_t>(carried_plane()) * sizeof(float));
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
  void make_rows(const Frame& frame, const kernels::PackedConvolution::Panel& panel,
                 const uint16_t* rounded, int64_t first, int64_t count, float* to) const {
    const int64_t plane = this->plane();
    const auto [begin, end] = rows_inside(first, count);
    float* pixels = to + node_.padding[1] * kernels_.width;
    for (int64_t y = first; y < first + count; ++y) {
      for (int64_t v = 0; (y < begin || y >= end) && v < panel.vectors; ++v) {
        std::fill_n(pixels + v * plane + (y - first) * row(), input_.width * kernels_.width, 0.0F);
      }
    }
    if (begin == end) {
      return;
    }
    pixels += (begin - first) * row();
    if (pointwise_ == nullptr) {
      copy_rows(from(input_.input(frame.arena), begin), panel, end - begin, pixels);
      return;
    }
    kernels::Convolution c;
    c.input = from(input_.input(frame.arena), begin);
    c.segments = segments_.data();
    c.segment_count = static_cast<int64_t>(segments_.size());
    c.depth = input_.planar ? 1 : input_.channels;
    if (in_bf16()) {
      c.depth += c.depth % 2;
      c.rounded = (rounded != nullptr ? rounded : round(frame, begin, end)) + begin * input_.row;
    }
    c.weights = pointwise_weights_->data.data() + panel.weights;
    c.bias = pointwise_weights_->data.data() + panel.bias;
    c.output = {pixels, row(), kernels_.width};
    c.output_vector = plane;
    c.rows = end - begin;
    c.pixels = input_.width;
    c.vectors = panel.vectors;
    c.epilogue.before = pointwise_->before;
    c.epilogue.after = pointwise_->after;
    kernels_.convolve(c);
  }

  void copy_rows(kernels::Image<const float> image, const kernels::PackedConvolution::Panel& panel,
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
  std::shared_ptr<const kernels::PackedConvolution> pointwise_weights_;
  std::shared_ptr<const kernels::PackedDepthwise> weights_;
  Blocking blocking_;
  int64_t columns_;
  int64_t multiply_adds_ = 0;
  std::vector<kernels::PackedConvolution::Panel> panels_;
  std::vector<int64_t> segments_;
};

}  // namespace bsconv::infer
