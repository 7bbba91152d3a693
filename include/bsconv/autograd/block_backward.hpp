// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/block_statistics.hpp>
#include <bsconv/autograd/hidden_images.hpp>
#include <bsconv/autograd/images.hpp>
#include <bsconv/autograd/normalization_backward.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>

namespace bsconv::detail {

/// The backward pass of a block on its fused kernels.
///
/// Unless the forward pass has kept it, what the depthwise convolution has read is computed again,
/// row by row, from what the pointwise one reads.
class BlockBackward {
 public:
  /// For `block`, on the kernels of its forward pass.
  BlockBackward(const TrainingBlock& block, const kernels::TrainingKernelTable& kernels,
                const BlockStatistics& statistics)
      : block_(block),
        kernels_(kernels),
        statistics_(statistics),
        width_(kernels.forward->width),
        out_(block.pointwise.size(0)),
        mid_(block.pointwise.size(1)),
        padded_(whole_vectors(mid_, width_)) {}

  /// Computes all gradients. `gradient` is the output's, `input` the block's input, `middle`,
  /// `hidden` and `before_norm` what the forward pass kept, `output` its output (used with a
  /// residual). Images are channels_last.
  void run(const torch::Tensor& gradient, const torch::Tensor& input, const torch::Tensor& middle,
           const torch::Tensor& hidden, const torch::Tensor& before_norm,
           const torch::Tensor& output, bool with_residual, bool needs_input_gradient) {
    hidden_ = HiddenImages(hidden);
    x_ = pixels_of(input);
    u_ = middle.defined() ? PixelTensor(middle, false) : x_;
    gradient_ = pixels_of(gradient);
    if (block_.norm) {
      norm_.emplace(gradient, before_norm, output, with_residual, statistics_.outer,
                    block_.activation, kernels_);
      residual_gradient = norm_->residual_gradient;
      norm_weight = norm_->weight;
      norm_bias = norm_->bias;
    }
    const bool has_first = block_.first.defined();
    needs_middle_gradient_ = needs_input_gradient || has_first;
    if (needs_input_gradient) {
      input_gradient = empty_images(input, x_.channels, x_.height, x_.width);
    }
    // What becomes the gradient of `u`: in place of the input's gradient where that is it.
    torch::Tensor middle_gradient;
    if (needs_middle_gradient_) {
      if (!has_first && padded_ == mid_) {
        e_ = pixels_of(input_gradient);
      } else {
        middle_gradient = torch::empty({x_.images, x_.height, x_.width, padded_});
        e_ = PixelTensor(middle_gradient, false);
      }
    }
    run_depthwise();
    if (has_first) {
      run_first(needs_input_gradient);
      return;
    }
    if (inner.by_middle.defined() && needs_input_gradient) {
      const auto by_middle = statistics_gradient();
      ImageParts(x_.images).run([&](int64_t, int64_t begin, int64_t end) {
        add_statistics_gradient(*by_middle, begin, end - begin);
      });
    }
    if (needs_input_gradient && padded_ != mid_) {
      input_gradient.copy_(middle_gradient.narrow(3, 0, mid_).permute({0, 3, 1, 2}));
    }
  }

  /// `[N, in, H, W]`; undefined if it isn't needed.
  torch::Tensor input_gradient;
  /// The output's shape; undefined without a residual.
  torch::Tensor residual_gradient;
  /// Of the batch normalization at the end; empty without one.
  PerChannel norm_weight;
  /// Of the batch normalization at the end; empty without one.
  PerChannel norm_bias;
  /// Of the depthwise weight, `[out, 1, height, width]`.
  torch::Tensor depthwise;
  /// Of `first`, `[mid, in]`; undefined without it.
  torch::Tensor first;
  /// Of what lies between.
  InnerGradients inner;

 private:
  // What one thread adds up.
  struct Sums {
    float* products;
    float* sums;
    float* depthwise;
  };

