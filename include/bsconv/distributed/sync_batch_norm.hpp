// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <torch/autograd.h>
#include <torch/types.h>

#include <bsconv/capture/operator_capture.hpp>
#include <bsconv/train/communicator.hpp>

namespace bsconv::distributed {

namespace detail {

/// Batch normalization `[N, C, …]` with the statistics of all processes.
class SyncBatchNormFunction : public torch::autograd::Function<SyncBatchNormFunction> {
 public:
  /// Returns the output, and the mean, the biased variance and the number of values of a channel.
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context,
                                                const torch::Tensor& input,
                                                const std::optional<torch::Tensor>& weight,
                                                const std::optional<torch::Tensor>& bias,
                                                double eps, train::Communicator* processes) {
    const auto axes = other_axes(input);
    const int64_t channels = input.size(1);
    const double count = static_cast<double>(input.numel()) / static_cast<double>(channels);
    const auto [variance, mean] = torch::var_mean(input.to(torch::kFloat), axes, int64_t{0}, false);
    auto sums = torch::empty({2 * channels + 1}, torch::kDouble);
    const auto local_mean = mean.cpu().to(torch::kDouble);
    sums.narrow(0, 0, channels).copy_(local_mean).mul_(count);
    sums.narrow(0, channels, channels)
        .copy_(variance.cpu().to(torch::kDouble).add(local_mean.square()))
        .mul_(count);
    sums[2 * channels] = count;
    processes->sum(sums);
    const double total = sums[2 * channels].item<double>();
    const auto all_mean = sums.narrow(0, 0, channels) / total;
    const auto all_variance =
        (sums.narrow(0, channels, channels) / total - all_mean.square()).clamp_min(0);
    const auto options = input.options().dtype(torch::kFloat);
    const auto center = all_mean.to(options);
    const auto inverse = (all_variance + eps).rsqrt().to(options);
    auto scale = inverse;
    if (weight) {
      scale = scale * weight->to(torch::kFloat);
    }
    auto shift = -center * scale;
    if (bias) {
      shift = shift + bias->to(torch::kFloat);
    }
    auto output = torch::addcmul(along(shift, input), input.to(torch::kFloat), along(scale, input))
                      .to(input.scalar_type());
    context->save_for_backward({input, center, inverse, scale});
    context->saved_data["total"] = total;
    context->saved_data["has_weight"] = weight.has_value();
    context->saved_data["has_bias"] = bias.has_value();
    context->saved_data["processes"] = reinterpret_cast<int64_t>(processes);
    const auto statistics = torch::full({}, total, torch::kDouble);
    context->mark_non_differentiable({all_mean, all_variance, statistics});
    return {output, all_mean, all_variance, statistics};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto& input = saved[0];
    const auto& center = saved[1];
    const auto& inverse = saved[2];
    const auto& scale = saved[3];
    const auto axes = other_axes(input);
    const int64_t channels = input.size(1);
    const auto gradient = gradients[0].to(torch::kFloat);
    const auto normalized =
        (input.to(torch::kFloat) - along(center, input)) * along(inverse, input);
    const auto bias_gradient = gradient.sum(axes);
    const auto weight_gradient = (gradient * normalized).sum(axes);
    auto sums = torch::cat({bias_gradient, weight_gradient}).to(torch::kCPU, torch::kDouble);
    auto* processes =
        reinterpret_cast<train::Communicator*>(context->saved_data["processes"].toInt());
    processes->sum(sums);
    const auto means = (sums / context->saved_data["total"].toDouble()).to(center.options());
    const auto input_gradient =
        along(scale, input) * (gradient - along(means.narrow(0, 0, channels), input) -
                               normalized * along(means.narrow(0, channels, channels), input));
    const auto if_any = [&](const char* name, const torch::Tensor& value) {
      return context->saved_data[name].toBool() ? value : torch::Tensor();
    };
    return {input_gradient.to(input.scalar_type()), if_any("has_weight", weight_gradient),
            if_any("has_bias", bias_gradient), torch::Tensor(), torch::Tensor()};
  }

 private:
  static std::vector<int64_t> other_axes(const torch::Tensor& input) {
    std::vector<int64_t> axes;
    for (int64_t axis = 0; axis < input.dim(); ++axis) {
      if (axis != 1) {
        axes.push_back(axis);
      }
    }
    return axes;
  }

  /// `values` [C] so that they broadcast over `input`.
  static torch::Tensor along(const torch::Tensor& values, const torch::Tensor& input) {
    std::vector<int64_t> shape(static_cast<std::size_t>(input.dim()), 1);
    shape[1] = -1;
    return values.view(shape);
  }
};

}  // namespace detail

/// While an `OperatorCapture` of it lives, every batch normalization in training mode that the
/// thread runs, of whatever module, takes its statistics over all processes: as PyTorch's
/// `SyncBatchNorm`, without changing the model. Running statistics follow those. This library's
/// fused training kernels don't run meanwhile.
class SyncBatchNorm : public OperatorObserver {
 public:
  /// `processes` must outlive every backward pass of what ran meanwhile.
  explicit SyncBatchNorm(train::Communicator& processes) : processes_(processes) {}

  bool looks_inside(const c10::OperatorHandle& /*op*/,
                    const std::vector<c10::IValue>& /*inputs*/) override {
    return true;  // a batch normalization may lie in a composite operator
  }

  void ran(const OperatorCall& /*call*/) override {}

  std::optional<std::vector<c10::IValue>> replacement(
      const c10::OperatorHandle& op, const std::vector<c10::IValue>& inputs) override {
    if (op.schema().name() != "aten::batch_norm" || !inputs[5].toBool()) {
      return std::nullopt;
    }
    const auto input = inputs[0].toTensor();
    const auto optional = [](const c10::IValue& value) {
      return value.isTensor() && value.toTensor().defined()
                 ? std::optional<torch::Tensor>(value.toTensor())
                 : std::nullopt;
    };
    const auto results = detail::SyncBatchNormFunction::apply(
        input, optional(inputs[1]), optional(inputs[2]), inputs[7].toDouble(), &processes_);
    update(optional(inputs[3]), optional(inputs[4]), inputs[6].toDouble(), results);
    return std::vector<c10::IValue>{results[0]};
  }

 private:
  static void update(const std::optional<torch::Tensor>& mean,
                     const std::optional<torch::Tensor>& variance, double momentum,
                     const torch::autograd::variable_list& results) {
    const torch::NoGradGuard no_grad;
    const double total = results[3].item<double>();
    if (mean && mean->defined()) {
      mean->lerp_(results[1].to(mean->options()), momentum);
    }
    if (variance && variance->defined()) {
      const double unbiased = total > 1 ? total / (total - 1) : 1.0;
      variance->lerp_((results[2] * unbiased).to(variance->options()), momentum);
    }
  }

  train::Communicator& processes_;
};

}  // namespace bsconv::distributed
