// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

#include <bsconv/data/dataset.hpp>
#include <bsconv/train/metrics.hpp>

namespace bsconv::train {

/// Where training or testing stands.
struct Position {
  /// Which images are being gone through.
  data::Split split = data::Split::train;
  /// The epoch, counted from 1; 0 outside of training.
  int64_t epoch = 0;
  /// How many epochs there are in all; 0 outside of training.
  int64_t epochs = 0;
  /// Batches done in this epoch.
  int64_t step = 0;
  /// Batches in this epoch.
  int64_t steps = 0;
  /// Learning rate; 0 while testing.
  double learning_rate = 0;
};

/// Is told what happens during training; override what is of interest.
class Observer {
 public:
  virtual ~Observer() = default;
  /// A pass over training or test images starts, at `position.step` if it was resumed.
  virtual void on_pass_begin(const Position& position) { (void)position; }
  /// Batches were finished; `so_far` covers this epoch up to here.
  virtual void on_step(const Position& position, const MetricSums& so_far) {
    (void)position;
    (void)so_far;
  }
  /// A pass over the images has ended, by an interruption if `position.step` says so.
  virtual void on_pass_end(const Position& position, const MetricSums& sums) {
    (void)position;
    (void)sums;
  }
  /// An epoch is finished.
  virtual void on_epoch_end(const EpochSummary& summary) { (void)summary; }
  /// A checkpoint was written.
  virtual void on_checkpoint(const std::filesystem::path& path) { (void)path; }
};

/// Observers that are told one after the other, in the order they were added.
class Observers : public Observer {
 public:
  Observers() = default;
  /// Those of `observers`. Throws `c10::Error` if one is null.
  Observers(std::initializer_list<std::shared_ptr<Observer>> observers) {
    for (const auto& observer : observers) {
      add(observer);
    }
  }

  /// Adds `observer`. Throws `c10::Error` if it is null.
  void add(std::shared_ptr<Observer> observer) {
    TORCH_CHECK(observer != nullptr, "the observer is null");
    all_.push_back(std::move(observer));
  }

  void on_pass_begin(const Position& position) override {
    for (const auto& observer : all_) {
      observer->on_pass_begin(position);
    }
  }
  void on_step(const Position& position, const MetricSums& so_far) override {
    for (const auto& observer : all_) {
      observer->on_step(position, so_far);
    }
  }
  void on_pass_end(const Position& position, const MetricSums& sums) override {
    for (const auto& observer : all_) {
      observer->on_pass_end(position, sums);
    }
  }
  void on_epoch_end(const EpochSummary& summary) override {
    for (const auto& observer : all_) {
      observer->on_epoch_end(summary);
    }
  }
  void on_checkpoint(const std::filesystem::path& path) override {
    for (const auto& observer : all_) {
      observer->on_checkpoint(path);
    }
  }

 private:
  std::vector<std::shared_ptr<Observer>> all_;
};

}  // namespace bsconv::train
