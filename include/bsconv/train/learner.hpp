// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/optim/adamw.h>
#include <torch/optim/optimizer.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>

#include <bsconv/autograd/fused_training.hpp>
#include <bsconv/data/batch_source.hpp>
#include <bsconv/nn/convert.hpp>
#include <bsconv/train/checkpoint_state.hpp>
#include <bsconv/train/clip_gradients.hpp>
#include <bsconv/train/communicator.hpp>
#include <bsconv/train/distillation.hpp>
#include <bsconv/train/ema.hpp>
#include <bsconv/train/forward.hpp>
#include <bsconv/train/fused_sgd.hpp>
#include <bsconv/train/grad_scaler.hpp>
#include <bsconv/train/loss.hpp>
#include <bsconv/train/metrics.hpp>
#include <bsconv/train/optimizer.hpp>
#include <bsconv/train/optimizer_state.hpp>
#include <bsconv/train/options.hpp>
#include <bsconv/train/step_recorder.hpp>
#include <bsconv/weights/state_dict.hpp>

namespace bsconv::train {

/// What turns batches into better weights: a model, its optimizer and, where the settings ask for
/// them, gradient scaler and moving average. `Trainer` drives it.
class Learner {
 public:
  /// Moves `module` to the device, and its weights to channels last if asked to. Throws if there is
  /// nothing to train.
  Learner(std::shared_ptr<torch::nn::Module> module, ForwardFunction forward, TrainOptions options)
      : module_(std::move(module)), forward_(std::move(forward)), options_(std::move(options)) {
    TORCH_CHECK(module_ != nullptr, "the trainer needs a module");
    TORCH_CHECK(forward_, "the trainer needs a forward function");
    module_->to(options_.device());
    if (options_.channels_last()) {
      bsconv::detail::use_channels_last(*module_);
    }
    parameters_ = trainable_parameters(*module_);
    TORCH_CHECK(!parameters_.is_empty(), "the model has no parameter that requires a gradient");
    values_ = parameters_.values();
    optimizer_ = make_optimizer(options_, parameters_);
    if (options_.precision() == Precision::fp16) {
      scaler_.emplace(options_.device());
    }
    if (options_.ema_decay() > 0) {
      ema_.emplace(*module_, options_.ema_decay());
    }
  }

  /// Trains together with other processes from now on: takes over process 0's weights and their
  /// average, and averages gradients.
  void join(std::shared_ptr<Communicator> communicator) {
    communicator_ = std::move(communicator);
    recorder_ = nullptr;
    communicator_->average_gradients(parameters_);
    communicator_->broadcast(module_->parameters());
    synchronize();
  }

  /// Takes over process 0's buffers, such as running statistics, and moving average.
  void synchronize() {
    if (communicator_ != nullptr) {
      communicator_->broadcast(module_->buffers());
      if (ema_) {
        communicator_->broadcast(ema_->average().values());
      }
    }
  }

  /// Lets `recorder` do the steps that it can: those of SGD in `step`, on one process, without a
  /// gradient scaler or clipping, of dense weights. `is_recording` tells whether there are such
  /// steps.
  void record_with(std::shared_ptr<StepRecorder> recorder) {
    const bool fits = options_.optimizer() == OptimizerType::sgd && !scaler_ &&
                      options_.clip_grad_norm() == 0 && options_.accumulate() == 1 &&
                      communicator_ == nullptr && can_step_at_once();
    recorder_ = fits ? std::move(recorder) : nullptr;
    buffers_ = module_->buffers();
  }

  /// Whether a recorder does the steps.
  bool is_recording() const noexcept { return recorder_ != nullptr; }

  /// Learns from the logits [N, classes] of `teacher` too, which is asked for those of every
  /// batch's images [N, C, H, W], without gradients.
  void teacher(ForwardFunction teacher) { teacher_ = std::move(teacher); }

