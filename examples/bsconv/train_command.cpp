// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/profile.hpp>
#include <bsconv/train.hpp>
#include <bsconv/zoo.hpp>

#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "commands.hpp"
#include "common.hpp"
#include "data_sets.hpp"

namespace bsconv_program {
namespace {

using bsconv::train::Checkpoint;
using bsconv::train::TrainOptions;

/// Flags that were not given stay empty: a resumed run then keeps its own setting.
struct TrainFlags {
  std::filesystem::path data_root;
  std::optional<std::string> dataset;
  std::optional<std::string> architecture;
  std::optional<int64_t> epochs;
  std::optional<int64_t> batch_size;
  std::optional<double> learning_rate;
  std::vector<int64_t> schedule;
  std::optional<double> momentum;
  std::optional<double> weight_decay;
  std::optional<double> alpha;
  std::optional<uint64_t> seed;
  int64_t workers = 1;
  std::string device = "cpu";
  std::string broken_images = "stop";
  std::filesystem::path out;
  std::filesystem::path resume;
};

constexpr const char* default_architecture = "cifar_resnet20_bsconvu";
constexpr const char* default_dataset = "digits";

/// The settings of a new run, or of the resumed one, with the given flags on top.
TrainOptions make_options(const TrainFlags& flags, const std::optional<Checkpoint>& checkpoint) {
  auto options = checkpoint ? checkpoint->options : TrainOptions();
  options.epochs(flags.epochs.value_or(options.epochs()));
  options.batch_size(flags.batch_size.value_or(options.batch_size()));
  options.learning_rate(flags.learning_rate.value_or(options.learning_rate()));
  options.momentum(flags.momentum.value_or(options.momentum()));
  options.weight_decay(flags.weight_decay.value_or(options.weight_decay()));
  options.alpha(flags.alpha.value_or(options.alpha()));
  options.seed(flags.seed.value_or(options.seed()));
  if (!flags.schedule.empty()) {
    options.schedule(flags.schedule);
  }
  options.workers(flags.workers);
  options.device(parse_device(flags.device));
  try {
    options.check();
  } catch (const c10::Error& error) {
    throw UsageError(error.what_without_backtrace());
  }
  return options;
}

/// A folder under runs/ that does not exist yet.
std::filesystem::path new_run_folder(const std::string& architecture, const std::string& dataset) {
  for (int number = 1;; ++number) {
    std::string name = architecture;
    name += "_" + dataset + "_" + std::to_string(number);
    auto folder = std::filesystem::path("runs") / name;
    std::error_code error;
    if (!std::filesystem::exists(folder, error)) {
      return folder;
    }
  }
}

std::filesystem::path output_folder(const TrainFlags& flags, const std::string& architecture,
                                    const std::string& dataset) {
  if (flags.out.empty()) {
    return flags.resume.empty() ? new_run_folder(architecture, dataset)
                                : in_directory(flags.resume, "last.safetensors").parent_path();
  }
  std::error_code error;
  if (flags.resume.empty() && std::filesystem::exists(flags.out / "last.safetensors", error)) {
    throw UsageError("--out '" + flags.out.native() +
                     "' already holds a run; go on with it by --resume '" + flags.out.native() +
                     "', or choose another folder");
  }
  return flags.out;
}

void print_settings(const bsconv::train::RunInfo& info, const TrainOptions& options,
                    const ImageSet& training, const ImageSet& test) {
  std::cout << "architecture  " << info.architecture << "\ndataset       " << info.dataset << ", "
            << training.batches->num_examples() << " training and " << test.batches->num_examples()
            << " test images, " << info.num_classes() << " classes\ntraining      "
            << training.preparation << "\ntest          " << test.preparation
            << "\nsettings      epochs " << options.epochs() << ", batch size "
            << options.batch_size() << ", learning rate " << options.learning_rate()
            << ", schedule " << c10::IntArrayRef(options.schedule()) << ", momentum "
            << options.momentum() << ", weight decay " << options.weight_decay() << ", alpha "
            << options.alpha() << ", seed " << options.seed() << ", workers " << options.workers()
            << "\ndevice        " << options.device() << "\noutput        "
            << options.output_dir().native() << "\n\n";
}

void train(const TrainFlags& flags) {
  std::optional<Checkpoint> checkpoint;
  if (!flags.resume.empty()) {
    checkpoint = bsconv::train::load_checkpoint(in_directory(flags.resume, "last.safetensors"));
  }
  bsconv::train::RunInfo info;
  info.architecture = flags.architecture.value_or(checkpoint ? checkpoint->info.architecture
                                                             : default_architecture);
  info.dataset = flags.dataset.value_or(checkpoint ? checkpoint->info.dataset : default_dataset);
  auto options = make_options(flags, checkpoint);
  options.output_dir(output_folder(flags, info.architecture, info.dataset));

  const int64_t side = input_size(info.architecture);
  const auto request = DataRequest{info.dataset,
                                   flags.data_root,
                                   side,
                                   options.batch_size(),
                                   options.seed(),
                                   options.device(),
                                   broken_images(flags.broken_images)};
  const auto training = open_training_images(request);
  const auto test = open_test_images(request);
  info.class_names = training.class_names;
  info.in_channels = 3;
  print_settings(info, options, training, test);

  torch::manual_seed(options.seed());
  auto model = make_model(info.architecture, info.num_classes(), info.in_channels);
  std::cout << to_table(bsconv::profile(model, torch::zeros({1, info.in_channels, side, side})))
            << "\n";

  const bsconv::train::InterruptGuard guard;
  bsconv::train::Trainer trainer(model, options);
  trainer.info(info)
      .observe(std::make_shared<bsconv::train::Progress>(std::cout))
      .stop_when(bsconv::train::InterruptGuard::requested);
  if (checkpoint) {
    trainer.resume(*checkpoint);
    std::cout << "resumed after epoch " << checkpoint->epoch << ", batch " << checkpoint->step
              << ", best " << 100 * trainer.best_accuracy() << " %\n";
  }
  const auto result = trainer.fit(*training.batches, *test.batches);
  report_broken_images(std::cout, {&training, &test});
  if (result.interrupted) {
    throw Interrupted(
        "interrupted; go on with: bsconv train --resume '" + options.output_dir().native() + "'" +
        (flags.data_root.empty() ? std::string()
                                 : " --data-root '" + flags.data_root.native() + "'"));
  }
  std::cout << "best test accuracy " << 100 * result.best_accuracy << " %, checkpoint '"
            << (options.output_dir() / "best.safetensors").native() << "'\n";
}

}  // namespace

void add_train_command(CLI::App& app) {
  auto* command = app.add_subcommand("train", "Train a model");
  const auto flags = std::make_shared<TrainFlags>();
  command->add_option("--data-root", flags->data_root, "Directory of the data set's files");
  command
      ->add_option("--dataset", flags->dataset,
                   "digits (embedded; default), cifar10, cifar100, dogs, image_folder")
      ->check(CLI::IsMember(dataset_names()));
  command->add_option(
      "--architecture", flags->architecture,
      std::string("Name of a model; see 'bsconv models'; default: ") + default_architecture);
  command->add_option("--workers", flags->workers, "Threads that make batches ahead")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--batch-size", flags->batch_size, "Images in a batch; default: 128");
  command->add_option("--epochs", flags->epochs, "Epochs in all; default: 200");
  command->add_option("--learning-rate", flags->learning_rate, "Default: 0.1");
  command
      ->add_option("--schedule", flags->schedule,
                   "Epochs after which the learning rate falls to a tenth; default: 100 150 180")
      ->delimiter(',');
  command->add_option("--momentum", flags->momentum, "Momentum of SGD; default: 0.9");
  command->add_option("--weight-decay", flags->weight_decay, "Default: 0.0001");
  command->add_option("--alpha", flags->alpha, "Weight of the regularization loss; default: 0.1");
  command
      ->add_option("--broken-images", flags->broken_images,
                   "Whether an image that cannot be read stops the run or is skipped and counted")
      ->check(CLI::IsMember({"stop", "skip"}))
      ->capture_default_str();
  command->add_option("--device", flags->device, "cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--seed", flags->seed, "Seed of weights, order and augmentation; default: 0");
  command->add_option("--out", flags->out,
                      "Folder for checkpoints and metrics.csv; default: a new one in runs/");
  command->add_option("--resume", flags->resume,
                      "Run folder or checkpoint to go on from, with its settings where no flag "
                      "says otherwise");
  command->callback([flags] { train(*flags); });
}

}  // namespace bsconv_program
