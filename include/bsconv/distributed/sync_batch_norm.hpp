// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <torch/autograd.h>
#include <torch/types.h>

#include <bsconv/autograd/block.hpp>
#include <bsconv/autograd/statistics.hpp>
#include <bsconv/capture/operator_capture.hpp>
#include <bsconv/train/communicator.hpp>

namespace bsconv::distributed {

namespace detail {

/// What the backward pass of `SyncBatchNormFunction` has to know beside its tensors.
struct SyncBatchNormContext : torch::CustomClassHolder {
  /// What was done to the batch.
  bsconv::detail::Normalization normalization;
  /// Values of a channel, those of all processes.
  double count = 0;
  /// The processes.
  train::Communicator* processes = nullptr;
};

/// Batch normalization `[N, C, …]` with the statistics of all processes.
class SyncBatchNormFunction : public torch::autograd::Function<SyncBatchNormFunction> {
 public:
  /// Weight and bias are those of `norm`, as arguments of their own so that autograd sees them.
  static torch::Tensor forward(torch::autograd::AutogradContext* context,
                               const torch::Tensor& input,
                               const std::optional<torch::Tensor>& weight,
                               const std::optional<torch::Tensor>& bias,
                               const bsconv::detail::TrainingBatchNorm& norm,
                               train::Communicator* processes) {
    const int64_t channels = input.size(1);
    const double local_count = static_cast<double>(input.numel()) / static_cast<double>(channels);
    const auto x = input.to(torch::kFloat);
    const auto [variance, mean] = torch::var_mean(x, other_axes(input), int64_t{0}, false);
    const auto local_mean = mean.to(torch::kDouble);
    const auto local_square = variance.to(torch::kDouble).add(local_mean.square());
    auto sums = torch::cat({local_mean, local_square, torch::ones({1}, local_mean.options())});
    sums.mul_(local_count);
    processes->sum(sums);
    auto kept = c10::make_intrusive<SyncBatchNormContext>();
    auto numbers = bsconv::detail::per_channel(sums.cpu());
    kept->count = numbers.back();
    kept->processes = processes;
    numbers.pop_back();
    kept->normalization =
        bsconv::detail::normalize(norm, numbers, static_cast<int64_t>(kept->count));
    context->saved_data["norm"] = torch::IValue::make_capsule(kept);
    context->saved_data["has_weight"] = weight.has_value();
    context->saved_data["has_bias"] = bias.has_value();
    context->save_for_backward({input});
    return torch::addcmul(along(kept->normalization.shift(), input), x,
                          along(kept->normalization.scale, input))
        .to(input.scalar_type());
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    TORCH_CHECK(!torch::GradMode::is_enabled(),
                "synchronized batch normalization has no gradients of gradients");
    const auto input = context->get_saved_variables().front();
    const auto capsule = context->saved_data["norm"].toCapsule();
    const auto& kept = static_cast<const SyncBatchNormContext&>(*capsule);
    const auto& normalization = kept.normalization;
    const auto axes = other_axes(input);
    const auto gradient = gradients[0].to(torch::kFloat);
    const auto normalized = (input.to(torch::kFloat) - along(normalization.mean, input)) /
                            along(normalization.deviation, input);
    const auto bias_gradient = gradient.sum(axes);
    const auto weight_gradient = (gradient * normalized).sum(axes);
    auto sums = torch::stack({bias_gradient, weight_gradient}).to(torch::kDouble);
    kept.processes->sum(sums);
    const auto means = sums / kept.count;
    const auto input_gradient =
        along(normalization.scale, input) *
        (gradient - along(means[0], input) - normalized * along(means[1], input));
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

  /// Numbers of channels as floats that broadcast over `input`.
  static torch::Tensor along(const bsconv::detail::PerChannel& values, const torch::Tensor& input) {
    return along(bsconv::detail::as_tensor(values).to(input.device()), input);
  }

  /// `values` [C] as floats that broadcast over `input`.
  static torch::Tensor along(const torch::Tensor& values, const torch::Tensor& input) {
    std::vector<int64_t> shape(static_cast<std::size_t>(input.dim()), 1);
    shape[1] = -1;
    return values.to(torch::kFloat).view(shape);
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

  // A batch normalization may lie in a composite operator, but that in `instance_norm` is over one
  // image alone.
  bool looks_inside(const c10::OperatorHandle& op,
                    const std::vector<c10::IValue>& /*inputs*/) override {
    return op.schema().name() != "aten::instance_norm";
  }

  void ran(const OperatorCall& /*call*/) override {}

  std::optional<std::vector<c10::IValue>> replacement(
      const c10::OperatorHandle& op, const std::vector<c10::IValue>& inputs) override {
    if (op.schema().name() != "aten::batch_norm" || !inputs[5].toBool()) {
      return std::nullopt;
    }
    const auto part = [&](std::size_t index) {
      return inputs[index].isTensor() ? inputs[index].toTensor() : torch::Tensor();
    };
    bsconv::detail::TrainingBatchNorm norm;
    norm.weight = part(1);
    norm.bias = part(2);
    norm.running_mean = part(3);
    norm.running_var = part(4);
    norm.momentum = inputs[6].toDouble();
    norm.eps = inputs[7].toDouble();
    return std::vector<c10::IValue>{detail::SyncBatchNormFunction::apply(
        inputs[0].toTensor(), bsconv::detail::if_defined(norm.weight),
        bsconv::detail::if_defined(norm.bias), norm, &processes_)};
  }

 private:
  train::Communicator& processes_;
};

}  // namespace bsconv::distributed
