// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include <torch/nn/module.h>

#include <bsconv/train/checkpoint_folder.hpp>
#include <bsconv/train/checkpoint_state.hpp>
#include <bsconv/train/course.hpp>
#include <bsconv/train/forward.hpp>
#include <bsconv/train/generator_state.hpp>
#include <bsconv/train/learner.hpp>
#include <bsconv/train/metrics.hpp>
#include <bsconv/train/observer.hpp>
#include <bsconv/train/options.hpp>
#include <bsconv/train/processes.hpp>
#include <bsconv/train/schedule.hpp>

namespace bsconv::train {

/// The parts of a training run, and what follows from several of them. `Trainer` drives it, and
/// `EpochPass` a part of an epoch.
struct Run {
  /// One that has not begun. Throws `c10::Error` if a setting is out of its range or the module has
  /// nothing to train.
  Run(std::shared_ptr<torch::nn::Module> module, ForwardFunction forward, TrainOptions settings)
      : options(checked(std::move(settings))),
        schedule(options.learning_rates()),
        learner(std::move(module), std::move(forward), options),
        folder(options.output_dir(), options.keep_checkpoints()) {}

  /// Where the training stands.
  Position position() const {
    Position result;
    result.epoch = course.epoch() + 1;
    result.epochs = options.epochs();
    result.step = course.step();
    result.steps = course.steps();
    result.learning_rate = rate_of(std::min(result.step, result.steps - 1));
    return result;
  }

  /// The learning rate of batch `index`, counted from 0, of the present epoch. Schedules count the
  /// optimizer's steps, each of one or more batches.
  double rate_of(int64_t index) const {
    const int64_t batches = options.accumulate();
    return schedule.at(course.epoch(), index / batches, (course.steps() + batches - 1) / batches);
  }

  /// Asks whether this process is to stop, unless it was asked to before.
  bool is_asked_to_stop() {
    asked_to_stop = asked_to_stop || (stop && stop());
    return asked_to_stop;
  }

  /// The present state, copied to the CPU.
  Checkpoint checkpoint() const {
    Checkpoint result;
    result.info = info;
    result.options = options;
    course.save(result);
    learner.save(result);
    result.generators = generator_states(options.device());
    return result;
  }

  /// Writes `state` as `name` to the folder, if there is one, and tells observers.
  void write(const std::string& name, const Checkpoint& state) {
    const auto path = folder.write(name, state);
    if (!path.empty()) {
      observers.on_checkpoint(path);
    }
  }

  /// Writes the finished epochs to `metrics.csv` of the folder, if there is one.
  void write_metrics() const {
    if (!options.output_dir().empty()) {
      write_csv(options.output_dir() / "metrics.csv", course.history());
    }
  }

  /// The settings.
  TrainOptions options;
  /// Their learning rates.
  Schedule schedule;
  /// Model, optimizer, gradient scaler and moving average.
  Learner learner;
  /// Where checkpoints go.
  CheckpointFolder folder;
  /// What checkpoints say about the run.
  RunInfo info;
  /// Who is told what happens.
  Observers observers;
  /// The processes that train together.
  Processes processes;
  /// Where the training stands, and how it came there.
  Course course;
  /// Is asked whether to stop; may be empty.
  std::function<bool()> stop;
  /// Whether it said so.
  bool asked_to_stop = false;

 private:
  static TrainOptions checked(TrainOptions options) {
    options.check();
    return options;
  }
};

}  // namespace bsconv::train
