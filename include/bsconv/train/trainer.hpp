// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>

#include <bsconv/data/batch_source.hpp>
#include <bsconv/data/prefetch.hpp>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/train/evaluate.hpp>
#include <bsconv/train/metrics.hpp>
#include <bsconv/train/observer.hpp>
#include <bsconv/train/optimizer_state.hpp>
#include <bsconv/train/options.hpp>
#include <bsconv/train/schedule.hpp>
#include <bsconv/weights/state_dict.hpp>

namespace bsconv::train {

/// How `Trainer::fit` ended.
struct FitResult {
  /// All finished epochs, those before a resume included.
  std::vector<EpochSummary> history;
  /// Best test accuracy, 0 to 1; 0 if no epoch is finished.
  double best_accuracy = 0;
  /// Whether it was stopped before the last epoch ended.
  bool interrupted = false;
};

/// Trains a classifier as the reference does: SGD with momentum, cross entropy plus regularization
/// loss, a learning rate that falls in steps, a test and a checkpoint after every epoch.
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
      : module_(std::move(module)),
        forward_(std::move(forward)),
        options_(checked(std::move(options))),
        schedule_(options_.learning_rate(), options_.schedule(), options_.gamma()) {
    TORCH_CHECK(module_ != nullptr, "the trainer needs a module");
    TORCH_CHECK(forward_, "the trainer needs a forward function");
    module_->to(options_.device());
    parameters_ = trainable_parameters(*module_);
    TORCH_CHECK(!parameters_.is_empty(), "the model has no parameter that requires a gradient");
    optimizer_ = std::make_unique<torch::optim::SGD>(parameters_.values(),
                                                     torch::optim::SGDOptions(schedule_.at(0))
                                                         .momentum(options_.momentum())
                                                         .weight_decay(options_.weight_decay()));
  }

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

  /// Is asked after every batch; once it says true, `fit` writes a checkpoint and returns.
  Trainer& stop_when(std::function<bool()> stop) {
    stop_ = std::move(stop);
    return *this;
  }

  /// One step of SGD on a batch, in training mode, at the current epoch's learning rate.
  StepResult train_step(const data::Batch& batch) {
    if (!module_->is_training()) {
      module_->train();
    }
    const auto images = batch.images.to(options_.device());
    const auto labels = batch.labels.to(options_.device());
    optimizer_->zero_grad();
    auto result = classification_loss(*module_, forward_(images), labels, options_.alpha());
    result.loss.backward();
    optimizer_->step();
    result.loss = result.loss.detach();
    return result;
  }

  /// Averages over `source` in evaluation mode.
  Metrics evaluate(const data::BatchSource& source) {
    return evaluate_at(source, Position{}).mean();
  }

  /// Trains until `options.epochs()` epochs are finished, counting those before a resume.
  ///
  /// With an output folder it writes `last.safetensors` after every epoch, `best.safetensors` when
  /// the test accuracy is the best so far, and `metrics.csv`. Throws `c10::Error` if the loss or a
  /// weight is not finite, naming the step and the last good checkpoint, or if the folder cannot
  /// be written, before any training.
  FitResult fit(const data::BatchSource& train, const data::BatchSource& test) {
    prepare_output();
    TORCH_CHECK(step_ <= train.num_batches(), "cannot resume after batch ", step_,
                " of an epoch that has ", train.num_batches(),
                " batches; use the batch size and data set of the checkpoint");
    for (bool stopped = false; epoch_ < options_.epochs() && !stopped;) {
      const auto start = std::chrono::steady_clock::now();
      stopped = train_epoch(train);
      const std::chrono::duration<double> trained = std::chrono::steady_clock::now() - start;
      MetricSums tested;
      if (!stopped) {
        tested = evaluate_at(test, position());
        // An interruption during the test leaves the epoch's training finished and its test to do.
        stopped = tested.examples < test.num_examples();
      }
      if (!stopped) {
        const std::chrono::duration<double> all = std::chrono::steady_clock::now() - start;
        finish_epoch(tested, trained.count(), all.count());
        stopped = stop_ && stop_();
      } else {
        write_checkpoint("last.safetensors");
      }
    }
    return {history_, best_accuracy(), epoch_ < options_.epochs()};
  }

