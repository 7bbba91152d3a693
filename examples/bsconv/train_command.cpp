// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <sys/stat.h>
#include <torch/utils.h>
#include <unistd.h>
#include <bsconv/data/class_names.hpp>
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
#include <vector>

#include "checks.hpp"
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
      << torch::get_num_threads() << " threads, " << settings.workers << " workers\noperators      "
      << describe_operators(settings.options) << "\nteacher        " << settings.teacher
      << "\noutput         " << settings.options.output_dir().native() << "\n\n"
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

/// A line that says so if the learning rate was meant to fall and never does; else nothing.
std::string describe_schedule(const bsconv::train::TrainOptions& options) {
  const auto& milestones = options.schedule();
  const bool falls = options.schedule_type() != bsconv::train::ScheduleType::multistep ||
                     milestones.empty() || milestones.front() < options.epochs();
  if (falls || options.gamma() == 1 || options.epochs() == 0) {
    return "";
  }
  return c10::str("schedule: no milestone lies before epoch ", options.epochs(),
                  ", so the learning rate stays at ",
                  bsconv::train::detail::value_text(options.learning_rate()),
                  options.warmup_epochs() > 0 ? " after the warm-up\n" : "\n");
}

/// Copies the weights of a file into a new model. The classifier keeps its random weights if the
/// file's is known to be for other classes. Returns a line that says what was done.
std::string start_from(bsconv::Layer& model, const std::vector<std::string>& class_names,
                       const std::filesystem::path& from) {
  const auto path = in_directory(from, "best.safetensors");
  const auto file = load_model_weights(path);
  check_is_unchanged_model(file, path);
  auto weights = file.tensors;
  const auto classes = bsconv::num_classes_of(weights, path.native());
  const auto count = static_cast<int64_t>(class_names.size());
  const auto known = class_names_of(file, path);
  const auto difference =
      known.empty() ? std::string() : bsconv::data::class_difference(class_names, known);
  std::string line = "started from the weights of '" + path.native() + "'";
  if (classes != count) {
    line += c10::str(", the classifier from random ones: it was for ", classes,
                     " classes, the data set has ", count);
  } else if (!difference.empty()) {
    line += c10::str(", the classifier from random ones: in the data set, ", difference,
                     " as in the weights");
  }
  if (classes != count || !difference.empty()) {
    bsconv::keep_classifier(*model, weights);
  }
  if (const auto converted = load_converted(*model, weights); !converted.empty()) {
    line += c10::str(", ", converted);
  }
  return line + "\n";
}

bool output_is_a_pipe() {
  struct stat output {};
  return ::fstat(STDOUT_FILENO, &output) == 0 &&
         (S_ISFIFO(output.st_mode) || S_ISSOCK(output.st_mode));
}

/// What a training goes by. While it lives, the run's folder belongs to this process.
struct TrainRun {
  explicit TrainRun(const TrainFlags& flags);

  bsconv::data::Shard shard = shard_of_environment();
  /// Where the checkpoint that it goes on from lies.
  std::filesystem::path resumed;
  std::optional<Checkpoint> checkpoint;
  TrainSettings settings;
  /// Of the process that writes and prints for all.
  std::optional<ClaimedFolder> claimed;
};

TrainRun::TrainRun(const TrainFlags& flags)
    : resumed(in_directory(flags.resume, "last.safetensors")) {
  if (!flags.resume.empty()) {
    checkpoint = read_checkpoint(resumed);
  }
  settings = make_settings(flags, checkpoint);
  if (!flags.dry_run && shard.index == 0) {
    claimed.emplace(flags, settings);
    settings.options.output_dir(claimed->path());
    if (checkpoint) {
      // Until the folder was this process's, another may have written a newer one.
      checkpoint = read_checkpoint(resumed);
    }
  }
}

/// The images of a training, and what it is of.
struct TrainData {
  int64_t side = 0;
  ImageSet training;
  ImageSet test;
  bsconv::train::RunInfo info;
};

TrainData open_train_data(const TrainRun& run) {
  const auto& settings = run.settings;
  TrainData opened;
  opened.side = settings.image_size > 0 ? settings.image_size : input_size(settings.architecture);
  DataRequest request = {settings.dataset,
                         settings.data_root,
                         opened.side,
                         settings.options.batch_size(),
                         settings.options.seed(),
                         settings.options.device(),
                         broken_images(settings.broken_images),
                         augmentation_of(settings),
                         mixing_of(settings)};
  request.shard = run.shard;
  opened.training = open_training_images(request);
  opened.test = open_test_images(request);
  opened.info.architecture = settings.architecture;
  opened.info.dataset = settings.dataset;
  opened.info.class_names = opened.training.class_names;
  opened.info.settings = kept_settings(settings);
  return opened;
}

