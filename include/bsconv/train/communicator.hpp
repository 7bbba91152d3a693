// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <vector>

#include <torch/types.h>

#include <bsconv/data/shard.hpp>
#include <bsconv/train/forward.hpp>
#include <bsconv/weights/state_dict.hpp>

namespace bsconv::train {

/// What a trainer asks of the processes that train one model together. `distributed::ProcessGroup`
/// is one on PyTorch's engine. Every process calls the same functions in the same order.
class Communicator {
 public:
  virtual ~Communicator() = default;

  /// This process's number, from 0. Number 0 writes files and prints.
  virtual int64_t rank() const = 0;
  /// How many processes there are.
  virtual int64_t world_size() const = 0;

  /// Replaces `tensor`, contiguous float64 on any device, by its sum over all processes.
  virtual void sum(torch::Tensor& tensor) = 0;
  /// Copies the tensors, on any device, from process 0 to all others.
  virtual void broadcast(const std::vector<torch::Tensor>& tensors) = 0;
  /// Says whose gradients `backward` averages. Throws if the processes' parameters differ in
  /// number, shape or dtype.
  virtual void average_gradients(const weights::StateDict& parameters) = 0;
  /// Adds the gradients of `loss`; with `average`, all gradients that have gathered become averages
  /// over all processes.
  virtual void backward(const torch::Tensor& loss, bool average) = 0;
  /// Runs `forward` in training.
  virtual torch::Tensor run(const ForwardFunction& forward, const torch::Tensor& images) = 0;

  /// The part of every batch that this process trains on.
  data::Shard shard() const { return {rank(), world_size()}; }
};

}  // namespace bsconv::train
