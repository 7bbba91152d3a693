// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/block_input.hpp>
#include <bsconv/autograd/block_statistics.hpp>
#include <bsconv/autograd/hidden_images.hpp>
#include <bsconv/autograd/images.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <tuple>
#include <utility>

namespace bsconv::detail {

/// What the forward pass of a block leaves for its backward pass.
struct KeptBlock {
  /// What `pointwise` reads, `[N, H, W, C]` with `C` at least its channels; undefined if that is
  /// the block's input.
  torch::Tensor middle;
  /// What the depthwise convolution reads, if it is kept; see `HiddenImages`.
  torch::Tensor hidden;
  /// The output of the depthwise convolution: the input of the block's last batch normalization, if
  /// it has one.
  torch::Tensor convolved;
  /// What the batch is like.
  c10::intrusive_ptr<BlockStatistics> statistics;
};

/// The forward pass of a block on its fused kernels, up to its depthwise convolution.
///
/// The output of the pointwise convolutions never leaves the caches where it sums up few channels:
/// rows of it are made, read by the depthwise convolution, and made anew by the backward pass.
/// Where many, memory is faster, and it is kept.
class BlockForward {
 public:
  /// For `block`, on `kernels`, whose vectors divide the block's output channels.
  BlockForward(const TrainingBlock& block, const kernels::TrainingKernelTable& kernels)
      : block_(block), kernels_(kernels), width_(kernels.forward->width) {}

  /// Runs both convolutions on `input`, the pixels of `images` `[N, in, H, W]`, channels_last, and
  /// finds out the statistics of all batch normalizations. `added`, unless absent, is added to the
  /// depthwise convolution's output, whose size it has.
  KeptBlock run(const torch::Tensor& images, const BlockInput& input, const PixelTensor& added) {
    kept_.statistics = c10::make_intrusive<BlockStatistics>();
    prepare_middle(images, input);
    const auto& geometry = block_.geometry;
    const auto& x = input.images();
    kept_.convolved =
        empty_images(images, block_.pointwise.size(0), geometry.output_size(0, x.height),
                     geometry.output_size(1, x.width));
    const auto z = pixels_of(kept_.convolved);
    const auto sums = convolve(ImageParts(x.images), z, added);
    if (block_.norm) {
      kept_.statistics->outer =
          bsconv::detail::normalize(*block_.norm, sums, z.images * z.pixels());
    }
    return kept_;
  }

 private:
  /// Makes `middle`, and finds out the inner statistics.
  void prepare_middle(const torch::Tensor& images, const BlockInput& input) {
    const auto& x = input.images();
    const int64_t mid = block_.pointwise.size(1);
    const int64_t padded = whole_vectors(mid, width_);
    const bool normalized = block_.pointwise_norm.has_value();
    auto& middle = kept_.middle;
    if (block_.first.defined()) {
      middle = torch::empty({x.images, x.height, x.width, padded});
    } else if (normalized && padded != mid) {
      middle = pad_channels(images, padded);
    }
    u_ = &input;
    if (middle.defined()) {
      middle_input_ = BlockInput(PixelTensor(middle, false));
      u_ = &middle_input_;
    }
    if (!normalized) {
      kept_.statistics->weight = block_.pointwise;
      if (!block_.first.defined()) {
        return;
      }
    }
    const auto& u = u_->images();
    const ImageParts parts(x.images, normalized ? mid * padded : 0);
    std::optional<PackedPointwise> first;
    if (block_.first.defined()) {
      first.emplace(*kernels_.forward, kernels::matrix_of(block_.first));
    }
    const auto run = [&](bool makes) {
      PartSums<double> sums(parts, normalized ? padded : 0);
      PartSums<double> products(parts, normalized ? mid * padded : 0);
      parts.run([&](int64_t part, int64_t begin, int64_t end) {
        for_cached_pixels(u, begin, end, x.channels, [&](int64_t at, int64_t pixels) {
          if (makes) {
            const float* from = input.read(at, pixels, scratch(4, input.room(pixels)));
            first->run({from, 0, x.channels}, {u.data + at * padded, 0, padded}, width_, 1, pixels,
                       {}, {prefetch_from(x, at + pixels)});
          }
          if (normalized) {
            add_products(at, pixels, mid, sums.of(part), products.of(part));
          }
        });
      });
      return std::pair(sums.total(),
                       normalized ? SmallMatrix(mid, padded, products.total()) : SmallMatrix());
    };
    auto [sums, products] = run(first.has_value());
    if (!normalized) {
      return;
    }
    auto& statistics = *kept_.statistics;
    const int64_t count = x.images * x.pixels();
    if (is_far_from_zero(sums, products, count)) {
      for (const double sum : sums) {
        statistics.shift.push_back(static_cast<float>(sum / static_cast<double>(count)));
      }
      std::tie(sums, products) = run(false);
    }
    solve_inner_statistics(block_, sums, products, count, statistics);
  }