  void run_depthwise() {
    const int64_t taps = block_.geometry.kernel[0] * block_.geometry.kernel[1];
    const ImageParts parts(x_.images, mid_ * out_);
    PartSums<float> products(parts, mid_ * out_);
    PartSums<float> sums(parts, out_);
    PartSums<float> by_tap(parts, taps * out_);
    const auto weight = kernels::matrix_of(statistics_.weight);
    std::optional<PackedPointwise> pointwise;
    if (!hidden_.defined()) {
      pointwise.emplace(*kernels_.forward, weight, statistics_.bias);
    }
    const PackedPointwise back(*kernels_.forward, weight.transposed());
    const auto weights = kernels::pack_depthwise(block_.depthwise, torch::Tensor(), width_);
    kernels::DepthwiseGradient d;
    std::copy_n(block_.geometry.kernel.data(), 2, d.kernel);
    std::copy_n(block_.geometry.stride.data(), 2, d.stride);
    std::copy_n(block_.geometry.dilation.data(), 2, d.dilation);
    d.weights = weights.weights.data();
    d.vectors = out_ / width_;
    parts.run([&](int64_t part, int64_t begin, int64_t end) {
      const Sums to = {products.of(part), sums.of(part), by_tap.of(part)};
      if (d.gathers()) {
        gather(d, begin, end, pointwise, back, to);
      } else {
        spread(d, begin, end, pointwise, back, to);
      }
    });
    depthwise = torch::empty(block_.depthwise.sizes(), torch::kFloat);
    const auto tap_sums = by_tap.total();
    auto* to_depthwise = depthwise.mutable_data_ptr<float>();
    for (int64_t v = 0; v < out_ / width_; ++v) {
      to_depthwise =
          transpose(tap_sums.data() + v * taps * width_, taps, width_, width_, to_depthwise);
    }
    const auto product = products.total();
    if (block_.pointwise_norm) {
      const auto sum = sums.total();
      inner = solve_inner_gradients(block_, statistics_, as_tensor(product).view({mid_, out_}),
                                    as_tensor(sum), x_.images * x_.pixels());
    } else {
      inner.pointwise = torch::empty(block_.pointwise.sizes(), torch::kFloat);
      transpose(product.data(), mid_, out_, out_, inner.pointwise.mutable_data_ptr<float>());
    }
  }

