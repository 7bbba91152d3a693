// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/block_forward.hpp>
#include <bsconv/autograd/block_input.hpp>
#include <bsconv/autograd/block_statistics.hpp>
#include <bsconv/autograd/depthwise_backward.hpp>
#include <bsconv/autograd/hidden_images.hpp>
#include <bsconv/autograd/images.hpp>
#include <bsconv/autograd/normalization_backward.hpp>
#include <bsconv/autograd/normalization_sums.hpp>

#include <array>
#include <cstdint>
#include <optional>
#include <utility>

namespace bsconv::detail {

/// The backward pass of a block on its fused kernels.
class BlockBackward {
 public:
  /// For `block`, on the kernels of its forward pass, which has kept `kept` of `input`. `norm` is
  /// how the gradient passes the batch normalization at the end, null without one.
  BlockBackward(const TrainingBlock& block, const kernels::TrainingKernelTable& kernels,
                const KeptBlock& kept, const BlockInput& input, const NormalizationBackward* norm)
      : block_(block),
        kernels_(kernels),
        statistics_(*kept.statistics),
        input_(input),
        norm_(norm),
        width_(kernels.forward->width),
        out_(block.pointwise.size(0)),
        mid_(block.pointwise.size(1)),
        padded_(whole_vectors(mid_, width_)),
        x_(input.images()),
        u_(&input),
        hidden_(kept.hidden) {
    if (kept.middle.defined()) {
      middle_input_ = BlockInput(PixelTensor(kept.middle, false));
      u_ = &middle_input_;
    }
  }

  /// Computes all gradients. `gradient` is that of the output, behind the batch normalization and
  /// activation. Where the input's gradient is needed, `added`, `[N, in, H, W]`, is added to it
  /// unless undefined, and `before`, unless null, sums it up. Images are channels_last.
  void run(const torch::Tensor& gradient, bool needs_input_gradient, const torch::Tensor& added,
           const NormalizationSums* before) {
    before_ = before;
    needs_middle_gradient_ = needs_input_gradient || has_first();
    if (needs_input_gradient) {
      input_gradient = empty_images(gradient, x_.channels, x_.height, x_.width);
      if (added.defined()) {
        added_ = pixels_of(added);
      }
    }
    // What becomes the gradient of `u`: in place of the input's gradient where that is it.
    torch::Tensor middle_gradient;
    if (needs_middle_gradient_) {
      if (!has_first() && padded_ == mid_) {
        e_ = pixels_of(input_gradient);
      } else {
        middle_gradient = torch::empty({x_.images, x_.height, x_.width, padded_});
        e_ = PixelTensor(middle_gradient, false);
      }
    }
    run_depthwise(pixels_of(gradient));
    if (has_first()) {
      run_first(needs_input_gradient);
      return;
    }
    if (!completes_input() && needs_input_gradient) {
      const auto by_middle = statistics_gradient();
      const ImageParts parts(x_.images);
      PartSums<double> totals(parts, sums_before());
      parts.run([&](int64_t part, int64_t begin, int64_t end) {
        for_cached_pixels(x_, begin, end, padded_, [&](int64_t first, int64_t pixels) {
          add_statistics_gradient(*by_middle, first, pixels);
          sum_up_before(e_.data, first, pixels, totals.of(part));
        });
      });
      before_totals = totals.total();
    }
    if (needs_input_gradient && padded_ != mid_) {
      input_gradient.copy_(middle_gradient.narrow(3, 0, mid_).permute({0, 3, 1, 2}));
    }
  }

  /// `[N, in, H, W]`; undefined if it isn't needed.
  torch::Tensor input_gradient;
  /// What `before` has summed up.
  PerChannel before_totals;
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
    double* before;
  };

  bool has_first() const { return block_.first.defined(); }

  // Whether the input's gradient is complete where the pointwise convolution's is, since `u` is the
  // input, and no part of its gradient comes later by way of the statistics.
  bool completes_input() const { return !has_first() && !block_.pointwise_norm; }

  int64_t sums_before() const { return before_ == nullptr ? 0 : before_->size(); }

  void sum_up_before(const float* gradient, int64_t first, int64_t pixels, double* totals) const {
    if (before_ != nullptr) {
      before_->add(gradient + first * x_.channels, first, pixels, totals);
    }
  }

  // What is added to the input's gradient, from a pixel on.
  kernels::Image<const float> added_from(int64_t first) const {
    if (added_.data == nullptr) {
      return {};
    }
    return {added_.data + first * added_.channels, 0, added_.channels};
  }