  /// Adds the sums and products of channels of some pixels of `u`, less the shift if there is one,
  /// to those in double.
  void add_products(int64_t first, int64_t pixels, int64_t mid, double* sums,
                    double* products) const {
    const int64_t padded = u_->images().channels;
    const int64_t size = mid * padded;
    float* local = scratch(0, size + padded);
    std::fill_n(local, size + padded, 0.0F);
    kernels::OuterProducts o;
    o.left = u_->read(first, pixels, scratch(4, u_->room(pixels)));
    if (!kept_.statistics->shift.empty()) {
      o.left = shifted(o.left, pixels, kept_.statistics->shift);
    }
    o.right = o.left;
    o.left_pixel = o.right_pixel = padded;
    o.rows = mid;
    o.vectors = padded / width_;
    o.sums = local;
    o.pixels = pixels;
    kernels_.outer_products(o);
    kernels::Moments m;
    m.input = o.left;
    m.sums = local + size;
    m.pixels = pixels;
    m.vectors = o.vectors;
    kernels_.moments(m);
    for (int64_t i = 0; i < size; ++i) {
      products[i] += static_cast<double>(local[i]);
    }
    for (int64_t i = 0; i < padded; ++i) {
      sums[i] += static_cast<double>(m.sums[i]);
    }
  }

  /// Rows of output that a thread makes at a time, so that what is between stays in the caches.
  int64_t band_rows(int64_t padded_width, int64_t channels, int64_t output_rows) const {
    constexpr int64_t cached_floats = 64 * 1024;
    const auto& g = block_.geometry;
    const int64_t rows = cached_floats / (padded_width * channels);
    const int64_t window = g.reach(0) + 1;
    return std::clamp<int64_t>((rows - window) / g.stride[0] + 1, 1, output_rows);
  }

