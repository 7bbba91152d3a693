// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/train/evaluate.hpp>
#include <bsconv/train/progress.hpp>

#include <filesystem>
#include <iostream>
#include <memory>
#include <string>

#include "commands.hpp"
#include "common.hpp"
#include "data_sets.hpp"

namespace bsconv_program {
namespace {

struct EvaluateFlags {
  std::filesystem::path checkpoint;
  std::filesystem::path data_root;
  std::string dataset;
  std::string device = "cpu";
  int64_t batch_size = 128;
  int64_t workers = 1;
  std::string broken_images = "stop";
};

void evaluate(const EvaluateFlags& flags) {
  const auto device = parse_device(flags.device);
  const auto path = in_directory(flags.checkpoint, "best.safetensors");
  const auto checkpoint = bsconv::train::load_checkpoint(path);
  const auto dataset_name = flags.dataset.empty() ? checkpoint.info.dataset : flags.dataset;
  const auto test = open_test_images(
      {dataset_name, flags.data_root, input_size(checkpoint.info.architecture), flags.batch_size,
       checkpoint.options.seed(), device, broken_images(flags.broken_images)});
  TORCH_CHECK(static_cast<int64_t>(test.class_names.size()) == checkpoint.info.num_classes(),
              "the model of '", path.native(), "' has ", checkpoint.info.num_classes(),
              " classes, ", dataset_name, " has ", test.class_names.size());
  auto model = load_model(checkpoint, device);
  const auto sums = bsconv::train::evaluate(
      *model, [&model](const torch::Tensor& images) { return model->forward(images); },
      *test.batches,
      bsconv::train::EvaluateOptions()
          .device(device)
          .alpha(checkpoint.options.alpha())
          .workers(flags.workers),
      {std::make_shared<bsconv::train::Progress>(std::cout)});
  std::cout << checkpoint.info.architecture << ", epoch " << checkpoint.epoch << ", on "
            << sums.examples << " test images of " << dataset_name << ": " << to_string(sums.mean())
            << '\n';
  report_broken_images(std::cout, {&test});
}

}  // namespace

void add_evaluate_command(CLI::App& app) {
  auto* command = app.add_subcommand("evaluate", "Test a checkpoint on the test images");
  const auto flags = std::make_shared<EvaluateFlags>();
  command
      ->add_option("--checkpoint", flags->checkpoint,
                   "Checkpoint, or a run's folder for its best one")
      ->required();
  command->add_option("--data-root", flags->data_root, "Directory of the data set's files");
  command->add_option("--dataset", flags->dataset, "Data set; default: the checkpoint's")
      ->check(CLI::IsMember(dataset_names()));
  command->add_option("--device", flags->device, "cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--batch-size", flags->batch_size, "Images in a batch")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--workers", flags->workers, "Threads that make batches ahead")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--broken-images", flags->broken_images,
                   "Whether an image that cannot be read stops the run or is skipped and counted")
      ->check(CLI::IsMember({"stop", "skip"}))
      ->capture_default_str();
  command->callback([flags] { evaluate(*flags); });
}

}  // namespace bsconv_program