  /// A whole step on `batch`: `begin`, `backward` and `apply`.
  StepResult step(const data::Batch& batch, double learning_rate) {
    if (recorder_ == nullptr) {
      begin(learning_rate);
      auto result = backward(batch);
      apply();
      return result;
    }
    set_learning_rate(*optimizer_, learning_rate);
    if (!learning_rate_.defined()) {
      learning_rate_ =
          torch::empty({}, torch::TensorOptions(options_.device()).dtype(torch::kFloat));
    }
    learning_rate_.fill_(learning_rate);
    start_training_mode();
    auto result =
        recorder_->run(inputs_of(batch), [this](const std::vector<torch::Tensor>& inputs) {
          optimizer_->zero_grad();
          auto recorded = loss_of(inputs);
          recorded.loss.backward();
          recorded.loss = recorded.loss.detach();
          fused_step(dynamic_cast<torch::optim::SGD&>(*optimizer_), learning_rate_);
          return recorded;
        });
    count_changes();
    if (ema_) {
      ema_->update(*module_);
    }
    return result;
  }

  /// Starts a step: sets the learning rate and forgets the gradients.
  void begin(double learning_rate) {
    set_learning_rate(*optimizer_, learning_rate);
    optimizer_->zero_grad();
  }

  /// Adds the gradients of `batch`, in training mode; `batches` says how many are averaged for the
  /// step, `last` that none of them follows.
  StepResult backward(const data::Batch& batch, int64_t batches = 1, bool last = true) {
    start_training_mode();
    const auto inputs = inputs_of(batch);
    auto result = loss_of(inputs);
    auto loss = batches == 1 ? result.loss : result.loss / static_cast<double>(batches);
    if (batch.share != 1.0) {
      loss = loss * batch.share;
    }
    if (scaler_) {
      loss = scaler_->scale(loss);
    }
    if (communicator_ != nullptr) {
      communicator_->backward(loss, last);
    } else {
      loss.backward();
    }
    result.loss = result.loss.detach();
    return result;
  }

  /// Ends a step: changes the weights. With float16, a step whose gradients are not finite only
  /// lowers the scaler's factor.
  void apply() {
    const bool finite = !scaler_ || scaler_->unscale(values_);
    if (finite) {
      if (options_.clip_grad_norm() > 0) {
        clip_gradients(values_, options_.clip_grad_norm());
      }
      update_weights();
      if (ema_) {
        ema_->update(*module_);
      }
    }
    if (scaler_) {
      scaler_->update();
    }
  }

  /// The model.
  torch::nn::Module& module() const noexcept { return *module_; }
  /// What turns images into logits.
  const ForwardFunction& forward() const noexcept { return forward_; }
  /// The moving average; null if there is none.
  const Ema* ema() const noexcept { return ema_ ? &*ema_ : nullptr; }
  /// The gradient scaler; null if there is none.
  const GradScaler* scaler() const noexcept { return scaler_ ? &*scaler_ : nullptr; }
  /// The optimizer.
  torch::optim::Optimizer& optimizer() const noexcept { return *optimizer_; }

  /// Copies the state of model, optimizer, scaler and moving average, on the CPU, to `checkpoint`.
  void save(Checkpoint& checkpoint) const {
    checkpoint.model = weights::clone_state_dict(weights::state_dict(*module_));
    if (const auto* sgd = dynamic_cast<const torch::optim::SGD*>(optimizer_.get())) {
      checkpoint.momentum = momentum_state(*sgd, parameters_);
    } else if (const auto* adamw = dynamic_cast<const torch::optim::AdamW*>(optimizer_.get())) {
      checkpoint.adamw = adamw_state(*adamw, parameters_);
    }
    if (ema_) {
      checkpoint.ema = weights::clone_state_dict(ema_->average());
      checkpoint.ema_updates = ema_->updates();
    }
    if (scaler_) {
      checkpoint.scaler = scaler_->state();
    }
  }