  /// Both convolutions into `z`; the sums of its channels, then of their squares.
  PerChannel convolve(const ImageParts& parts, const PixelTensor& z, const PixelTensor& added) {
    const PackedPointwise pointwise(*kernels_.forward, kernels::matrix_of(kept_.statistics->weight),
                                    kept_.statistics->bias);
    const auto depthwise = kernels::pack_depthwise(block_.depthwise, block_.bias, width_);
    const auto& g = block_.geometry;
    const auto& u = u_->images();
    const int64_t padded_width = u.width + 2 * g.padding[1];
    const int64_t vectors = z.channels / width_;
    const int64_t band = band_rows(padded_width, z.channels, z.height);
    const int64_t window = g.reach(0) + 1;
    const int64_t row = padded_width * width_;
    const int64_t plane = ((band - 1) * g.stride[0] + window) * row;
    if (block_.pointwise.size(1) >= HiddenImages::fewest_channels) {
      kept_.hidden = HiddenImages::empty(u, vectors, width_);
    }
    const HiddenImages keeper(kept_.hidden);
    PartSums<double> moments(parts, 2 * z.channels);

    kernels::Depthwise d;
    d.input_row = row;
    d.input_vector = plane;
    std::copy_n(g.kernel.data(), 2, d.kernel);
    std::copy_n(g.stride.data(), 2, d.stride);
    std::copy_n(g.dilation.data(), 2, d.dilation);
    d.weights = depthwise.weights.data();
    d.bias = depthwise.bias.data();
    d.pixels = z.width;
    d.vectors = vectors;
    parts.run([&](int64_t part, int64_t begin, int64_t end) {
      float* planes = scratch(0, vectors * plane);
      double* totals = moments.of(part);
      std::fill_n(planes, vectors * plane, 0.0F);
      auto step = d;
      step.input = planes;
      for (int64_t image = begin; image < end; ++image) {
        int64_t made = 0;  // Rows of the padded image that the planes reach to.
        for (int64_t first = 0; first < z.height; first += band) {
          const int64_t rows = std::min(band, z.height - first);
          const int64_t top = first * g.stride[0];
          const int64_t bottom = top + (rows - 1) * g.stride[0] + window;
          const int64_t kept = first == 0 ? 0 : std::max<int64_t>(0, made - top);
          for (int64_t v = 0; v < vectors && kept > 0; ++v) {
            float* to = planes + v * plane;
            std::memmove(to, to + band * g.stride[0] * row,
                         static_cast<std::size_t>(kept * row) * sizeof(float));
          }
          // Where the output will be.
          const kernels::Prefetch soon = {z.at(image, first),
                                          z.channels / (g.stride[0] * g.stride[1])};
          make_rows(image, top, top + kept, bottom, planes, plane, row, pointwise, keeper, soon);
          made = bottom;
          step.output = {z.at(image, first), z.width * z.channels, z.channels};
          if (added.data != nullptr) {
            step.epilogue.residual = {added.at(image, first), step.output.row, z.channels};
          }
          step.rows = rows;
          kernels_.forward->depthwise(step);
          if (block_.norm) {
            add_moments(kernels_, z.at(image, first), rows * z.width, z.channels, totals);
          }
        }
      }
    });
    return moments.total();
  }

  /// Makes the rows `begin` to `end` of the padded image; the planes start at row `top` of it.
  /// `keeper` takes a copy, if there is one; meanwhile `soon` is fetched.
  void make_rows(int64_t image, int64_t top, int64_t begin, int64_t end, float* planes,
                 int64_t plane, int64_t row, const PackedPointwise& pointwise,
                 const HiddenImages& keeper, const kernels::Prefetch& soon) const {
    const int64_t vectors = block_.pointwise.size(0) / width_;
    const auto& padding = block_.geometry.padding;
    const auto& u = u_->images();
    const int64_t inside = std::clamp(padding[0], begin, end);
    const int64_t outside = std::clamp(padding[0] + u.height, inside, end);
    for (int64_t v = 0; v < vectors; ++v) {
      float* to = planes + v * plane;
      std::fill(to + (begin - top) * row, to + (inside - top) * row, 0.0F);
      std::fill(to + (outside - top) * row, to + (end - top) * row, 0.0F);
    }
    if (outside > inside) {
      const int64_t first = inside - padding[0];
      float* to = planes + (inside - top) * row + padding[1] * width_;
      const int64_t pixels = (outside - inside) * u.width;
      const float* from =
          u_->read((image * u.height + first) * u.width, pixels, scratch(4, u_->room(pixels)));
      pointwise.run({from, u.width * u.channels, u.channels}, {to, row, width_}, plane,
                    outside - inside, u.width, {}, {soon});
      if (keeper.defined()) {
        keeper.store(image, first, outside - inside, to, row, plane);
      }
    }
  }

  const TrainingBlock& block_;
  const kernels::TrainingKernelTable& kernels_;
  int64_t width_;
  KeptBlock kept_;
  BlockInput middle_input_;
  const BlockInput* u_ = nullptr;
};

}  // namespace bsconv::detail
