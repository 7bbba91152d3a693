// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/data/class_names.hpp>
#include <bsconv/nn/convert.hpp>
#include <bsconv/train/choices.hpp>
#include <bsconv/train/evaluate.hpp>
#include <bsconv/train/progress.hpp>
#include <bsconv/util/text.hpp>

#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "checks.hpp"
#include "commands.hpp"
#include "common.hpp"
#include "data_sets.hpp"
#include "trained_model.hpp"

namespace bsconv_program {
namespace {

struct EvaluateFlags {
  TrainedModelFlags trained;
  std::filesystem::path data_root;
  std::string dataset;
  std::string device = "cpu";
  int64_t batch_size = 128;
  int64_t workers = 1;
  std::string precision;
  bool channels_last = false;
  bool averaged = true;
  std::string broken_images = "stop";
  std::string format = "table";
};

/// Prints one line of JSON: accuracies in percent, as on a model's card; null what was not
/// measured or is not known.
void print_sums(const TrainedModel& trained, const std::string& dataset,
                const bsconv::train::MetricSums& sums) {
  const auto mean = sums.mean();
  print_json(
      {{"model", trained.origin},
       {"architecture", trained.info.architecture},
       {"epoch", trained.epoch ? nlohmann::ordered_json(*trained.epoch) : nlohmann::ordered_json()},
       {"averaged", trained.averaged},
       {"dataset", dataset},
       {"images", sums.examples},
       {"loss", mean.loss},
       {"top1", 100 * mean.accuracy},
       {"top5", 100 * mean.accuracy_top5}});
}

/// The precision of the flag; without it, the one that was trained in.
bsconv::train::Precision precision_of(const EvaluateFlags& flags,
                                      const bsconv::train::TrainOptions& trained) {
  return flags.precision.empty()
             ? trained.precision()
             : bsconv::train::parse_choice<bsconv::train::Precision>(flags.precision);
}

void evaluate(const EvaluateFlags& flags) {
  const auto device = parse_device(flags.device);
  auto trained = load_trained_model(flags.trained, device, flags.averaged);
  auto& model = trained.model;
  const auto& info = trained.info;
  const auto dataset_name = flags.dataset.empty() ? info.dataset : flags.dataset;
  if (dataset_name.empty()) {
    throw UsageError(c10::str("--dataset is required, as '", trained.origin,
                              "' doesn't tell what it was trained on; known are ",
                              bsconv::detail::join(dataset_names(), ", ")));
  }
  const auto test =
      open_test_images({dataset_name, flags.data_root, trained.image_size, flags.batch_size,
                        trained.options.seed(), device, broken_images(flags.broken_images)});
  TORCH_CHECK(static_cast<int64_t>(test.class_names.size()) == info.num_classes(), "the model of '",
              trained.origin, "' has ", info.num_classes(), " classes, ", dataset_name, " has ",
              test.class_names.size());
  const auto classes = bsconv::data::class_difference(test.class_names, info.class_names);
  if (!classes.empty()) {
    std::cerr << "bsconv: warning: in " << dataset_name << ", " << classes
              << " as the model has it; its logits are taken in the order of the data set\n";
  }
  if (flags.channels_last) {
    bsconv::detail::use_channels_last(*model);
  }
  const bool as_json = flags.format == "json";
  const auto sums = bsconv::train::evaluate(
      *model, [&model](const torch::Tensor& images) { return model->forward(images); },
      *test.batches,
      bsconv::train::EvaluateOptions()
          .device(device)
          .alpha(trained.options.alpha())
          .precision(precision_of(flags, trained.options))
          .channels_last(flags.channels_last)
          .workers(flags.workers),
      {std::make_shared<bsconv::train::Progress>(as_json ? std::cerr : std::cout)});
  if (as_json) {
    print_sums(trained, dataset_name, sums);
    report_broken_images(std::cerr, {&test});
    return;
  }
  std::cout << info.architecture;
  if (trained.epoch) {
    std::cout << ", epoch " << *trained.epoch;
  }
  std::cout << (trained.averaged ? ", averaged weights" : "") << ", on " << sums.examples
            << " test images of " << dataset_name << ": " << to_string(sums.mean()) << '\n';
  report_broken_images(std::cout, {&test});
}

}  // namespace

void add_evaluate_command(CLI::App& app) {
  auto* command = app.add_subcommand("evaluate", "Test a trained model on the test images");
  const auto flags = std::make_shared<EvaluateFlags>();
  add_trained_model_flags(*command, flags->trained);
  command->add_option("--data-root", flags->data_root, "Directory of the data set's files");
  command->add_option("--dataset", flags->dataset, "Data set; default: that it was trained on")
      ->check(CLI::IsMember(dataset_names()));
  command->add_option("--device", flags->device, "cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--batch-size", flags->batch_size, "Images in a batch")
      ->transform(whole_number(1))
      ->capture_default_str();
  command->add_option("--workers", flags->workers, "Threads that make batches ahead")
      ->transform(whole_number(0))
      ->capture_default_str();
  add_threads_option(*command);
  command
      ->add_option("--precision", flags->precision,
                   "f32, bf16 or fp16; default: what it was trained in")
      ->check(CLI::IsMember(bsconv::train::choice_names<bsconv::train::Precision>()));
  command->add_flag("--channels-last", flags->channels_last,
                    "Weights and images with channels last");
  command->add_flag("--ema,!--no-ema", flags->averaged,
                    "Test the moving average of the weights, where there is one; the default");
  command
      ->add_option("--broken-images", flags->broken_images,
                   "Whether an image that cannot be read stops the run or is skipped and counted")
      ->check(CLI::IsMember({"stop", "skip"}))
      ->capture_default_str();
  command->add_option("--format", flags->format, "The output's format")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  command->callback([flags] { evaluate(*flags); });
}

}  // namespace bsconv_program
