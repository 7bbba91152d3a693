// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <bsconv/data/batch_source.hpp>
#include <bsconv/data/every_nth_batch.hpp>
#include <bsconv/data/prefetch.hpp>
#include <bsconv/data/shard.hpp>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/train/checkpoint_folder.hpp>
#include <bsconv/train/communicator.hpp>
#include <bsconv/train/ema.hpp>
#include <bsconv/train/evaluate.hpp>
#include <bsconv/train/forward.hpp>
#include <bsconv/train/generator_state.hpp>
#include <bsconv/train/learner.hpp>
#include <bsconv/train/metrics.hpp>
#include <bsconv/train/observer.hpp>
#include <bsconv/train/options.hpp>
#include <bsconv/train/processes.hpp>
#include <bsconv/train/resume_check.hpp>
#include <bsconv/train/schedule.hpp>

namespace bsconv::train {

/// How `Trainer::fit` ended.
struct FitResult {
  /// All finished epochs, those before a resume included.
  std::vector<EpochSummary> history;
  /// Best test accuracy, 0 to 1; 0 if no epoch was tested.
  double best_accuracy = 0;
  /// Whether it was stopped before the last epoch ended.
  bool interrupted = false;
  /// Whether it ended before the last epoch because the test accuracy no longer rose.
  bool stopped_early = false;
};

/// Trains a classifier. By default it does as the reference: SGD with momentum, cross entropy plus
/// regularization loss, a learning rate that falls in steps, a test and a checkpoint after every
/// epoch. `TrainOptions` says what else it can do.
///
///     auto model = bsconv::create_model("cifar_resnet20_bsconvu", …);
///     bsconv::train::Trainer trainer(model, bsconv::train::TrainOptions().epochs(10));
///     trainer.fit(train_loader, test_loader);
class Trainer {
 public:
  /// Trains any module holder (`Layer`, `torch::nn::Sequential`, a holder of your own) whose
  /// `forward` maps images [N, C, H, W] to logits [N, classes].
  template <typename ModuleType>
  explicit Trainer(const torch::nn::ModuleHolder<ModuleType>& model, TrainOptions options = {})
      : Trainer(
            std::shared_ptr<torch::nn::Module>(model.ptr()),
            [module = model.ptr()](const torch::Tensor& images) -> torch::Tensor {
              return module->forward(images);
            },
            std::move(options)) {}

  /// Trains `module` through `forward`. Moves it to `options.device()`. Throws if a setting is out
  /// of its range or the module has nothing to train.
  Trainer(std::shared_ptr<torch::nn::Module> module, ForwardFunction forward,
          TrainOptions options = {})
      : options_(checked(std::move(options))),
        schedule_(options_.learning_rates()),
        learner_(std::move(module), std::move(forward), options_),
        folder_(options_.output_dir(), options_.keep_checkpoints()) {}

  /// What checkpoints say about the run. Set it before `resume` to have it checked there.
  Trainer& info(RunInfo info) {
    info_ = std::move(info);
    return *this;
  }

  /// Adds an observer; observers are told in the order they were added.
  Trainer& observe(std::shared_ptr<Observer> observer) {
    TORCH_CHECK(observer != nullptr, "the observer is null");
    observers_.push_back(std::move(observer));
    return *this;
  }

  /// Trains together with other processes, each of which makes the same trainer and trains on its
  /// shard of every batch (`LoaderOptions::shard`). Process 0's weights count, and it alone writes
  /// files. Metrics are those of all processes, and tests are shared among them.
  Trainer& communicator(std::shared_ptr<Communicator> communicator) {
    TORCH_CHECK(communicator != nullptr, "the communicator is null");
    processes_ = Processes(communicator);
    if (communicator->rank() != 0) {
      options_.output_dir({});
      folder_ = CheckpointFolder({}, options_.keep_checkpoints());
    }
    learner_.use(std::move(communicator));
    return *this;
  }

