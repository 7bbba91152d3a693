// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/autograd.h>
#include <torch/custom_class.h>
#include <torch/types.h>
#include <bsconv/autograd/images.hpp>
#include <bsconv/autograd/reference.hpp>
#include <bsconv/kernels/pack.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace bsconv::detail {

/// A pointwise convolution with a stride, forward and backward, on packed weights.
class StridedPointwise {
 public:
  /// From a pixel that is read to the next, down and across.
  using Stride = std::array<int64_t, 2>;

  StridedPointwise(const kernels::TrainingKernelTable& kernels, const torch::Tensor& weight,
                   Stride stride)
      : kernels_(kernels), weight_(weight), stride_(stride), width_(kernels.forward->width) {}

  /// `[N, out, ceil(H / stride), ceil(W / stride)]` of `input` `[N, in, H, W]`; both channels_last.
  torch::Tensor forward(const torch::Tensor& input) const {
    const auto x = pixels_of(input);
    auto output = empty_images(input, weight_.size(0), outputs(x.height, 0), outputs(x.width, 1));
    const auto y = pixels_of(output);
    const PackedPointwise pointwise(*kernels_.forward, kernels::matrix_of(weight_));
    ImageParts(x.images).run([&](int64_t, int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) {
        pointwise.run(strided<const float>(x, image), rows<float>(y, image), width_, y.height,
                      y.width);
      }
    });
    return output;
  }

  /// The gradient of `input`, whose channels vectors divide, for that of the output.
  torch::Tensor input_gradient(const torch::Tensor& gradient, const torch::Tensor& input) const {
    auto result = empty_images(input, input.size(1), input.size(2), input.size(3));
    const auto g = pixels_of(gradient);
    const auto x = pixels_of(result);
    const PackedPointwise back(*kernels_.forward, kernels::matrix_of(weight_).transposed());
    const bool leaves_pixels_out = stride_ != Stride{1, 1};
    ImageParts(x.images).run([&](int64_t, int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) {
        if (leaves_pixels_out) {
          std::fill_n(x.at(image), x.pixels() * x.channels, 0.0F);
        }
        back.run(rows<const float>(g, image), strided<float>(x, image), width_, g.height, g.width);
      }
    });
    return result;
  }

  /// The gradient of the weight, shaped as it.
  torch::Tensor weight_gradient(const torch::Tensor& gradient, const torch::Tensor& input) const {
    const auto g = pixels_of(gradient);
    const auto x = pixels_of(input);
    const ImageParts parts(x.images, x.channels * g.channels);
    PartSums<float> products(parts, x.channels * g.channels);
    // All pixels of an image go together where they lie at the same distance.
    const bool whole = stride_ == Stride{1, 1};
    parts.run([&](int64_t part, int64_t begin, int64_t end) {
      kernels::OuterProducts o;
      o.left_pixel = stride_[1] * x.channels;
      o.rows = x.channels;
      o.right_pixel = g.channels;
      o.vectors = g.channels / width_;
      o.sums = products.of(part);
      o.pixels = whole ? g.pixels() : g.width;
      for (int64_t image = begin; image < end; ++image) {
        for (int64_t row = 0; row < (whole ? 1 : g.height); ++row) {
          o.left = x.at(image, row * stride_[0]);
          o.right = g.at(image, row);
          kernels_.outer_products(o);
        }
      }
    });
    auto result = torch::empty(weight_.sizes(), torch::kFloat);
    const auto total = products.total();
    transpose(total.data(), x.channels, g.channels, g.channels, result.mutable_data_ptr<float>());
    return result;
  }

 private:
  int64_t outputs(int64_t size, std::size_t axis) const { return (size - 1) / stride_[axis] + 1; }

  // The pixels of an image that are read.
  template <class Float>
  kernels::Image<Float> strided(const PixelTensor& x, int64_t image) const {
    return {x.at(image), stride_[0] * x.width * x.channels, stride_[1] * x.channels};
  }

  // All pixels of an image.
  template <class Float>
  static kernels::Image<Float> rows(const PixelTensor& x, int64_t image) {
    return {x.at(image), x.width * x.channels, x.channels};
  }

  const kernels::TrainingKernelTable& kernels_;
  const torch::Tensor& weight_;
  Stride stride_;
  int64_t width_;
};

/// What the backward pass of `PointwiseFunction` has to know beside its tensors.
struct PointwiseContext : torch::CustomClassHolder {
  /// The stride.
  StridedPointwise::Stride stride{};
  /// The kernels of the forward pass.
  const kernels::TrainingKernelTable* kernels = nullptr;
};

/// A pointwise convolution as one operator; gradients of gradients by LibTorch's.
class PointwiseFunction : public torch::autograd::Function<PointwiseFunction> {
 public:
  /// `input` is channels_last; `weight` is `[out, in, 1, 1]`. Vectors of `kernels` divide the
  /// channels of both.
  static torch::Tensor forward(torch::autograd::AutogradContext* context,
                               const torch::Tensor& input, const torch::Tensor& weight,
                               const StridedPointwise::Stride& stride,
                               const kernels::TrainingKernelTable* kernels) {
    auto kept = c10::make_intrusive<PointwiseContext>();
    kept->stride = stride;
    kept->kernels = kernels;
    context->saved_data["pointwise"] = torch::IValue::make_capsule(kept);
    context->save_for_backward({input, weight});
    return StridedPointwise(*kernels, weight, stride).forward(input);
  }

  /// Gradients in the order of the arguments of `forward`.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto capsule = context->saved_data["pointwise"].toCapsule();
    const auto& kept = static_cast<const PointwiseContext&>(*capsule);
    if (torch::GradMode::is_enabled()) {
      return reference_gradients(
          [&kept](const torch::autograd::variable_list& own) {
            return torch::conv2d(own[0], own[1], {}, kept.stride);
          },
          gradients[0], saved, 2, argument_count);
    }
    const StridedPointwise pointwise(*kept.kernels, saved[1], kept.stride);
    const auto gradient = channels_last(gradients[0]);
    torch::autograd::variable_list result(argument_count);
    if (context->needs_input_grad(0)) {
      result[0] = pointwise.input_gradient(gradient, saved[0]);
    }
    if (context->needs_input_grad(1)) {
      result[1] = pointwise.weight_gradient(gradient, saved[0]);
    }
    return result;
  }

 private:
  static constexpr std::size_t argument_count = 4;
};

/// A pointwise convolution on `kernels`, as a part of the graph.
inline torch::Tensor run_pointwise(const torch::Tensor& input, const torch::Tensor& weight,
                                   const StridedPointwise::Stride& stride,
                                   const kernels::TrainingKernelTable& kernels) {
  return PointwiseFunction::apply(channels_last(input), weight, stride, &kernels);
}

}  // namespace bsconv::detail
