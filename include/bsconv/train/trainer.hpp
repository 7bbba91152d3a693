// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <bsconv/data/batch_source.hpp>
#include <bsconv/data/every_nth_batch.hpp>
#include <bsconv/data/shard.hpp>
#include <bsconv/nn/tensor_module.hpp>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/train/checkpoint_folder.hpp>
#include <bsconv/train/communicator.hpp>
#include <bsconv/train/course.hpp>
#include <bsconv/train/ema.hpp>
#include <bsconv/train/epoch_pass.hpp>
#include <bsconv/train/evaluate.hpp>
#include <bsconv/train/forward.hpp>
#include <bsconv/train/generator_state.hpp>
#include <bsconv/train/learner.hpp>
#include <bsconv/train/metrics.hpp>
#include <bsconv/train/observer.hpp>
#include <bsconv/train/options.hpp>
#include <bsconv/train/processes.hpp>
#include <bsconv/train/resume_check.hpp>
#include <bsconv/train/run.hpp>
#include <bsconv/train/step_recorder.hpp>

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

  /// Trains a module in a shared pointer, whose `forward` is as above.
  template <bsconv::detail::TensorModule ModuleType>
  explicit Trainer(const std::shared_ptr<ModuleType>& module, TrainOptions options = {})
      : Trainer(
            std::shared_ptr<torch::nn::Module>(module),
            [module](const torch::Tensor& images) -> torch::Tensor {
              return module->forward(images);
            },
            std::move(options)) {}

  /// Trains `module` through `forward`. Moves it to `options.device()`. Throws if a setting is out
  /// of its range or the module has nothing to train.
  Trainer(std::shared_ptr<torch::nn::Module> module, ForwardFunction forward,
          TrainOptions options = {})
      : run_(std::move(module), std::move(forward), std::move(options)) {}

  /// What checkpoints say about the run. Set it before `resume` to have it checked there.
  Trainer& info(RunInfo info) {
    run_.info = std::move(info);
    return *this;
  }

  /// Adds an observer; observers are told in the order they were added.
  Trainer& observe(std::shared_ptr<Observer> observer) {
    run_.observers.add(std::move(observer));
    return *this;
  }

  /// Trains together with other processes, each of which makes the same trainer and trains on its
  /// shard of every batch (`LoaderOptions::shard`). Process 0's weights count, and it alone writes
  /// files. Metrics are those of all processes, and tests are shared among them.
  Trainer& communicator(std::shared_ptr<Communicator> communicator) {
    TORCH_CHECK(communicator != nullptr, "the communicator is null");
    run_.processes = Processes(communicator);
    if (communicator->rank() != 0) {
      run_.options.output_dir({});
      run_.folder = CheckpointFolder({}, run_.options.keep_checkpoints());
    }
    run_.learner.join(std::move(communicator));
    return *this;
  }

  /// Learns from the logits of a trained network too (knowledge distillation), weighted by
  /// `TrainOptions::distillation_weight`. `teacher` maps images [N, C, H, W] to logits [N, classes]
  /// on the trainer's device; tests do without it.
  Trainer& teacher(ForwardFunction teacher) {
    TORCH_CHECK(teacher, "the teacher is empty");
    run_.learner.teacher(std::move(teacher));
    return *this;
  }

  /// Lets `recorder` do the steps that it can, see `Learner::record_with`.
  Trainer& recorder(std::shared_ptr<StepRecorder> recorder) {
    TORCH_CHECK(recorder != nullptr, "the recorder is null");
    run_.learner.record_with(std::move(recorder));
    return *this;
  }

  /// Whether a recorder does the steps, which it may not be able to.
  bool is_recording() const noexcept { return run_.learner.is_recording(); }

  /// Is asked after every batch; once it says true, `fit` writes a checkpoint and returns, at the
  /// end of the step if batches are accumulated. With several processes, one is enough, which the
  /// others learn of where metrics are fetched: on GPUs, every `options.log_interval()` batches.
  Trainer& stop_when(std::function<bool()> stop) {
    run_.stop = std::move(stop);
    return *this;
  }

  /// One step of the optimizer on a batch, in training mode, at the learning rate of the epoch's
  /// first step.
  StepResult train_step(const data::Batch& batch) {
    return run_.learner.step(batch, run_.rate_of(0));
  }

  /// Averages over `source` in evaluation mode, with the moving average of the weights if one is
  /// kept. Several processes share the images out among them, so every one must call it.
  Metrics evaluate(const data::BatchSource& source) {
    return evaluate_at(source, Position{}, /*may_stop=*/false).sums.mean();
  }

  /// Trains until `options.epochs()` epochs are finished, counting those before a resume, or the
  /// test accuracy has not risen for `options.patience()` epochs.
  ///
  /// With an output folder it writes `last.safetensors` after every epoch, `best.safetensors` when
  /// the test accuracy is the best so far, numbered checkpoints if asked to, and `metrics.csv`. One
  /// of another course, behind a resume from an earlier checkpoint, is renamed. Throws `c10::Error`
  /// if the loss or a weight is not finite, naming the step and the last good checkpoint; before
  /// any training, if the folder cannot be written, or holds a run that this one does not go on
  /// from, unless `options.overwrite()` has that removed.
  FitResult fit(const data::BatchSource& train, const data::BatchSource& test) {
    run_.folder.prepare(run_.info);
    if (!run_.options.overwrite()) {
      run_.folder.check_is_free();
    }
    const auto shard = run_.processes.own_shard();
    TORCH_CHECK(train.shard() == shard, "the training images are shard ", train.shard().index,
                " of ", train.shard().count, ", but this is process ", shard.index, " of ",
                shard.count, "; set LoaderOptions::shard");
    TORCH_CHECK(test.shard() == data::Shard(), "the test images are shard ", test.shard().index,
                " of ", test.shard().count,
                ", but must be all of them: the processes share them out themselves");
    check_start(train.num_batches(), test.num_examples());
    run_.course.start(train.num_batches());
    run_.asked_to_stop = false;
    if (run_.options.overwrite()) {
      run_.folder.remove_another_run();
    }
    run_.folder.set_aside_best_unless(run_.course.best_epoch());
    if (!run_.course.history().empty()) {
      // A run that was killed may have written the checkpoint of an epoch, but not its line.
      run_.write_metrics();
    }
    bool stopped = false;
    while (run_.course.epoch() < run_.options.epochs() && !stopped && !is_out_of_patience()) {
      stopped = EpochPass(run_).train(train);
      const auto trained = std::chrono::steady_clock::now();
      std::optional<MetricSums> tested;
      if (!stopped && is_tested(run_.course.epoch() + 1)) {
        const auto result = evaluate_or_save(test);
        // An interruption during the test leaves the epoch's training finished and its test to do.
        stopped = !result.complete;
        tested = result.sums;
      }
      if (!stopped) {
        const std::chrono::duration<double> testing = std::chrono::steady_clock::now() - trained;
        finish_epoch(tested, testing.count());
        stopped = is_stopped();
      } else {
        run_.write("last.safetensors", run_.checkpoint());
      }
    }
    // Who starts several processes may end all as soon as one has ended.
    run_.processes.meet();
    const bool early = epoch() < run_.options.epochs() && is_out_of_patience();
    return {run_.course.history(), best_accuracy(), epoch() < run_.options.epochs() && !early,
            early};
  }

  /// The present state, copied to the CPU.
  Checkpoint checkpoint() const { return run_.checkpoint(); }

  /// Goes on from `checkpoint`: weights and their average, optimizer, gradient scaler, epoch,
  /// batch, metrics and random generators. The trainer's own settings stay. Throws `c10::Error`,
  /// and changes nothing, if the checkpoint is of another architecture, data set or optimizer,
  /// listing tensors that differ, or if it stands in the middle of an epoch with other
  /// batches. `path` is where it was read, for messages.
  void resume(const Checkpoint& checkpoint, const std::filesystem::path& path = {}) {
    check_resumable(checkpoint, run_.learner.module(), run_.info, run_.options);
    const auto generators = generator_states(run_.options.device());
    try {
      load_generator_states(checkpoint.generators, run_.options.device());
      run_.learner.load(checkpoint);
    } catch (...) {
      load_generator_states(generators, run_.options.device());
      throw;
    }
    run_.course.load(checkpoint);
    run_.folder.resumed_from(path);
  }

  /// Reads the checkpoint at `path` and goes on from it.
  void resume_from(const std::filesystem::path& path) { resume(load_checkpoint(path), path); }

  /// Epochs that are finished.
  int64_t epoch() const noexcept { return run_.course.epoch(); }
  /// Best test accuracy so far, 0 to 1.
  double best_accuracy() const { return run_.course.best_accuracy(); }
  /// The settings.
  const TrainOptions& options() const noexcept { return run_.options; }
  /// The model.
  torch::nn::Module& module() noexcept { return run_.learner.module(); }
  /// Model, optimizer, gradient scaler and moving average.
  Learner& learner() noexcept { return run_.learner; }

 private:
  /// Checks that all processes stand at the same place, and that an epoch of `steps` batches can go
  /// on from there.
  void check_start(int64_t steps, int64_t test_images) const {
    const int64_t step = run_.course.step_of(steps);
    TORCH_CHECK(run_.processes.agree({epoch(), step, steps, test_images, run_.options.epochs()}),
                "the processes stand at different places; this one after epoch ", epoch(),
                ", batch ", step, " of ", steps, ", to train for ", run_.options.epochs(),
                " epochs, with ", test_images,
                " test images: resume all from the same checkpoint, with the same images");
    TORCH_CHECK(step <= steps, "cannot resume after batch ", step, " of an epoch that has ", steps,
                " batches; use the batch size and data set of the checkpoint");
    TORCH_CHECK(step == steps || step % run_.options.accumulate() == 0, "cannot go on after batch ",
                step, " of an epoch: ", run_.options.accumulate(),
                " batches make a step of the optimizer, and the gradients of those before it are "
                "not in a checkpoint");
  }

  /// What came of a test, of all processes.
  struct TestResult {
    MetricSums sums;
    bool complete = true;
  };

  TestResult evaluate_at(const data::BatchSource& source, const Position& position, bool may_stop) {
    run_.learner.synchronize();
    const EmaScope average(run_.learner.module(), run_.learner.ema());
    const data::EveryNthBatch part(source, run_.processes.own_shard());
    int64_t batches = 0;
    const auto own = train::evaluate(run_.learner.module(), run_.learner.forward(), part,
                                     EvaluateOptions()
                                         .device(run_.options.device())
                                         .alpha(run_.options.alpha())
                                         .workers(run_.options.workers())
                                         .log_interval(run_.options.log_interval())
                                         .precision(run_.options.precision())
                                         .channels_last(run_.options.channels_last())
                                         .stop([this, may_stop, &batches] {
                                           ++batches;
                                           return may_stop && run_.is_asked_to_stop();
                                         }),
                                     run_.observers, position);
    std::vector<MetricSums> sums = {own};
    const bool cut_short = run_.processes.sum(sums, batches < part.num_batches());
    return {sums.front(), !cut_short};
  }

  /// The test after an epoch. If it fails, the epoch's training is not lost: a resume tests again.
  TestResult evaluate_or_save(const data::BatchSource& test) {
    try {
      return evaluate_at(test, run_.position(), /*may_stop=*/true);
    } catch (...) {
      try {
        run_.write("last.safetensors", run_.checkpoint());
      } catch (const std::exception&) {
        // The test's error says more.
      }
      throw;
    }
  }

  /// Whether this process, or another, was asked to stop.
  bool is_stopped() { return run_.processes.any(run_.is_asked_to_stop()); }

  bool is_tested(int64_t epoch) const {
    return epoch % run_.options.eval_every() == 0 || epoch == run_.options.epochs();
  }

  bool is_out_of_patience() const { return run_.course.is_out_of(run_.options.patience()); }

  void finish_epoch(const std::optional<MetricSums>& tested, double test_seconds) {
    const bool best = run_.course.finish(
        run_.options.epochs(), run_.rate_of(run_.course.steps() - 1), tested, test_seconds);
    const auto state = checkpoint();
    if (best) {
      run_.write("best.safetensors", state);
    }
    if (run_.folder.keeps_numbered()) {
      run_.write(numbered_checkpoint_name(epoch()), state);
      run_.folder.remove_old(epoch());
    }
    run_.write("last.safetensors", state);
    run_.write_metrics();
    run_.observers.on_epoch_end(run_.course.history().back());
  }

  Run run_;
};

}  // namespace bsconv::train