  /// Learns from the logits of a trained network too (knowledge distillation), weighted by
  /// `TrainOptions::distillation_weight`. `teacher` maps images [N, C, H, W] to logits [N, classes]
  /// on the trainer's device; tests do without it.
  Trainer& teacher(ForwardFunction teacher) {
    TORCH_CHECK(teacher, "the teacher is empty");
    learner_.teacher(std::move(teacher));
    return *this;
  }

  /// Lets `recorder` do the steps that it can, see `Learner::use`.
  Trainer& recorder(std::shared_ptr<StepRecorder> recorder) {
    TORCH_CHECK(recorder != nullptr, "the recorder is null");
    learner_.use(std::move(recorder));
    return *this;
  }

  /// Is asked after every batch; once it says true, `fit` writes a checkpoint and returns, at the
  /// end of the step if batches are accumulated.
  Trainer& stop_when(std::function<bool()> stop) {
    stop_ = std::move(stop);
    return *this;
  }

  /// One step of the optimizer on a batch, in training mode, at the learning rate of the epoch's
  /// first step.
  StepResult train_step(const data::Batch& batch) { return learner_.step(batch, rate_of(0)); }

  /// Averages over `source` in evaluation mode, with the moving average of the weights if one is
  /// kept.
  Metrics evaluate(const data::BatchSource& source) {
    return evaluate_at(source, Position{}, /*may_stop=*/false).sums.mean();
  }

  /// Trains until `options.epochs()` epochs are finished, counting those before a resume, or the
  /// test accuracy has not risen for `options.patience()` epochs.
  ///
  /// With an output folder it writes `last.safetensors` after every epoch, `best.safetensors` when
  /// the test accuracy is the best so far, numbered checkpoints if asked to, and `metrics.csv`. One
  /// of another course, behind a resume from an earlier checkpoint, is renamed. Throws `c10::Error`
  /// if the loss or a weight is not finite, naming the step and the last good checkpoint, or if the
  /// folder cannot be written, before any training.
  FitResult fit(const data::BatchSource& train, const data::BatchSource& test) {
    folder_.prepare(info_);
    const auto shard = processes_.own_shard();
    TORCH_CHECK(train.shard() == shard, "the training images are shard ", train.shard().index,
                " of ", train.shard().count, ", but this is process ", shard.index, " of ",
                shard.count, "; set LoaderOptions::shard");
    TORCH_CHECK(test.shard() == data::Shard(), "the test images are shard ", test.shard().index,
                " of ", test.shard().count,
                ", but must be all of them: the processes share them out themselves");
    steps_ = train.num_batches();
    asked_to_stop_ = false;
    // The epoch's training was finished, by other processes of as many or fewer batches.
    if (step_ > 0 && step_ == resumed_steps_) {
      step_ = steps_;
    }
    resumed_steps_ = 0;
    TORCH_CHECK(processes_.agree({epoch_, step_, steps_, test.num_examples(), options_.epochs()}),
                "the processes stand at different places; this one after epoch ", epoch_,
                ", batch ", step_, " of ", steps_, ", to train for ", options_.epochs(),
                " epochs, with ", test.num_examples(),
                " test images: resume all from the same checkpoint, with the same images");
    TORCH_CHECK(step_ <= steps_, "cannot resume after batch ", step_, " of an epoch that has ",
                steps_, " batches; use the batch size and data set of the checkpoint");
    TORCH_CHECK(step_ == steps_ || step_ % options_.accumulate() == 0, "cannot go on after batch ",
                step_, " of an epoch: ", options_.accumulate(),
                " batches make a step of the optimizer, and the gradients of those before it are "
                "not in a checkpoint");
    folder_.set_aside_best_unless(history_.empty() ? 0 : history_.back().best_epoch);
    if (!history_.empty()) {
      // A run that was killed may have written the checkpoint of an epoch, but not its line.
      write_metrics();
    }
    bool stopped = false;
    while (epoch_ < options_.epochs() && !stopped && !out_of_patience()) {
      const auto start = std::chrono::steady_clock::now();
      stopped = train_epoch(train);
      const std::chrono::duration<double> trained = std::chrono::steady_clock::now() - start;
      std::optional<MetricSums> tested;
      if (!stopped && is_tested(epoch_ + 1)) {
        const auto result = evaluate_or_save(test);
        // An interruption during the test leaves the epoch's training finished and its test to do.
        stopped = !result.complete;
        tested = result.sums;
      }
      if (!stopped) {
        const std::chrono::duration<double> all = std::chrono::steady_clock::now() - start;
        finish_epoch(tested, trained.count(), all.count());
        stopped = is_stopped();
      } else {
        write_checkpoint("last.safetensors", checkpoint());
      }
    }
    // Who starts several processes may end all as soon as one has ended.
    processes_.meet();
    const bool early = epoch_ < options_.epochs() && out_of_patience();
    return {history_, best_accuracy(), epoch_ < options_.epochs() && !early, early};
  }

