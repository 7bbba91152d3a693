// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/functional/padding.h>
#include <torch/nn/modules/conv.h>
#include <torch/types.h>
#include <bsconv/capture/operator_capture.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::detail {

/// One run of a convolution, as its operator saw it.
struct ConvolutionCall {
  torch::Tensor input;
  torch::Tensor output;
  std::vector<int64_t> stride;
  /// Left, right, top, bottom.
  std::array<int64_t, 4> padding{};
  std::vector<int64_t> dilation;
};

/// Tells every run of a convolution whose weight is a given tensor, however it is called.
class ConvolutionObserver : public OperatorObserver {
 public:
  /// Is given the weight and the run.
  using Visitor = std::function<void(const torch::Tensor&, const ConvolutionCall&)>;

  ConvolutionObserver(std::vector<torch::Tensor> weights, Visitor visitor)
      : weights_(std::move(weights)), visitor_(std::move(visitor)) {}

  bool looks_inside(const c10::OperatorHandle& op,
                    const std::vector<c10::IValue>& inputs) override {
    return op.schema().name() != "aten::conv2d" || !watches(inputs.at(1));
  }

  void ran(const OperatorCall& call) override {
    const auto& in = call.inputs;
    const auto weight = in.at(1).toTensor();
    ConvolutionCall seen;
    seen.input = batched(in.at(0).toTensor());
    seen.output = batched(call.outputs.at(0).toTensor());
    seen.stride = numbers(in.at(3), 2);
    seen.dilation = numbers(in.at(5), 2);
    if (in.at(4).isString()) {
      if (in.at(4).toStringRef() == "same") {
        for (std::size_t axis = 0; axis < 2; ++axis) {
          const int64_t all =
              seen.dilation[axis] * (weight.size(2 + static_cast<int64_t>(axis)) - 1);
          seen.padding[2 - 2 * axis] = all / 2;
          seen.padding[3 - 2 * axis] = all - all / 2;
        }
      }
    } else {
      const auto padding = numbers(in.at(4), 2);
      seen.padding = {padding[1], padding[1], padding[0], padding[0]};
    }
    visitor_(weight, seen);
  }

 private:
  bool watches(const c10::IValue& weight) const {
    return weight.isTensor() &&
           std::any_of(weights_.begin(), weights_.end(), [&](const torch::Tensor& watched) {
             return watched.is_same(weight.toTensor());
           });
  }

  static torch::Tensor batched(const torch::Tensor& images) {
    return images.dim() == 3 ? images.unsqueeze(0) : images;
  }

  std::vector<torch::Tensor> weights_;
  Visitor visitor_;
};

/// First and second moments of what a convolution reads (the patches under its kernel) and of what
/// it should put out: all that a least squares fit of its weights needs. The images themselves are
/// not kept.
class LayerMoments {
 public:
  /// For a convolution with a `weight` `[out, in, height, width]`.
  explicit LayerMoments(const torch::Tensor& weight)
      : kernel_{weight.size(2), weight.size(3)},
        patch_sum_(zeros({weight[0].numel()})),
        patch_product_(zeros({weight[0].numel(), weight[0].numel()})),
        target_sum_(zeros({weight.size(0)})),
        target_square_(zeros({weight.size(0)})),
        cross_product_(zeros({weight.size(0), weight[0].numel()})),
        pixel_sum_(zeros({weight.size(1)})),
        pixel_product_(zeros({weight.size(1), weight.size(1)})) {}

  /// Adds what `call` reads, and `target` `[N, out, H', W']`, what it should have put out.
  void add(const ConvolutionCall& call, const torch::Tensor& target) {
    const auto type = call.input.scalar_type() == torch::kDouble ? torch::kDouble : torch::kFloat;
    namespace F = torch::nn::functional;
    const auto& pad = call.padding;
    // Parts of a batch, so that the patches stay below 64 MiB.
    const int64_t image_bytes = patch_sum_.numel() * target[0][0].numel() * 8;
    const int64_t part =
        std::max<int64_t>(1, (int64_t{1} << 26) / std::max<int64_t>(1, image_bytes));
    for (int64_t first = 0; first < target.size(0); first += part) {
      const auto images = call.input.slice(0, first, first + part).to(type);
      const auto padded = F::pad(images, F::PadFuncOptions({pad[0], pad[1], pad[2], pad[3]}));
      const auto patches = rows(
          torch::im2col(padded, kernel_, call.dilation, torch::IntArrayRef({0, 0}), call.stride));
      const auto targets = rows(target.slice(0, first, first + part).to(type).flatten(2));
      const auto pixels = rows(images.flatten(2));
      add_to(patch_sum_, patches.sum(1));
      add_to(patch_product_, patches.matmul(patches.t()));
      add_to(target_sum_, targets.sum(1));
      add_to(target_square_, targets.square().sum(1));
      add_to(cross_product_, targets.matmul(patches.t()));
      add_to(pixel_sum_, pixels.sum(1));
      add_to(pixel_product_, pixels.matmul(pixels.t()));
      count_ += targets.size(1);
      pixels_ += pixels.size(1);
    }
  }

  /// The number of output positions seen.
  int64_t count() const { return count_; }
  /// The mean patch, `[in * height * width]`.
  torch::Tensor patch_mean() const { return patch_sum_ / double_count(); }
  /// The mean product of two entries of a patch.
  torch::Tensor patch_product() const { return patch_product_ / double_count(); }
  /// The mean target, `[out]`.
  torch::Tensor target_mean() const { return target_sum_ / double_count(); }
  /// The mean squared target, `[out]`.
  torch::Tensor target_square() const { return target_square_ / double_count(); }
  /// The mean product of a target and an entry of a patch, `[out, in * height * width]`.
  torch::Tensor cross_product() const { return cross_product_ / double_count(); }
  /// The mean of the input channels, `[in]`.
  torch::Tensor pixel_mean() const { return pixel_sum_ / static_cast<double>(pixels_); }
  /// The covariance of the input channels, `[in, in]`.
  torch::Tensor pixel_covariance() const {
    const auto mean = pixel_mean();
    return pixel_product_ / static_cast<double>(pixels_) - mean.outer(mean);
  }

 private:
  static torch::Tensor zeros(torch::IntArrayRef sizes) {
    return torch::zeros(sizes, torch::kDouble);
  }
  /// `[N, rows, L]` as `[rows, N * L]`.
  static torch::Tensor rows(const torch::Tensor& images) {
    return images.transpose(0, 1).reshape({images.size(1), -1});
  }
  static void add_to(torch::Tensor& sum, const torch::Tensor& part) {
    sum.add_(part.to(torch::kCPU, torch::kDouble));
  }
  double double_count() const { return static_cast<double>(count_); }

  std::vector<int64_t> kernel_;
  int64_t count_ = 0;
  int64_t pixels_ = 0;
  torch::Tensor patch_sum_;
  torch::Tensor patch_product_;
  torch::Tensor target_sum_;
  torch::Tensor target_square_;
  torch::Tensor cross_product_;
  torch::Tensor pixel_sum_;
  torch::Tensor pixel_product_;
};

}  // namespace bsconv::detail
