// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

/// \file
/// Training: `train::Trainer`, its options, and what it is made of. Needs nlohmann/json (component
/// `json`).

// IWYU pragma: begin_exports
#include <bsconv/fused_training.hpp>
#include <bsconv/train/autocast.hpp>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/train/checkpoint_folder.hpp>
#include <bsconv/train/checkpoint_state.hpp>
#include <bsconv/train/choices.hpp>
#include <bsconv/train/clip_gradients.hpp>
#include <bsconv/train/communicator.hpp>
#include <bsconv/train/course.hpp>
#include <bsconv/train/distillation.hpp>
#include <bsconv/train/ema.hpp>
#include <bsconv/train/epoch_pass.hpp>
#include <bsconv/train/evaluate.hpp>
#include <bsconv/train/forward.hpp>
#include <bsconv/train/fused_sgd.hpp>
#include <bsconv/train/generator_state.hpp>
#include <bsconv/train/grad_scaler.hpp>
#include <bsconv/train/interrupt.hpp>
#include <bsconv/train/learner.hpp>
#include <bsconv/train/loss.hpp>
#include <bsconv/train/metrics.hpp>
#include <bsconv/train/observer.hpp>
#include <bsconv/train/optimizer.hpp>
#include <bsconv/train/optimizer_state.hpp>
#include <bsconv/train/options.hpp>
#include <bsconv/train/progress.hpp>
#include <bsconv/train/run.hpp>
#include <bsconv/train/schedule.hpp>
#include <bsconv/train/settings.hpp>
#include <bsconv/train/step_recorder.hpp>
#include <bsconv/train/tensorboard.hpp>
#include <bsconv/train/trainer.hpp>
// IWYU pragma: end_exports