  void run_depthwise(const PixelTensor& gradient) {
    const int64_t taps = block_.geometry.kernel[0] * block_.geometry.kernel[1];
    const ImageParts parts(x_.images, mid_ * out_);
    PartSums<float> products(parts, mid_ * out_);
    PartSums<float> sums(parts, out_);
    PartSums<float> by_tap(parts, taps * out_);
    PartSums<double> before(parts, completes_input() ? sums_before() : 0);
    const PackedPointwise back(*kernels_.forward,
                               kernels::matrix_of(statistics_.weight).transposed());
    const DepthwiseBackward behind(block_, kernels_, statistics_, *u_, hidden_, gradient, norm_);
    const auto soon = std::array{e_, has_first() ? PixelTensor() : added_};
    parts.run([&](int64_t part, int64_t begin, int64_t end) {
      const Sums to = {products.of(part), sums.of(part), before.of(part)};
      behind.run(begin, end, by_tap.of(part), soon, [&](const DepthwiseBackward::Pixels& pixels) {
        pointwise_gradients(pixels, back, to);
      });
    });
    if (completes_input()) {
      before_totals = before.total();
    }
    depthwise = torch::empty(block_.depthwise.sizes(), torch::kFloat);
    const auto tap_sums = by_tap.total();
    auto* to_depthwise = depthwise.mutable_data_ptr<float>();
    for (int64_t v = 0; v < out_ / width_; ++v) {
      to_depthwise =
          transpose(tap_sums.data() + v * taps * width_, taps, width_, width_, to_depthwise);
    }
    auto product = products.total();
    if (block_.pointwise_norm) {
      inner = solve_inner_gradients(block_, statistics_, {mid_, out_, std::move(product)},
                                    sums.total(), x_.images * x_.pixels());
    } else {
      inner.pointwise = torch::empty(block_.pointwise.sizes(), torch::kFloat);
      transpose(product.data(), mid_, out_, out_, inner.pointwise.mutable_data_ptr<float>());
    }
  }

  // What follows from the gradient of the pointwise convolution's output.
  void pointwise_gradients(const DepthwiseBackward::Pixels& p, const PackedPointwise& back,
                           const Sums& to) const {
    kernels::OuterProducts o;
    o.left = statistics_.shift.empty() ? p.input : shifted(p.input, p.count, statistics_.shift);
    o.left_pixel = u_->images().channels;
    o.rows = mid_;
    o.right = p.gradient;
    o.right_pixel = out_;
    o.vectors = out_ / width_;
    o.sums = to.products;
    o.pixels = p.count;
    kernels_.outer_products(o);
    if (block_.pointwise_norm) {
      kernels::Moments m;
      m.input = p.gradient;
      m.sums = to.sums;
      m.pixels = p.count;
      m.vectors = out_ / width_;
      kernels_.moments(m);
    }
    if (!needs_middle_gradient_) {
      return;
    }
    back.run({p.gradient, 0, out_}, {e_.data + p.first * padded_, 0, padded_}, width_, 1, p.count,
             has_first() ? kernels::Image<const float>() : added_from(p.first),
             {prefetch_from(u_->images(), p.first + p.count)});
    if (completes_input()) {
      sum_up_before(e_.data, p.first, p.count, to.before);
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

  void add_statistics_gradient(const PackedPointwise& by_middle, int64_t first,
                               int64_t pixels) const {
    const int64_t channels = u_->images().channels;
    const float* from = u_->read(first, pixels, scratch(4, u_->room(pixels)));
    float* to = e_.data + first * padded_;
    by_middle.run({from, 0, channels}, {to, 0, padded_}, width_, 1, pixels, {to, 0, padded_},
                  {prefetch_from(x_, first)});
  }

  // The gradients of the first pointwise convolution.
  void run_first(bool needs_input_gradient) {
    const ImageParts parts(x_.images, x_.channels * padded_);
    PartSums<float> products(parts, x_.channels * padded_);
    PartSums<double> before(parts, sums_before());
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
      for_cached_pixels(x_, begin, end, x_.channels, [&](int64_t pixel, int64_t pixels) {
        if (by_middle) {
          add_statistics_gradient(*by_middle, pixel, pixels);
        }
        kernels::OuterProducts o;
        o.left = input_.read(pixel, pixels, scratch(4, input_.room(pixels)));
        o.left_pixel = x_.channels;
        o.rows = x_.channels;
        o.right = e_.data + pixel * padded_;
        o.right_pixel = padded_;
        o.vectors = padded_ / width_;
        o.sums = products.of(part);
        o.pixels = pixels;
        kernels_.outer_products(o);
        if (back) {
          back->run(
              {o.right, 0, padded_}, {to.data + pixel * in, 0, in}, width_, 1, pixels,
              added_from(pixel),
              {prefetch_from(e_, pixel + pixels), prefetch_from(u_->images(), pixel + pixels)});
          sum_up_before(to.data, pixel, pixels, before.of(part));
        }
      });
    });
    before_totals = before.total();
    const auto product = products.total();
    first = torch::empty(block_.first.sizes(), torch::kFloat);
    transpose(product.data(), x_.channels, padded_, mid_, first.mutable_data_ptr<float>());
    if (padded.defined()) {
      input_gradient.copy_(padded.narrow(3, 0, x_.channels).permute({0, 3, 1, 2}));
    }
  }

  const TrainingBlock& block_;
  const kernels::TrainingKernelTable& kernels_;
  const BlockStatistics& statistics_;
  const BlockInput& input_;
  const NormalizationBackward* norm_;
  const NormalizationSums* before_ = nullptr;
  int64_t width_;
  int64_t out_;
  int64_t mid_;
  int64_t padded_;
  PixelTensor x_;
  BlockInput middle_input_;
  const BlockInput* u_;
  PixelTensor e_;
  PixelTensor added_;
  HiddenImages hidden_;
  bool needs_middle_gradient_ = false;
};

}  // namespace bsconv::detail
