// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/block.hpp>
#include <bsconv/autograd/block_input.hpp>
#include <bsconv/autograd/block_statistics.hpp>
#include <bsconv/autograd/hidden_images.hpp>
#include <bsconv/autograd/images.hpp>
#include <bsconv/autograd/normalization_backward.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

namespace bsconv::detail {

/// Goes back through a block's batch normalization, activation and depthwise convolution, some
/// pixels at a time.
///
/// Unless the forward pass has kept it, what the depthwise convolution has read is computed again,
/// row by row, from what the pointwise one reads.
class DepthwiseBackward {
 public:
  /// Some adjacent pixels of all images.
  struct Pixels {
    /// The first of them.
    int64_t first = 0;
    /// How many.
    int64_t count = 0;
    /// What the pointwise convolution reads.
    const float* input = nullptr;
    /// The gradient of what it makes of them, `[count, out]`.
    const float* gradient = nullptr;
  };

  /// For `block`, whose `pointwise` reads `input`. `hidden` is what the depthwise convolution has
  /// read, if that was kept, `gradient` the gradient of the block's output, and `norm` how it
  /// passes the batch normalization at the end, null without one.
  DepthwiseBackward(const TrainingBlock& block, const kernels::TrainingKernelTable& kernels,
                    const BlockStatistics& statistics, const BlockInput& input,
                    const HiddenImages& hidden, const PixelTensor& gradient,
                    const NormalizationBackward* norm)
      : block_(block),
        kernels_(kernels),
        input_(input),
        hidden_(hidden),
        gradient_(gradient),
        norm_(norm),
        width_(kernels.forward->width),
        out_(block.pointwise.size(0)),
        weights_(kernels::pack_depthwise(block.depthwise, torch::Tensor(), width_)) {
    if (!hidden_.defined()) {
      pointwise_.emplace(*kernels_.forward, kernels::matrix_of(statistics.weight), statistics.bias);
    }
  }

  /// Calls `next(Pixels)` for the pixels of the images `begin` to `end` in turn, and adds the
  /// gradient of the depthwise weight to `weight`, `[vectors, taps, width of a vector]`. Meanwhile
  /// the same pixels of `soon`, which `next` needs, are fetched.
  template <class Next>
  void run(int64_t begin, int64_t end, float* weight, const std::array<PixelTensor, 2>& soon,
           const Next& next) const {
    kernels::DepthwiseGradient d;
    std::copy_n(block_.geometry.kernel.data(), 2, d.kernel);
    std::copy_n(block_.geometry.stride.data(), 2, d.stride);
    std::copy_n(block_.geometry.dilation.data(), 2, d.dilation);
    d.weights = weights_.weights.data();
    d.weight_gradient = weight;
    d.vectors = out_ / width_;
    if (d.gathers()) {
      gather(d, begin, end, soon, next);
    } else {
      spread(d, begin, end, next);
    }
  }

 private:
  // What `make_gradient` reads, from a row on, while the pixels of `u` are gone through.
  std::array<kernels::Prefetch, 2> gradient_from(int64_t image, int64_t row) const {
    const int64_t pixel = out_ * gradient_.pixels() / input_.images().pixels();
    if (norm_ == nullptr) {
      return {{{gradient_.at(image, row), pixel}}};
    }
    const auto n = norm_->rows(image, row, 1);
    return {{{n.gradient.data, pixel}, {n.input.data, pixel}}};
  }

  // Rows of the gradient of the depthwise convolution's output, into planes.
  void make_gradient(int64_t image, int64_t first, int64_t rows, float* to, int64_t row,
                     int64_t plane) const {
    kernels::NormalizationGradient n;
    if (norm_ != nullptr) {
      n = norm_->rows(image, first, rows);
    } else {
      n.gradient = {gradient_.at(image, first), gradient_.width * out_, out_};
      n.rows = rows;
      n.pixels = gradient_.width;
    }
    n.output = {to, row, width_};
    n.output_vector = plane;
    n.vectors = out_ / width_;
    kernels_.normalization_gradient(n);
  }

