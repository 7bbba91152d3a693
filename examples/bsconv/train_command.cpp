// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <sys/stat.h>
#include <unistd.h>
#include <bsconv/pretrained/classifier.hpp>
#include <bsconv/profile.hpp>
#include <bsconv/train.hpp>
#include <bsconv/version.hpp>
#include <bsconv/weights/state_dict.hpp>
#include <bsconv/zoo.hpp>

#include <csignal>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>

#include "commands.hpp"
#include "common.hpp"
#include "data_sets.hpp"
#include "processes.hpp"
#include "record_steps.hpp"
#include "run_folder.hpp"
#include "teacher.hpp"
#include "train_plan.hpp"
#include "train_settings.hpp"

namespace bsconv_program {
namespace {

using bsconv::train::Checkpoint;

/// Which operators a step runs on.
std::string describe_operators(const bsconv::train::TrainOptions& options) {
  const bool on_cpu = options.device().is_cpu();
  const bool fused = bsconv::fused_training_enabled() &&
                     bsconv::detail::training_operators(options.device().type()).load() != nullptr;
  if (!fused) {
    return "LibTorch's";
  }
  return std::string("fused (") +
         (on_cpu ? bsconv::kernels::find_kernels().name : "compiled for the GPU") +
         (on_cpu && options.precision() != bsconv::train::Precision::f32 ? ", float32" : "") +
         "), else LibTorch's";
}

/// What is trained on what, printed before the training.
std::string describe_run(const TrainSettings& settings, const bsconv::train::RunInfo& info,
                         const ImageSet& training, const ImageSet& test) {
  std::ostringstream out;
  out << "bsconv         " << bsconv::version << "\narchitecture   " << info.architecture
      << "\ndataset        " << info.dataset << ", " << training.batches->num_examples()
      << " training and " << test.batches->num_examples() << " test images, " << info.num_classes()
      << " classes\ntraining       " << training.preparation << "\ntest           "
      << test.preparation << "\ndevice         " << settings.options.device() << ", "
      << settings.workers << " workers\noperators      " << describe_operators(settings.options)
      << "\nteacher        " << settings.teacher << "\noutput         "
      << settings.options.output_dir().native() << "\n\n"
      << bsconv::train::describe_settings(settings.options) << '\n';
  return out.str();
}

/// What came of the training; an interruption ends the program as such.
std::string describe_result(const bsconv::train::FitResult& result, const TrainSettings& settings) {
  const auto& out = settings.options.output_dir();
  if (result.interrupted) {
    throw Interrupted(out.empty() ? "interrupted"
                                  : "interrupted; go on with: bsconv train --resume '" +
                                        out.native() + "'");
  }
  std::ostringstream text;
  if (result.stopped_early) {
    text << "stopped early: no better test accuracy in " << settings.options.patience()
         << " epochs\n";
  }
  if (result.history.empty()) {
    text << "no epoch was asked for: no checkpoint\n";
    return text.str();
  }
  text << "best test accuracy " << 100 * result.best_accuracy << " %";
  // A run that goes on in another folder may not have had a better epoch there.
  const auto best = out / "best.safetensors";
  std::error_code error;
  if (std::filesystem::exists(best, error)) {
    text << ", checkpoint '" << best.native() << "'";
  }
  text << '\n';
  return text.str();
}

/// Copies the weights of a file into a new model. The classifier keeps its random weights if the
/// file's has another number of classes. Returns a line that says what was done.
std::string start_from(bsconv::Layer& model, int64_t num_classes,
                       const std::filesystem::path& from) {
  const auto path = in_directory(from, "best.safetensors");
  const auto file = load_model_weights(path);
  check_is_unchanged_model(file, path);
  auto weights = file.tensors;
  const auto classes = bsconv::num_classes_of(weights, path.native());
  std::string line = "started from the weights of '" + path.native() + "'";
  if (classes != num_classes) {
    bsconv::keep_classifier(*model, weights);
    line += ", the classifier from random ones: it was for " + std::to_string(classes) +
            " classes, the data set has " + std::to_string(num_classes);
  }
  bsconv::weights::load_state_dict(*model, weights);
  return line + "\n";
}

bool output_is_a_pipe() {
  struct stat output {};
  return ::fstat(STDOUT_FILENO, &output) == 0 &&
         (S_ISFIFO(output.st_mode) || S_ISSOCK(output.st_mode));
}

void train(const TrainFlags& flags) {
  std::optional<Checkpoint> checkpoint;
  const auto resumed = in_directory(flags.resume, "last.safetensors");
  if (!flags.resume.empty()) {
    checkpoint = bsconv::train::load_checkpoint(resumed);
  }
  auto settings = make_settings(flags, checkpoint);
  auto& options = settings.options;
  const auto shard = shard_of_environment();
  std::optional<ClaimedFolder> claimed;
  // One process writes and prints for all.
  if (!flags.dry_run && shard.index == 0) {
    claimed.emplace(flags, settings);
    options.output_dir(claimed->path());
    if (checkpoint) {
      // Until the folder was this process's, another may have written a newer one.
      checkpoint = bsconv::train::load_checkpoint(resumed);
    }
  }

  const int64_t side = input_size(settings.architecture);
  DataRequest request = {settings.dataset,
                         settings.data_root,
                         side,
                         options.batch_size(),
                         options.seed(),
                         options.device(),
                         broken_images(settings.broken_images),
                         augmentation_of(settings),
                         mixing_of(settings)};
  request.shard = shard;
  const auto training = open_training_images(request);
  const auto test = open_test_images(request);
  bsconv::train::RunInfo info;
  info.architecture = settings.architecture;
  info.dataset = settings.dataset;
  info.class_names = training.class_names;
  info.settings = kept_settings(settings);
  const auto header = describe_run(settings, info, training, test);

  try_out_algorithms(options.device());
  // Before the seed is set: the student must not depend on how many numbers its teacher drew.
  const auto teacher = settings.teacher == "none"
                           ? bsconv::train::ForwardFunction()
                           : make_teacher(settings.teacher, info, side, options.device());
  torch::manual_seed(options.seed());
  auto model = make_model(info.architecture, info.num_classes(), info.in_channels);
  const bool starts_from_weights = settings.weights != "none" && !checkpoint;
  const std::string start =
      starts_from_weights ? start_from(model, info.num_classes(), settings.weights) : "";
  const std::string profile =
      to_table(bsconv::profile(model, torch::zeros({1, info.in_channels, side, side}))) + "\n";

  bsconv::train::Trainer trainer(model, options);
  trainer.info(info);
  if (teacher) {
    trainer.teacher(teacher);
  }
  if (checkpoint) {
    trainer.resume(*checkpoint, resumed);
  }
  const bool recorded = shard.count == 1 && record_steps(trainer);
  if (flags.dry_run) {
    std::cout << header << profile << start
              << describe_plan(trainer, *training.batches, *test.batches);
    return;
  }
  const auto processes = meet_processes(settings, flags.processes);
  if (processes != nullptr) {
    trainer.communicator(processes);
  }
  // A pipe that nobody reads any more ends the training as a signal does, and with a checkpoint; a
  // full disk doesn't: there is the log.
  std::signal(SIGPIPE, SIG_IGN);
  std::optional<RunFolder> folder;
  const auto print = [&folder](const std::string& text) {
    if (folder) {
      folder->print(text);
    }
  };
  if (shard.index == 0) {
    folder.emplace(settings);
    folder->observe(trainer);
  }
  print(header + profile + start);
  if (recorded) {
    print("steps are recorded as a CUDA graph\n");
  }
  if (shard.count > 1) {
    print(std::to_string(shard.count) + " processes train together\n");
  }
  if (checkpoint) {
    std::ostringstream text;
    text << "resumed after epoch " << checkpoint->epoch << ", batch " << checkpoint->step
         << ", best " << 100 * trainer.best_accuracy() << " %\n";
    print(text.str());
  }
  const bsconv::train::InterruptGuard guard;
  trainer.stop_when([to_pipe = output_is_a_pipe()] {
    return bsconv::train::InterruptGuard::requested() || (to_pipe && !std::cout.good());
  });
  const auto result = trainer.fit(*training.batches, *test.batches);
  std::ostringstream broken;
  report_broken_images(broken, {&training, &test});
  print(broken.str());
  print(describe_result(result, settings));
}

}  // namespace

void add_train_command(CLI::App& app) {
  auto* command = app.add_subcommand("train", "Train a model");
  const auto flags = std::make_shared<TrainFlags>();
  add_train_flags(*command, *flags);
  const auto reference_kernels = std::make_shared<bool>(false);
  command->add_flag("--reference-kernels", *reference_kernels,
                    "Train on LibTorch's operators alone, without this library's fused ones");
  command->callback([flags, reference_kernels] {
    const bsconv::FusedTrainingGuard guard(!*reference_kernels);
    train(*flags);
  });
}

}  // namespace bsconv_program
