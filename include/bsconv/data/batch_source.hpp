// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>

#include <torch/types.h>

#include <bsconv/data/shard.hpp>

namespace bsconv::data {

/// Images and their labels.
struct Batch {
  /// Floating-point images [N, C, H, W].
  torch::Tensor images;
  /// int64 labels [N].
  torch::Tensor labels;
  /// Float probabilities [N, classes] to train on in place of the labels, where images of several
  /// classes were mixed (see `mix.hpp`); undefined otherwise.
  torch::Tensor targets = {};
  /// How much this shard's mean counts in the mean over all shards' means: 1 where all have the
  /// same number of images.
  double share = 1.0;

  /// What `at::cross_entropy_loss` compares the logits with: `targets` if there are any, otherwise
  /// `labels`.
  const torch::Tensor& loss_target() const { return targets.defined() ? targets : labels; }
};

/// Anything that yields the batches of an epoch by number.
///
/// Each batch is a function of the epoch and its index alone: whoever asks in whatever order, from
/// whatever thread, gets the same one. That is what makes training resumable in mid-epoch.
class BatchSource {
 public:
  virtual ~BatchSource() = default;

  /// How many batches an epoch has.
  virtual int64_t num_batches() const = 0;
  /// How many images an epoch has, those of all shards; fewer once a source that leaves out broken
  /// images has met one.
  virtual int64_t num_examples() const = 0;
  /// The part of every batch that `get` yields.
  virtual Shard shard() const { return {}; }
  /// Where the batches lie. They are made on its stream that is the caller's current one.
  virtual torch::Device device() const { return torch::kCPU; }
  /// Batch `index`, from 0, of `epoch`, from 0. Called from several threads at once.
  virtual Batch get(int64_t epoch, int64_t index) const = 0;
};

}  // namespace bsconv::data