  /// Goes on from `checkpoint`, whose model fits. A moving average that it lacks starts from its
  /// weights, a scaler that it lacks anew. Throws `c10::Error`, and changes nothing, if a part does
  /// not fit.
  void load(const Checkpoint& checkpoint) {
    if (scaler_ && !checkpoint.scaler.is_empty()) {
      GradScaler::check_state(checkpoint.scaler);
    }
    std::optional<Ema> average;
    if (ema_) {
      average.emplace(*module_, options_.ema_decay());
      if (!checkpoint.ema.is_empty()) {
        average->load(*module_, checkpoint.ema, checkpoint.ema_updates);
      }
    }
    if (auto* sgd = dynamic_cast<torch::optim::SGD*>(optimizer_.get())) {
      load_momentum_state(*sgd, parameters_, checkpoint.momentum);
    } else if (auto* adamw = dynamic_cast<torch::optim::AdamW*>(optimizer_.get())) {
      load_adamw_state(*adamw, parameters_, checkpoint.adamw);
    }
    weights::load_state_dict(*module_, checkpoint.model);
    if (recorder_ != nullptr) {
      recorder_->forget();
    }
    if (scaler_ && !checkpoint.scaler.is_empty()) {
      scaler_->load_state(checkpoint.scaler);
    }
    if (ema_) {
      if (checkpoint.ema.is_empty()) {
        average->restart(*module_);
      }
      ema_ = std::move(average);
    }
  }

 private:
  // A repeated step changes weights and running statistics without LibTorch's operators; who has
  // kept something made of them, such as an `OptimizedModel`, must notice.
  void count_changes() {
    for (const auto* tensors : {&values_, &buffers_}) {
      for (const auto& tensor : *tensors) {
        tensor.unsafeGetTensorImpl()->bump_version();
      }
    }
  }

  /// Whether `fused_step` can change all weights: it goes through memory, whatever the strides.
  bool can_step_at_once() const {
    return std::all_of(values_.begin(), values_.end(), [](const torch::Tensor& value) {
      return value.is_non_overlapping_and_dense();
    });
  }

  void update_weights() {
    auto* sgd = dynamic_cast<torch::optim::SGD*>(optimizer_.get());
    const auto is_plain = [](const torch::Tensor& value) {
      return value.is_cpu() && value.scalar_type() == torch::kFloat;
    };
    if (sgd != nullptr && fused_training_enabled() && can_step_at_once() &&
        std::all_of(values_.begin(), values_.end(), is_plain)) {
      fused_step(*sgd);
    } else {
      optimizer_->step();
    }
  }

  void start_training_mode() {
    if (!module_->is_training()) {
      module_->train();
    }
  }

  /// Images, labels and, where there are some, targets and a teacher's logits on the device.
  std::vector<torch::Tensor> inputs_of(const data::Batch& batch) const {
    const auto images = detail::images_for(batch, options_.device(), options_.channels_last());
    return {images, batch.labels.to(options_.device()),
            batch.targets.defined() ? batch.targets.to(options_.device()) : torch::Tensor(),
            logits_of_teacher(images)};
  }

  torch::Tensor logits_of_teacher(const torch::Tensor& images) const {
    const torch::NoGradGuard no_grad;
    return teacher_ ? teacher_(images) : torch::Tensor();
  }

  StepResult loss_of(const std::vector<torch::Tensor>& inputs) {
    const auto forward = [this](const torch::Tensor& images) {
      return detail::autocast_forward(forward_, images, options_.precision());
    };
    const auto logits =
        communicator_ != nullptr ? communicator_->run(forward, inputs[0]) : forward(inputs[0]);
    return classification_loss(*module_, logits, inputs[1], options_.alpha(),
                               options_.label_smoothing(), inputs[2],
                               Distillation(inputs[3])
                                   .weight(options_.distillation_weight())
                                   .temperature(options_.distillation_temperature()));
  }

  std::shared_ptr<torch::nn::Module> module_;
  ForwardFunction forward_;
  ForwardFunction teacher_;
  TrainOptions options_;
  weights::StateDict parameters_;
  std::vector<torch::Tensor> values_;
  /// Of a module whose steps are recorded.
  std::vector<torch::Tensor> buffers_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
  std::optional<GradScaler> scaler_;
  std::optional<Ema> ema_;
  std::shared_ptr<Communicator> communicator_;
  std::shared_ptr<StepRecorder> recorder_;
  // The rate of recorded steps.
  torch::Tensor learning_rate_;
};

}  // namespace bsconv::train
