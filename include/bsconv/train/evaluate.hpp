// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <torch/arg.h>
#include <torch/nn/module.h>
#include <torch/types.h>

#include <bsconv/data/batch_source.hpp>
#include <bsconv/data/prefetch.hpp>
#include <bsconv/nn/modes_guard.hpp>
#include <bsconv/train/choices.hpp>
#include <bsconv/train/forward.hpp>
#include <bsconv/train/loss.hpp>
#include <bsconv/train/metrics.hpp>
#include <bsconv/train/observer.hpp>

namespace bsconv::train {

/// What `evaluate` needs beside the model and the images.
struct EvaluateOptions {
  /// Where the images go; the model must be there. Default: the CPU.
  TORCH_ARG(torch::Device, device) = torch::kCPU;
  /// Weight of the regularization loss. Default: 0.1.
  TORCH_ARG(double, alpha) = 0.1;
  /// Threads that make batches ahead. Default: 0.
  TORCH_ARG(int64_t, workers) = 0;
  /// After how many batches metrics are fetched from a GPU. Default: 10.
  TORCH_ARG(int64_t, log_interval) = 10;
  /// Numbers of the forward pass. Default: float32.
  TORCH_ARG(Precision, precision) = Precision::f32;
  /// Whether images are laid out with channels last. Default: no.
  TORCH_ARG(bool, channels_last) = false;
  /// Is asked after each batch whether to stop early. Default: never.
  TORCH_ARG(std::function<bool()>, stop) = nullptr;
};

/// Sums over the images of `source` in evaluation mode, without gradients; the mode of `module` and
/// its parts is put back afterwards. The loss includes the regularization loss, as in training.
/// If `options.stop` ends it early, the result has fewer examples than `source`. Observers are
/// told with the epoch numbers of `position`.
inline MetricSums evaluate(torch::nn::Module& module, const ForwardFunction& forward,
                           const data::BatchSource& source, const EvaluateOptions& options = {},
                           Observers observers = {}, Position position = {}) {
  const torch::NoGradGuard no_grad;
  const bsconv::detail::ModesGuard modes(module);
  module.eval();
  const int64_t interval = options.device().is_cpu() ? 1 : options.log_interval();
  position.split = data::Split::test;
  position.step = 0;
  position.steps = source.num_batches();
  position.learning_rate = 0;
  observers.on_pass_begin(position);
  MetricSums sums;
  std::vector<StepResult> pending;
  data::Prefetcher batches(source, /*epoch=*/0, /*first=*/0, options.workers());
  bool stopped = false;
  while (batches.has_next() && !stopped) {
    const auto batch = batches.next();
    // All images of a batch may be broken and left out.
    if (batch.labels.size(0) > 0) {
      const auto images = detail::images_for(batch, options.device(), options.channels_last());
      const auto labels = batch.labels.to(options.device());
      pending.push_back(classification_loss(
          module, detail::autocast_forward(forward, images, options.precision()), labels,
          options.alpha()));
    }
    ++position.step;
    stopped = options.stop() && options.stop()();
    if (stopped || !batches.has_next() || position.step % interval == 0) {
      const auto metrics = metrics_of(pending);
      for (std::size_t i = 0; i < pending.size(); ++i) {
        sums.add(metrics[i], pending[i].examples);
      }
      pending.clear();
      observers.on_step(position, sums);
    }
  }
  observers.on_pass_end(position, sums);
  return sums;
}

}  // namespace bsconv::train