  // Rows of the gradient of the depthwise convolution's output, into planes.
  void make_gradient(int64_t image, int64_t first, int64_t rows, float* to, int64_t row,
                     int64_t plane) const {
    kernels::NormalizationGradient n;
    if (norm_) {
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

  // What follows for `pixels` pixels of the gradient of the pointwise convolution's output, from
  // the `first` of all images on.
  void pointwise_gradients(int64_t first, const float* gradient, int64_t pixels,
                           const PackedPointwise& back, const Sums& to) const {
    kernels::OuterProducts o;
    o.left = u_.data + first * u_.channels;
    o.left_pixel = u_.channels;
    o.rows = mid_;
    o.right = gradient;
    o.right_pixel = out_;
    o.vectors = out_ / width_;
    o.sums = to.products;
    o.pixels = pixels;
    kernels_.outer_products(o);
    if (block_.pointwise_norm) {
      kernels::Moments m;
      m.input = gradient;
      m.sums = to.sums;
      m.pixels = pixels;
      m.vectors = out_ / width_;
      kernels_.moments(m);
    }
    if (needs_middle_gradient_) {
      back.run({gradient, 0, out_}, {e_.data + first * padded_, 0, padded_}, width_, 1, pixels);
    }
  }

  // Stride 1: some rows of the input at a time, which gather what meets them. `pointwise` makes
  // what the depthwise convolution has read, unless it was kept.
  void gather(kernels::DepthwiseGradient d, int64_t begin, int64_t end,
              const std::optional<PackedPointwise>& pointwise, const PackedPointwise& back,
              const Sums& to) const {
    constexpr int64_t cached_floats = 24 * 1024;
    const auto& g = block_.geometry;
    const int64_t halo[2] = {g.reach(0), g.reach(1)};
    const int64_t band = std::clamp<int64_t>(cached_floats / (u_.width * out_), 1, u_.height);
    const int64_t vectors = out_ / width_;
    d.gradient_row = (u_.width + halo[1]) * width_;
    d.gradient_plane = (band + halo[0]) * d.gradient_row;
    d.input_row = pointwise ? u_.width * width_ : hidden_.row();
    d.input_plane = pointwise ? band * d.input_row : hidden_.plane();
    d.input_gradient_row = u_.width * out_;
    d.input_gradient_pixel = out_;
    d.input_gradient_vector = width_;
    d.weight_gradient = to.depthwise;
    d.pixels = u_.width;
    float* gradient = scratch(0, vectors * d.gradient_plane);
    float* input = pointwise ? scratch(1, vectors * d.input_plane) : nullptr;
    // Small images wait for each other.
    const int64_t together = std::max(band * u_.width, few_pixels);
    float* pixels = scratch(2, together * out_);
    std::fill_n(gradient, vectors * d.gradient_plane, 0.0F);
    d.gradient = gradient;
    d.input = input;
    int64_t waiting_from = begin * u_.pixels();
    for (int64_t image = begin; image < end; ++image) {
      for (int64_t first = 0; first < u_.height; first += band) {
        const int64_t pixel = image * u_.pixels() + first * u_.width;
        d.input_gradient = pixels + (pixel - waiting_from) * out_;
        d.rows = std::min(band, u_.height - first);
        if (pointwise) {
          pointwise->run({u_.at(image, first), 0, u_.channels}, {input, 0, width_}, d.input_plane,
                         1, d.rows * u_.width);
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
        kernels_.depthwise_gradient(d);
        const int64_t next = pixel + d.rows * u_.width;
        if (next - waiting_from + band * u_.width > together || next == end * u_.pixels()) {
          pointwise_gradients(waiting_from, pixels, next - waiting_from, back, to);
          waiting_from = next;
        }
      }
    }
  }

  // Any geometry: a whole image at a time, over whose windows the gradient is spread.
  void spread(kernels::DepthwiseGradient d, int64_t begin, int64_t end,
              const std::optional<PackedPointwise>& pointwise, const PackedPointwise& back,
              const Sums& to) const {
    const auto& g = block_.geometry;
    const int64_t vectors = out_ / width_;
    d.rows = gradient_.height;
    d.pixels = gradient_.width;
    d.gradient_row = gradient_.width * width_;
    d.gradient_plane = gradient_.height * d.gradient_row;
    d.input_row = (u_.width + 2 * g.padding[1]) * width_;
    d.input_plane = (u_.height + 2 * g.padding[0]) * d.input_row;
    d.weight_gradient = to.depthwise;
    float* gradient = scratch(0, vectors * d.gradient_plane);
    float* input = scratch(1, vectors * d.input_plane);
    float* input_gradient = scratch(3, vectors * d.input_plane);
    float* pixels = scratch(2, u_.pixels() * out_);
    std::fill_n(input, vectors * d.input_plane, 0.0F);
    d.gradient = gradient;
    d.input = input;
    d.input_gradient = input_gradient;
    const int64_t corner = g.padding[0] * d.input_row + g.padding[1] * width_;
    for (int64_t image = begin; image < end; ++image) {
      std::fill_n(input_gradient, vectors * d.input_plane, 0.0F);
      if (pointwise) {
        pointwise->run({u_.at(image), u_.width * u_.channels, u_.channels},
                       {input + corner, d.input_row, width_}, d.input_plane, u_.height, u_.width);
      } else {
        hidden_.load(image, input + corner, d.input_row, d.input_plane);
      }
      make_gradient(image, 0, gradient_.height, gradient, d.gradient_row, d.gradient_plane);
      kernels_.depthwise_gradient(d);
      kernels::NormalizationGradient copy;
      for (int64_t v = 0; v < vectors; ++v) {
        copy.gradient = {input_gradient + v * d.input_plane + corner, d.input_row, width_};
        copy.output = {pixels + v * width_, u_.width * out_, out_};
        copy.rows = u_.height;
        copy.pixels = u_.width;
        copy.vectors = 1;
        kernels_.normalization_gradient(copy);
      }
      pointwise_gradients(image * u_.pixels(), pixels, u_.pixels(), back, to);
    }
  }

  // The part of the gradient of `u` that goes through the statistics, if there are any.
  std::optional<PackedPointwise> statistics_gradient() const {
    std::optional<PackedPointwise> result;
    if (inner.by_middle.defined()) {
      result.emplace(*kernels_.forward, kernels::matrix_of(inner.by_middle), inner.constant);
    }
    return result;
  }

  void add_statistics_gradient(const PackedPointwise& by_middle, int64_t image,
                               int64_t images) const {
    float* to = e_.at(image);
    by_middle.run({u_.at(image), 0, u_.channels}, {to, 0, padded_}, width_, 1, images * u_.pixels(),
                  {to, 0, padded_});
  }

  // The gradients of the first pointwise convolution.
  void run_first(bool needs_input_gradient) {
    const ImageParts parts(x_.images, x_.channels * padded_);
    PartSums<float> products(parts, x_.channels * padded_);
    std::optional<PackedPointwise> back;
    const int64_t in = whole_vectors(x_.channels, width_);
    torch::Tensor padded;
    PixelTensor to;
    if (needs_input_gradient) {
      back.emplace(*kernels_.forward, kernels::matrix_of(block_.first).transposed());
      if (in != x_.channels) {
        padded = torch::empty({x_.images, x_.height, x_.width, in});
        to = PixelTensor(padded, false);
      } else {
        to = pixels_of(input_gradient);
      }
    }
    const auto by_middle = statistics_gradient();
    parts.run([&](int64_t part, int64_t begin, int64_t end) {
      const int64_t together = std::max<int64_t>(1, few_pixels / x_.pixels());
      for (int64_t image = begin; image < end; image += together) {
        const int64_t images = std::min(together, end - image);
        const int64_t pixels = images * x_.pixels();
        if (by_middle) {
          add_statistics_gradient(*by_middle, image, images);
        }
        kernels::OuterProducts o;
        o.left = x_.at(image);
        o.left_pixel = x_.channels;
        o.rows = x_.channels;
        o.right = e_.at(image);
        o.right_pixel = padded_;
        o.vectors = padded_ / width_;
        o.sums = products.of(part);
        o.pixels = pixels;
        kernels_.outer_products(o);
        if (back) {
          back->run({e_.at(image), 0, padded_}, {to.at(image), 0, in}, width_, 1, pixels);
        }
      }
    });
    const auto product = products.total();
    first = torch::empty(block_.first.sizes(), torch::kFloat);
    transpose(product.data(), x_.channels, padded_, mid_, first.mutable_data_ptr<float>());
    if (padded.defined()) {
      input_gradient.copy_(padded.narrow(3, 0, x_.channels).permute({0, 3, 1, 2}));
    }
  }

  // Over fewer pixels, sums of products take as long to read and write as to add up.
  static constexpr int64_t few_pixels = 64;

  const TrainingBlock& block_;
  const kernels::TrainingKernelTable& kernels_;
  const BlockStatistics& statistics_;
  int64_t width_;
  int64_t out_;
  int64_t mid_;
  int64_t padded_;
  PixelTensor x_;
  PixelTensor u_;
  PixelTensor gradient_;
  PixelTensor e_;
  HiddenImages hidden_;
  std::optional<NormalizationBackward> norm_;
  bool needs_middle_gradient_ = false;
};

}  // namespace bsconv::detail
