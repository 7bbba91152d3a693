// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/util/Exception.h>
#include <torch/nn/module.h>

#include <bsconv/data/class_names.hpp>
#include <bsconv/train/checkpoint_state.hpp>
#include <bsconv/train/choices.hpp>
#include <bsconv/train/options.hpp>
#include <bsconv/weights/state_dict.hpp>

namespace bsconv::train {

/// Throws `c10::Error` that names what differs unless a training of `module`, described by `info`
/// and `options`, can go on from `checkpoint`: the same tensors, and, where both are known, names
/// of architecture, data set and classes; the same optimizer; inside an epoch, the same batches.
inline void check_resumable(const Checkpoint& checkpoint, const torch::nn::Module& module,
                            const RunInfo& info, const TrainOptions& options) {
  const auto difference = weights::compare_state_dict(module, checkpoint.model);
  const bool same_name = info.architecture.empty() || checkpoint.info.architecture.empty() ||
                         info.architecture == checkpoint.info.architecture;
  TORCH_CHECK(difference.empty() && same_name, "cannot resume: the checkpoint is of '",
              checkpoint.info.architecture, "', the model is '", info.architecture, "'",
              difference.empty() ? "" : "; these tensors differ:\n", difference.to_string());
  TORCH_CHECK(info.dataset.empty() || checkpoint.info.dataset.empty() ||
                  info.dataset == checkpoint.info.dataset,
              "cannot resume: the checkpoint was trained on '", checkpoint.info.dataset,
              "', not on '", info.dataset, "'");
  if (!info.class_names.empty() && !checkpoint.info.class_names.empty()) {
    const auto classes = data::class_difference(checkpoint.info.class_names, info.class_names);
    TORCH_CHECK(classes.empty(), "cannot resume: in the checkpoint ", classes);
  }
  const auto& saved = checkpoint.options;
  TORCH_CHECK(saved.optimizer() == options.optimizer(),
              "cannot resume: the checkpoint's optimizer is ", to_string(saved.optimizer()),
              ", the trainer's ", to_string(options.optimizer()));
  TORCH_CHECK(checkpoint.step == 0 ||
                  (saved.batch_size() == options.batch_size() && saved.seed() == options.seed()),
              "cannot resume in the middle of an epoch with another batch size or seed: the ",
              "checkpoint has batch size ", saved.batch_size(), " and seed ", saved.seed(),
              ", the trainer ", options.batch_size(), " and ", options.seed());
  TORCH_CHECK(checkpoint.step == 0 || saved.accumulate() == options.accumulate(),
              "cannot resume in the middle of an epoch when another number of batches is "
              "accumulated: the checkpoint has ",
              saved.accumulate(), ", the trainer ", options.accumulate());
}

}  // namespace bsconv::train
