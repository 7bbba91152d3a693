// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>
#include <bsconv/nn/modes_guard.hpp>
#include <bsconv/nn/walk.hpp>
#include <bsconv/replace/calibration.hpp>
#include <bsconv/util/restore.hpp>
#include <bsconv/util/rng_guard.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

namespace bsconv {

namespace detail {

/// Makes a batch normalization average the statistics of whatever comes; puts momentum and counter
/// back at the end, and the statistics too unless `keep()` was called.
class CumulativeBatchNorm {
 public:
  template <class BatchNorm>
  explicit CumulativeBatchNorm(BatchNorm& norm)
      : options_(norm.options),
        momentum_(norm.options.momentum()),
        mean_(norm.running_mean),
        variance_(norm.running_var),
        counter_(norm.num_batches_tracked),
        old_mean_(mean_.clone()),
        old_variance_(variance_.clone()),
        old_counter_(counter_.clone()) {
    norm.reset_running_stats();
    norm.options.momentum(std::nullopt);
    norm.train();
  }
  ~CumulativeBatchNorm() {
    options_.momentum(momentum_);
    restore("the statistics of a batch normalization", [this] {
      const torch::NoGradGuard no_grad;
      // One that never ran has nothing new to keep.
      if (!keep_ || counter_.item<int64_t>() == 0) {
        mean_.copy_(old_mean_);
        variance_.copy_(old_variance_);
      }
      counter_.copy_(old_counter_);
    });
  }
  CumulativeBatchNorm(const CumulativeBatchNorm&) = delete;
  CumulativeBatchNorm& operator=(const CumulativeBatchNorm&) = delete;
  CumulativeBatchNorm(CumulativeBatchNorm&&) = delete;
  CumulativeBatchNorm& operator=(CumulativeBatchNorm&&) = delete;

  /// The new statistics are complete.
  void keep() { keep_ = true; }

 private:
  torch::nn::BatchNormOptions& options_;
  std::optional<double> momentum_;
  torch::Tensor mean_;
  torch::Tensor variance_;
  torch::Tensor counter_;
  torch::Tensor old_mean_;
  torch::Tensor old_variance_;
  torch::Tensor old_counter_;
  bool keep_ = false;
};

}  // namespace detail

/// Estimates the running statistics of all batch normalizations of `model` anew, as the mean over
/// the statistics of each batch; all else (parameters, modes, momenta, counters, random generators)
/// stays as it is. Returns the number of batch normalizations with new statistics.
///
/// After weights have changed without training, as a replacement does, the old statistics no
/// longer fit. `forward` runs `model`; larger batches give better variances. If it throws, the old
/// statistics are put back. Throws `c10::ValueError` if there are no batches.
inline std::size_t estimate_batch_norm_statistics(torch::nn::Module& model,
                                                  const ForwardFunction& forward,
                                                  const std::vector<torch::Tensor>& batches) {
  detail::check_calibration("estimate_batch_norm_statistics", forward, batches);
  const torch::NoGradGuard no_grad;
  const RngGuard rng;
  const detail::ModesGuard modes(model);
  model.eval();
  std::vector<std::unique_ptr<detail::CumulativeBatchNorm>> norms;
  std::unordered_set<const c10::TensorImpl*> seen;
  const auto take = [&](auto* norm) {
    if (norm != nullptr && norm->running_mean.defined() &&
        seen.insert(norm->running_mean.unsafeGetTensorImpl()).second) {
      norms.push_back(std::make_unique<detail::CumulativeBatchNorm>(*norm));
    }
  };
  for_each_module(model, [&](torch::nn::Module& module, const std::string&) {
    take(dynamic_cast<torch::nn::BatchNorm1dImpl*>(&module));
    take(dynamic_cast<torch::nn::BatchNorm2dImpl*>(&module));
    take(dynamic_cast<torch::nn::BatchNorm3dImpl*>(&module));
  });
  for (const auto& batch : batches) {
    forward(batch);
  }
  for (const auto& norm : norms) {
    norm->keep();
  }
  return norms.size();
}

/// The same for a module holder, with its own `forward`.
template <class Contained>
std::size_t estimate_batch_norm_statistics(torch::nn::ModuleHolder<Contained>& model,
                                           const std::vector<torch::Tensor>& batches) {
  return estimate_batch_norm_statistics(
      *model, [&](const torch::Tensor& batch) { return model->forward(batch); }, batches);
}

}  // namespace bsconv