  /// The present state, copied to the CPU.
  Checkpoint checkpoint() const {
    Checkpoint result;
    result.info = info_;
    result.options = options_;
    result.epoch = epoch_;
    result.step = step_;
    result.partial = partial_;
    result.history = history_;
    result.model = weights::clone_state_dict(weights::state_dict(*module_));
    result.momentum = momentum_state(*optimizer_, parameters_);
    result.generators = generator_states(options_.device());
    return result;
  }

  /// Goes on from `checkpoint`: weights, momentum, epoch, batch, metrics and random generators. The
  /// trainer's own settings stay. Throws `c10::Error`, and changes nothing, if the checkpoint is of
  /// another architecture or data set, listing every tensor that differs, or if it stands in the
  /// middle of an epoch with another batch size or seed.
  void resume(const Checkpoint& checkpoint) {
    check_resumable(checkpoint);
    const auto generators = generator_states(options_.device());
    try {
      load_generator_states(checkpoint.generators, options_.device());
      load_momentum_state(*optimizer_, parameters_, checkpoint.momentum);
    } catch (...) {
      load_generator_states(generators, options_.device());
      throw;
    }
    weights::load_state_dict(*module_, checkpoint.model);
    epoch_ = checkpoint.epoch;
    step_ = checkpoint.step;
    partial_ = checkpoint.partial;
    history_ = checkpoint.history;
    set_learning_rate();
  }

  /// Reads the checkpoint at `path` and goes on from it.
  void resume_from(const std::filesystem::path& path) {
    resume(load_checkpoint(path));
    last_checkpoint_ = path;
  }