/// A model before its training.
struct Student {
  bsconv::Layer model{nullptr};
  /// Empty: none.
  bsconv::train::ForwardFunction teacher;
  /// What it costs and starts from, in words.
  std::string description;
};

Student make_student(const TrainRun& run, const TrainData& opened) {
  const auto& settings = run.settings;
  const auto& info = opened.info;
  Student student;
  // Before the seed is set: the student must not depend on how many numbers its teacher drew.
  if (settings.teacher != "none") {
    student.teacher = make_teacher(settings.teacher, info, opened.side, settings.options.device());
  }
  torch::manual_seed(settings.options.seed());
  student.model = make_model(info.architecture, info.num_classes(), info.in_channels);
  const bool starts_from_weights = settings.weights != "none" && !run.checkpoint;
  const std::string start =
      starts_from_weights ? start_from(student.model, info.class_names, settings.weights) : "";
  const auto image = torch::zeros({1, info.in_channels, opened.side, opened.side});
  student.description = to_table(bsconv::profile(student.model, image)) + "\n" + start;
  return student;
}

/// How the training starts, beside what it is of.
std::string describe_start(const TrainRun& run, const bsconv::train::Trainer& trainer,
                           bool recorded) {
  std::ostringstream text;
  if (recorded) {
    text << "steps are recorded as a CUDA graph\n";
  }
  if (run.shard.count > 1) {
    text << run.shard.count << " processes train together\n";
  }
  if (run.checkpoint) {
    text << "resumed after epoch " << run.checkpoint->epoch << ", batch " << run.checkpoint->step
         << ", best " << 100 * trainer.best_accuracy() << " %\n";
  }
  return text.str();
}

/// Trains, and prints `text` before.
void run_training(const TrainRun& run, const TrainData& opened, bsconv::train::Trainer& trainer,
                  const std::string& text) {
  // A pipe that nobody reads any more ends the training as a signal does, and with a checkpoint; a
  // full disk doesn't: there is the log.
  std::signal(SIGPIPE, SIG_IGN);
  std::optional<RunFolder> folder;
  const auto print = [&folder](const std::string& line) {
    if (folder) {
      folder->print(line);
    }
  };
  if (run.shard.index == 0) {
    folder.emplace(run.settings);
    folder->observe(trainer);
  }
  print(text);
  const bsconv::train::InterruptGuard guard;
  trainer.stop_when([to_pipe = output_is_a_pipe()] {
    return bsconv::train::InterruptGuard::requested() || (to_pipe && !std::cout.good());
  });
  const auto result = trainer.fit(*opened.training.batches, *opened.test.batches);
  std::ostringstream broken;
  report_broken_images(broken, {&opened.training, &opened.test});
  print(broken.str());
  print(describe_result(result, run.settings));
}

void train(const TrainFlags& flags) {
  const TrainRun run(flags);
  const auto& options = run.settings.options;
  const auto opened = open_train_data(run);
  auto text = describe_run(run.settings, opened.info, opened.training, opened.test);
  try_out_algorithms(options.device());
  const auto student = make_student(run, opened);
  text += student.description;
  text += describe_schedule(options);

  bsconv::train::Trainer trainer(student.model, options);
  trainer.info(opened.info);
  if (student.teacher) {
    trainer.teacher(student.teacher);
  }
  if (run.checkpoint) {
    trainer.resume(*run.checkpoint, run.resumed);
  }
  const bool recorded = run.shard.count == 1 && record_steps(trainer);
  if (flags.dry_run) {
    std::cout << text << describe_plan(trainer, *opened.training.batches, *opened.test.batches);
    return;
  }
  const auto processes = meet_processes(run.settings, flags.processes);
  if (processes != nullptr) {
    trainer.communicator(processes);
  }
  text += describe_start(run, trainer, recorded);
  run_training(run, opened, trainer, text);
}

}  // namespace

void add_train_command(CLI::App& app) {
  auto* command = app.add_subcommand("train", "Train a model");
  const auto flags = std::make_shared<TrainFlags>();
  add_train_flags(*command, *flags);
  const auto reference_kernels = std::make_shared<bool>(false);
  command->add_flag("--reference-kernels", *reference_kernels,
                    "Train on LibTorch's operators alone, without this library's fused ones");
  add_threads_option(*command);
  command->callback([flags, reference_kernels] {
    const bsconv::FusedTrainingGuard guard(!*reference_kernels);
    train(*flags);
  });
}

}  // namespace bsconv_program