  /// The present state, copied to the CPU.
  Checkpoint checkpoint() const {
    Checkpoint result;
    result.info = info_;
    result.options = options_;
    result.epoch = epoch_;
    result.step = step_;
    result.steps = steps_;
    result.partial = partial_;
    result.history = history_;
    learner_.save(result);
    result.generators = generator_states(options_.device());
    return result;
  }

  /// Goes on from `checkpoint`: weights and their average, optimizer, gradient scaler, epoch,
  /// batch, metrics and random generators. The trainer's own settings stay. Throws `c10::Error`,
  /// and changes nothing, if the checkpoint is of another architecture, data set or optimizer,
  /// listing tensors that differ, or if it stands in the middle of an epoch with other
  /// batches. `path` is where it was read, for messages.
  void resume(const Checkpoint& checkpoint, const std::filesystem::path& path = {}) {
    check_resumable(checkpoint, learner_.module(), info_, options_);
    const auto generators = generator_states(options_.device());
    try {
      load_generator_states(checkpoint.generators, options_.device());
      learner_.load(checkpoint);
    } catch (...) {
      load_generator_states(generators, options_.device());
      throw;
    }
    epoch_ = checkpoint.epoch;
    step_ = checkpoint.step;
    resumed_steps_ = checkpoint.steps;
    partial_ = checkpoint.partial;
    history_ = checkpoint.history;
    folder_.resumed_from(path);
  }

  /// Reads the checkpoint at `path` and goes on from it.
  void resume_from(const std::filesystem::path& path) { resume(load_checkpoint(path), path); }

  /// Epochs that are finished.
  int64_t epoch() const noexcept { return epoch_; }
  /// Best test accuracy so far, 0 to 1.
  double best_accuracy() const { return history_.empty() ? 0.0 : history_.back().best_accuracy; }
  /// The settings.
  const TrainOptions& options() const noexcept { return options_; }
  /// The model.
  torch::nn::Module& module() noexcept { return learner_.module(); }
  /// Model, optimizer, gradient scaler and moving average.
  Learner& learner() noexcept { return learner_; }

 private:
  static TrainOptions checked(TrainOptions options) {
    options.check();
    return options;
  }

  Position position() const {
    Position result;
    result.epoch = epoch_ + 1;
    result.epochs = options_.epochs();
    result.step = step_;
    result.steps = steps_;
    result.learning_rate = rate_of(std::min(step_, steps_ - 1));
    return result;
  }

  /// The learning rate of batch `index`, counted from 0, of the present epoch. Schedules count the
  /// optimizer's steps, each of one or more batches.
  double rate_of(int64_t index) const {
    const int64_t batches = options_.accumulate();
    return schedule_.at(epoch_, index / batches, (steps_ + batches - 1) / batches);
  }

  /// What came of a test, of all processes.
  struct TestResult {
    MetricSums sums;
    bool complete = true;
  };