  /// Epochs that are finished.
  int64_t epoch() const noexcept { return epoch_; }
  /// Best test accuracy so far, 0 to 1.
  double best_accuracy() const { return history_.empty() ? 0.0 : history_.back().best_accuracy; }
  /// The settings.
  const TrainOptions& options() const noexcept { return options_; }
  /// The model.
  torch::nn::Module& module() noexcept { return *module_; }

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
    result.learning_rate = schedule_.at(epoch_);
    return result;
  }

  MetricSums evaluate_at(const data::BatchSource& source, const Position& position) {
    return train::evaluate(*module_, forward_, source,
                           EvaluateOptions()
                               .device(options_.device())
                               .alpha(options_.alpha())
                               .workers(options_.workers())
                               .log_interval(options_.log_interval())
                               .stop([this] { return stop_ && stop_(); }),
                           observers_, position);
  }

  void set_learning_rate() {
    for (auto& group : optimizer_->param_groups()) {
      group.options().set_lr(schedule_.at(epoch_));
    }
  }

  /// Does the rest of an epoch; returns whether it was stopped before its end.
  bool train_epoch(const data::BatchSource& source) {
    set_learning_rate();
    resumed_examples_ = partial_.examples;
    auto where = position();
    where.steps = source.num_batches();
    for (const auto& observer : observers_) {
      observer->on_pass_begin(where);
    }
    const int64_t interval = options_.device().is_cpu() ? 1 : options_.log_interval();
    data::Prefetcher batches(source, epoch_, step_, options_.workers());
    std::vector<StepResult> pending;
    bool stopped = false;
    while (batches.has_next() && !stopped) {
      pending.push_back(train_step(batches.next()));
      ++step_;
      stopped = stop_ && stop_();
      if (stopped || !batches.has_next() || step_ % interval == 0) {
        collect(pending);
        where.step = step_;
        for (const auto& observer : observers_) {
          observer->on_step(where, partial_);
        }
      }
    }
    for (const auto& observer : observers_) {
      observer->on_pass_end(where, partial_);
    }
    return stopped;
  }

  /// NaN without the sign that says nothing to a reader.
  static double unsigned_nan(double value) { return std::isnan(value) ? std::fabs(value) : value; }

  void collect(std::vector<StepResult>& pending) {
    auto step = step_ - static_cast<int64_t>(pending.size());
    for (const auto& result : pending) {
      ++step;
      const auto metrics = result.metrics();
      TORCH_CHECK(std::isfinite(metrics.loss), "the loss is not finite at step ", step,
                  " of epoch ", epoch_ + 1, ": ", unsigned_nan(metrics.loss), " (cross entropy ",
                  unsigned_nan(metrics.cross_entropy), ", regularization ",
                  unsigned_nan(metrics.regularization), "); a lower learning rate may help; ",
                  last_good());
      partial_.add(metrics, result.examples);
    }
    pending.clear();
  }

  void finish_epoch(const MetricSums& tested, double train_seconds, double seconds) {
    EpochSummary summary;
    summary.epoch = epoch_ + 1;
    summary.epochs = options_.epochs();
    summary.learning_rate = schedule_.at(epoch_);
    summary.train = partial_.mean();
    summary.test = tested.mean();
    summary.best_accuracy = best_accuracy();
    summary.best_epoch = history_.empty() ? 0 : history_.back().best_epoch;
    const bool best = history_.empty() || summary.test.accuracy > summary.best_accuracy;
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
    if (best) {
      write_checkpoint("best.safetensors");
    }
    write_checkpoint("last.safetensors");
    if (!options_.output_dir().empty()) {
      write_csv(options_.output_dir() / "metrics.csv", history_);
    }
    for (const auto& observer : observers_) {
      observer->on_epoch_end(summary);
    }
  }

  void prepare_output() {
    const auto& folder = options_.output_dir();
    if (folder.empty()) {
      return;
    }
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    TORCH_CHECK(!error, "cannot make the output folder '", folder.native(), "': ", error.message());
    // Finds out now, not after the first epoch, whether the folder can be written.
    const weights::AtomicFile probe(folder / "last.safetensors");
  }

  void write_checkpoint(const char* name) {
    const auto state = checkpoint();
    for (const auto* part : {&state.model, &state.momentum}) {
      for (const auto& item : *part) {
        TORCH_CHECK(
            !item.value().is_floating_point() || torch::isfinite(item.value()).all().item<bool>(),
            "'", item.key(), "' is not finite after ",
            step_ > 0 ? c10::str("step ", step_, " of ") : "", "epoch ",
            epoch_ + (step_ > 0 ? 1 : 0), ", which was not saved; ", last_good());
      }
    }
    if (options_.output_dir().empty()) {
      return;
    }
    const auto path = options_.output_dir() / name;
    save_checkpoint(path, state);
    last_checkpoint_ = path;
    for (const auto& observer : observers_) {
      observer->on_checkpoint(path);
    }
  }

  std::string last_good() const {
    return last_checkpoint_.empty()
               ? std::string("no checkpoint was written before")
               : "the last good checkpoint is '" + last_checkpoint_.native() + "'";
  }

  void check_resumable(const Checkpoint& checkpoint) const {
    const auto difference = weights::compare_state_dict(*module_, checkpoint.model);
    const bool same_name = info_.architecture.empty() || checkpoint.info.architecture.empty() ||
                           info_.architecture == checkpoint.info.architecture;
    TORCH_CHECK(difference.empty() && same_name, "cannot resume: the checkpoint is of '",
                checkpoint.info.architecture, "', the model is '", info_.architecture, "'",
                difference.empty() ? "" : "; these tensors differ:\n", difference.to_string());
    TORCH_CHECK(info_.dataset.empty() || checkpoint.info.dataset.empty() ||
                    info_.dataset == checkpoint.info.dataset,
                "cannot resume: the checkpoint was trained on '", checkpoint.info.dataset,
                "', not on '", info_.dataset, "'");
    const auto& saved = checkpoint.options;
    TORCH_CHECK(checkpoint.step == 0 || (saved.batch_size() == options_.batch_size() &&
                                         saved.seed() == options_.seed()),
                "cannot resume in the middle of an epoch with another batch size or seed: the ",
                "checkpoint has batch size ", saved.batch_size(), " and seed ", saved.seed(),
                ", the trainer ", options_.batch_size(), " and ", options_.seed());
  }

  std::shared_ptr<torch::nn::Module> module_;
  ForwardFunction forward_;
  TrainOptions options_;
  MultiStepSchedule schedule_;
  weights::StateDict parameters_;
  std::unique_ptr<torch::optim::SGD> optimizer_;
  RunInfo info_;
  Observers observers_;
  std::function<bool()> stop_;
  int64_t epoch_ = 0;
  int64_t step_ = 0;
  MetricSums partial_;
  int64_t resumed_examples_ = 0;
  std::vector<EpochSummary> history_;
  std::filesystem::path last_checkpoint_;
};

}  // namespace bsconv::train