  // Stride 1: some rows of the input at a time, which gather what meets them.
  template <class Next>
  void gather(kernels::DepthwiseGradient d, int64_t begin, int64_t end,
              const std::array<PixelTensor, 2>& soon, const Next& next) const {
    constexpr int64_t cached_floats = 24 * 1024;
    const auto& g = block_.geometry;
    const auto& u = input_.images();
    const int64_t halo[2] = {g.reach(0), g.reach(1)};
    const int64_t band = std::clamp<int64_t>(cached_floats / (u.width * out_), 1, u.height);
    const int64_t vectors = out_ / width_;
    d.gradient_row = (u.width + halo[1]) * width_;
    d.gradient_plane = (band + halo[0]) * d.gradient_row;
    d.input_row = pointwise_ ? u.width * width_ : hidden_.row();
    d.input_plane = pointwise_ ? band * d.input_row : hidden_.plane();
    d.input_gradient_row = u.width * out_;
    d.input_gradient_pixel = out_;
    d.input_gradient_vector = width_;
    d.pixels = u.width;
    float* gradient = scratch(0, vectors * d.gradient_plane);
    float* input = pointwise_ ? scratch(1, vectors * d.input_plane) : nullptr;
    // Small images wait for each other.
    const int64_t together = std::max(band * u.width, few_pixels);
    float* pixels = scratch(2, together * out_);
    float* made = scratch(4, input_.room(together));
    std::fill_n(gradient, vectors * d.gradient_plane, 0.0F);
    d.gradient = gradient;
    d.input = input;
    Pixels waiting = {begin * u.pixels(), 0, nullptr, pixels};
    for (int64_t image = begin; image < end; ++image) {
      for (int64_t first = 0; first < u.height; first += band) {
        const int64_t pixel = image * u.pixels() + first * u.width;
        d.input_gradient = pixels + waiting.count * out_;
        d.rows = std::min(band, u.height - first);
        const float* from = input_.read(pixel, d.rows * u.width, made + input_.room(waiting.count));
        if (waiting.count == 0) {
          waiting.input = from;
        }
        if (pointwise_) {
          pointwise_->run({from, 0, u.channels}, {input, 0, width_}, d.input_plane, 1,
                          d.rows * u.width, {}, gradient_from(image, first));
        } else {
          d.input = hidden_.at(image, first);
        }
        // The rows of the gradient that meet these, those outside of it being zeros.
        const int64_t top = first + g.padding[0] - halo[0];
        const int64_t bottom = top + d.rows + halo[0];
        const int64_t inside = std::clamp<int64_t>(0, top, bottom);
        const int64_t outside = std::clamp(gradient_.height, inside, bottom);
        for (int64_t v = 0; v < vectors; ++v) {
          float* plane = gradient + v * d.gradient_plane;
          std::fill(plane, plane + (inside - top) * d.gradient_row, 0.0F);
          std::fill(plane + (outside - top) * d.gradient_row,
                    plane + (bottom - top) * d.gradient_row, 0.0F);
        }
        make_gradient(
            image, inside, outside - inside,
            gradient + (inside - top) * d.gradient_row + (halo[1] - g.padding[1]) * width_,
            d.gradient_row, d.gradient_plane);
        std::transform(soon.begin(), soon.end(), d.prefetch,
                       [&](const PixelTensor& images) { return prefetch_from(images, pixel); });
        kernels_.depthwise_gradient(d);
        waiting.count += d.rows * u.width;
        const int64_t reached = pixel + d.rows * u.width;
        if (waiting.count + band * u.width > together || reached == end * u.pixels()) {
          next(waiting);
          waiting.first = reached;
          waiting.count = 0;
        }
      }
    }
  }

  // Any geometry: a whole image at a time, over whose windows the gradient is spread.
  template <class Next>
  void spread(kernels::DepthwiseGradient d, int64_t begin, int64_t end, const Next& next) const {
    const auto& g = block_.geometry;
    const auto& u = input_.images();
    const int64_t vectors = out_ / width_;
    d.rows = gradient_.height;
    d.pixels = gradient_.width;
    d.gradient_row = gradient_.width * width_;
    d.gradient_plane = gradient_.height * d.gradient_row;
    d.input_row = (u.width + 2 * g.padding[1]) * width_;
    d.input_plane = (u.height + 2 * g.padding[0]) * d.input_row;
    float* gradient = scratch(0, vectors * d.gradient_plane);
    float* input = scratch(1, vectors * d.input_plane);
    float* input_gradient = scratch(3, vectors * d.input_plane);
    float* pixels = scratch(2, u.pixels() * out_);
    float* made = scratch(4, input_.room(u.pixels()));
    std::fill_n(input, vectors * d.input_plane, 0.0F);
    d.gradient = gradient;
    d.input = input;
    d.input_gradient = input_gradient;
    const int64_t corner = g.padding[0] * d.input_row + g.padding[1] * width_;
    for (int64_t image = begin; image < end; ++image) {
      std::fill_n(input_gradient, vectors * d.input_plane, 0.0F);
      const float* from = input_.read(image * u.pixels(), u.pixels(), made);
      if (pointwise_) {
        pointwise_->run({from, u.width * u.channels, u.channels},
                        {input + corner, d.input_row, width_}, d.input_plane, u.height, u.width, {},
                        gradient_from(image, 0));
      } else {
        hidden_.load(image, input + corner, d.input_row, d.input_plane);
      }
      make_gradient(image, 0, gradient_.height, gradient, d.gradient_row, d.gradient_plane);
      kernels_.depthwise_gradient(d);
      kernels::NormalizationGradient copy;
      for (int64_t v = 0; v < vectors; ++v) {
        copy.gradient = {input_gradient + v * d.input_plane + corner, d.input_row, width_};
        copy.output = {pixels + v * width_, u.width * out_, out_};
        copy.rows = u.height;
        copy.pixels = u.width;
        copy.vectors = 1;
        kernels_.normalization_gradient(copy);
      }
      next(Pixels{image * u.pixels(), u.pixels(), from, pixels});
    }
  }

  const TrainingBlock& block_;
  const kernels::TrainingKernelTable& kernels_;
  const BlockInput& input_;
  HiddenImages hidden_;
  PixelTensor gradient_;
  const NormalizationBackward* norm_;
  int64_t width_;
  int64_t out_;
  kernels::PackedDepthwise weights_;
  std::optional<PackedPointwise> pointwise_;
};

}  // namespace bsconv::detail