  TestResult evaluate_at(const data::BatchSource& source, const Position& position, bool may_stop) {
    learner_.synchronize();
    const EmaScope average(learner_.module(), learner_.ema());
    const data::EveryNthBatch part(source, processes_.own_shard());
    int64_t batches = 0;
    TestResult result;
    result.sums = train::evaluate(learner_.module(), learner_.forward(), part,
                                  EvaluateOptions()
                                      .device(options_.device())
                                      .alpha(options_.alpha())
                                      .workers(options_.workers())
                                      .log_interval(options_.log_interval())
                                      .precision(options_.precision())
                                      .channels_last(options_.channels_last())
                                      .stop([this, may_stop, &batches] {
                                        ++batches;
                                        return may_stop && is_asked_to_stop();
                                      }),
                                  observers_, position);
    processes_.sum(result.sums);
    result.complete = !processes_.any(batches < part.num_batches());
    return result;
  }

  /// The test after an epoch. If it fails, the epoch's training is not lost: a resume tests again.
  TestResult evaluate_or_save(const data::BatchSource& test) {
    try {
      return evaluate_at(test, position(), /*may_stop=*/true);
    } catch (...) {
      try {
        write_checkpoint("last.safetensors", checkpoint());
      } catch (const std::exception&) {
        // The test's error says more.
      }
      throw;
    }
  }

  /// Whether this process was asked to stop, now or before.
  bool is_asked_to_stop() {
    asked_to_stop_ = asked_to_stop_ || (stop_ && stop_());
    return asked_to_stop_;
  }

  /// Whether this process, or another, was asked to stop.
  bool is_stopped() { return processes_.any(is_asked_to_stop()); }

  bool is_tested(int64_t epoch) const {
    return epoch % options_.eval_every() == 0 || epoch == options_.epochs();
  }

  /// Only a test can tell.
  bool out_of_patience() const {
    return options_.patience() > 0 && !history_.empty() && history_.back().tested() &&
           history_.back().best_epoch > 0 &&
           epoch_ - history_.back().best_epoch >= options_.patience();
  }

  /// Does the rest of an epoch; returns whether it was stopped before its end.
  bool train_epoch(const data::BatchSource& source) {
    resumed_examples_ = partial_.examples;
    auto where = position();
    for (const auto& observer : observers_) {
      observer->on_pass_begin(where);
    }
    const int64_t interval = options_.device().is_cpu() ? 1 : options_.log_interval();
    data::Prefetcher batches(source, epoch_, step_, options_.workers());
    std::vector<StepResult> pending;
    bool stopped = false;
    bool save = false;
    while (batches.has_next() && !stopped) {
      const auto in_group = step_ % options_.accumulate();
      const bool applied = in_group + 1 == options_.accumulate() || step_ + 1 == steps_;
      if (in_group == 0) {
        where.learning_rate = rate_of(step_);
      }
      pending.push_back(options_.accumulate() == 1
                            ? learner_.step(batches.next(), where.learning_rate)
                            : part_of_step(batches.next(), where.learning_rate, in_group, applied));
      ++step_;
      stopped = is_stopped() && applied;
      save = save || (options_.checkpoint_steps() > 0 && step_ % options_.checkpoint_steps() == 0);
      const bool save_now = save && applied && !stopped;
      if (stopped || save_now || !batches.has_next() || step_ % interval == 0) {
        collect(pending);
        where.step = step_;
        for (const auto& observer : observers_) {
          observer->on_step(where, partial_);
        }
      }
      if (save_now) {
        write_checkpoint("last.safetensors", checkpoint());
        save = false;
      }
    }
    for (const auto& observer : observers_) {
      observer->on_pass_end(where, partial_);
    }
    return stopped;
  }

  /// One of the batches whose gradients are accumulated, the last if `applied`.
  StepResult part_of_step(const data::Batch& batch, double learning_rate, int64_t in_group,
                          bool applied) {
    if (in_group == 0) {
      learner_.begin(learning_rate);
    }
    auto result = learner_.backward(
        batch, std::min(options_.accumulate(), steps_ - (step_ - in_group)), applied);
    if (applied) {
      learner_.apply();
    }
    return result;
  }

  /// NaN without the sign that says nothing to a reader.
  static double unsigned_nan(double value) { return std::isnan(value) ? std::fabs(value) : value; }

  void collect(std::vector<StepResult>& pending) {
    auto step = step_ - static_cast<int64_t>(pending.size());
    const auto fetched = metrics_of(pending);
    for (std::size_t i = 0; i < pending.size(); ++i) {
      ++step;
      MetricSums sums;
      sums.add(fetched[i], pending[i].examples);
      processes_.sum(sums);
      const auto metrics = sums.mean();
      TORCH_CHECK(std::isfinite(metrics.loss), "the loss is not finite at step ", step,
                  " of epoch ", epoch_ + 1, ": ", unsigned_nan(metrics.loss), " (cross entropy ",
                  unsigned_nan(metrics.cross_entropy), ", regularization ",
                  unsigned_nan(metrics.regularization), "); a lower learning rate may help; ",
                  folder_.last_good());
      partial_ += sums;
    }
    pending.clear();
  }

  void finish_epoch(const std::optional<MetricSums>& tested, double train_seconds, double seconds) {
    EpochSummary summary;
    summary.epoch = epoch_ + 1;
    summary.epochs = options_.epochs();
    summary.learning_rate = rate_of(steps_ - 1);
    summary.train = partial_.mean();
    summary.test = tested ? tested->mean() : Metrics::none();
    summary.best_accuracy = best_accuracy();
    summary.best_epoch = history_.empty() ? 0 : history_.back().best_epoch;
    // Logits that are no numbers have a class, too.
    const bool best = tested && std::isfinite(summary.test.loss) &&
                      (summary.best_epoch == 0 || summary.test.accuracy > summary.best_accuracy);
    if (best) {
      summary.best_accuracy = summary.test.accuracy;
      summary.best_epoch = summary.epoch;
    }
    summary.seconds = seconds;
    const auto examples = static_cast<double>(partial_.examples - resumed_examples_);
    summary.images_per_second = train_seconds > 0 ? examples / train_seconds : 0;
    history_.push_back(summary);
    ++epoch_;
    step_ = 0;
    partial_ = MetricSums{};
    const auto state = checkpoint();
    if (best) {
      write_checkpoint("best.safetensors", state);
    }
    if (folder_.keeps_numbered()) {
      write_checkpoint(numbered_checkpoint_name(epoch_), state);
      folder_.remove_old(epoch_);
    }
    write_checkpoint("last.safetensors", state);
    write_metrics();
    for (const auto& observer : observers_) {
      observer->on_epoch_end(summary);
    }
  }

  void write_metrics() const {
    if (!options_.output_dir().empty()) {
      write_csv(options_.output_dir() / "metrics.csv", history_);
    }
  }

  void write_checkpoint(const std::string& name, const Checkpoint& state) {
    const auto path = folder_.write(name, state);
    if (path.empty()) {
      return;
    }
    for (const auto& observer : observers_) {
      observer->on_checkpoint(path);
    }
  }

  TrainOptions options_;
  Schedule schedule_;
  Learner learner_;
  CheckpointFolder folder_;
  RunInfo info_;
  Observers observers_;
  std::function<bool()> stop_;
  bool asked_to_stop_ = false;
  Processes processes_;
  int64_t epoch_ = 0;
  int64_t step_ = 0;
  /// Batches in an epoch, as soon as they are known.
  int64_t steps_ = 1;
  /// The same of the checkpoint that the run goes on from; 0 if it doesn't say, or there is none.
  int64_t resumed_steps_ = 0;
  MetricSums partial_;
  int64_t resumed_examples_ = 0;
  std::vector<EpochSummary> history_;
};

}  // namespace bsconv::train
