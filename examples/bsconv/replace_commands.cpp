// SPDX-License-Identifier: BSD-3-Clause-Clear
// What a replacement would cost a trained model, and doing it.
#include <bsconv/pretrained/classifier.hpp>
#include <bsconv/replace.hpp>
#include <bsconv/weights.hpp>
#include <bsconv/weights/atomic_file.hpp>
#include <bsconv/zoo.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checks.hpp"
#include "commands.hpp"
#include "common.hpp"
#include "data_sets.hpp"
#include "trained_model.hpp"

namespace bsconv_program {

namespace {

// A trained model: a run's checkpoint, or a name with a weight file.
struct LoadedModelArguments {
  std::string name;
  std::filesystem::path weights;
  std::filesystem::path checkpoint;
};

void add_trained_model(CLI::App& command, LoadedModelArguments& arguments) {
  command.add_option("name", arguments.name, "The model, such as cifar_resnet20");
  command.add_option("--weights", arguments.weights, "Its weights: a safetensors or PyTorch file");
  command.add_option("--checkpoint", arguments.checkpoint,
                     "A checkpoint of `bsconv train`, or a run's folder for its best one, instead "
                     "of name and weights");
}

struct LoadedModel {
  std::string name;
  bsconv::Layer model{nullptr};
  int64_t classes = 0;
  int64_t in_channels = 3;
  // What it was trained on; empty: unknown.
  std::string dataset;
  int64_t image_size = 0;
  // What a file of its weights tells.
  std::map<std::string, std::string> metadata;
};

LoadedModel load(const LoadedModelArguments& arguments) {
  const bool from_run = !arguments.checkpoint.empty();
  if (from_run == !arguments.weights.empty() || from_run == !arguments.name.empty()) {
    throw UsageError("give either a model's name and --weights, or --checkpoint");
  }
  LoadedModel loaded;
  if (from_run) {
    TrainedModelFlags flags;
    flags.checkpoint = arguments.checkpoint;
    const auto trained = load_trained_model(flags, torch::kCPU);
    loaded.name = trained.info.architecture;
    loaded.classes = trained.info.num_classes();
    loaded.in_channels = trained.info.in_channels;
    loaded.dataset = trained.info.dataset;
    loaded.image_size = trained.image_size;
    loaded.metadata = metadata_of(trained.info);
    loaded.model = trained.model;
    return loaded;
  }
  const auto file = load_model_weights(arguments.weights);
  loaded.name = arguments.name;
  loaded.classes = bsconv::num_classes_of(file.tensors, arguments.weights.native());
  loaded.in_channels = bsconv::in_channels_of(file.tensors, arguments.weights.native());
  loaded.model = make_model(loaded.name, file, arguments.weights);
  loaded.image_size = image_size(loaded.name, file.metadata);
  for (const char* key : {"dataset", "class_names", "image_size"}) {
    if (const auto told = file.metadata.find(key); told != file.metadata.end()) {
      loaded.metadata.insert(*told);
    }
  }
  if (const auto told = loaded.metadata.find("dataset"); told != loaded.metadata.end()) {
    loaded.dataset = told->second;
  }
  return loaded;
}

struct AnalyzeArguments {
  LoadedModelArguments trained;
  std::string format = "table";
  std::filesystem::path out;
};

void analyze(const AnalyzeArguments& arguments) {
  const auto loaded = load(arguments.trained);
  const auto analysis = bsconv::analyze_kernels(loaded.model);
  const auto text = arguments.format == "csv"   ? analysis.to_csv()
                    : arguments.format == "svg" ? analysis.to_svg()
                                                : analysis.to_table();
  if (arguments.out.empty()) {
    std::cout << text;
    return;
  }
  bsconv::weights::write_text_file(arguments.out, text);
  std::cout << "Wrote " << arguments.out.native() << '\n';
}

struct ReplaceArguments {
  LoadedModelArguments trained;
  std::string variant;
  std::string initialization = "svd";
  std::string dataset;
  std::filesystem::path data_root;
  int64_t calibration_images = 0;
  int64_t terms = 1;
  double explained_variance = 0.0;
  double min_explained_variance = 0.0;
  std::filesystem::path out;
};

// Training images in random order, augmented: batch normalizations have learned from no others.
std::vector<torch::Tensor> calibration_batches(const ReplaceArguments& arguments,
                                               const std::string& dataset, int64_t classes,
                                               int64_t side) {
  DataRequest request;
  request.dataset = dataset;
  request.root = arguments.data_root;
  request.side = side;
  const auto images = open_training_images(request);
  const auto found = static_cast<int64_t>(images.class_names.size());
  TORCH_CHECK(found == classes, "the model has ", classes, " classes, ", dataset, " has ", found);
  std::vector<torch::Tensor> batches;
  constexpr int64_t usual = 512;
  int64_t left = arguments.calibration_images > 0 ? arguments.calibration_images : usual;
  for (int64_t index = 0; left > 0 && index < images.batches->num_batches(); ++index) {
    const auto batch = images.batches->get(0, index).images;
    batches.push_back(batch.slice(0, 0, std::min(left, batch.size(0))));
    left -= batches.back().size(0);
  }
  return batches;
}

// Training images for the new weights or, whatever those come from, for the statistics of batch
// normalizations; none where no data set is at hand.
std::vector<torch::Tensor> images_at_hand(const ReplaceArguments& arguments,
                                          const LoadedModel& loaded) {
  const auto dataset = arguments.dataset.empty() ? loaded.dataset : arguments.dataset;
  const bool wanted = arguments.initialization == "data" || !arguments.dataset.empty() ||
                      !arguments.data_root.empty() || arguments.calibration_images > 0;
  if (wanted && dataset.empty()) {
    throw UsageError(
        "--initialization data, --data-root and --calibration-images need --dataset, the images to "
        "calibrate with");
  }
  if (!wanted && !is_embedded(dataset)) {
    return {};
  }
  return calibration_batches(arguments, dataset, loaded.classes, loaded.image_size);
}

template <class Options>
Options with_arguments(Options options, const ReplaceArguments& arguments,
                       const LoadedModel& loaded, const std::vector<torch::Tensor>& batches) {
  options.terms(arguments.terms)
      .explained_variance(arguments.explained_variance)
      .min_explained_variance(arguments.min_explained_variance);
  if (arguments.initialization == "random") {
    return options.initialization(bsconv::Initialization::random);
  }
  if (arguments.initialization == "svd") {
    return options.initialization(bsconv::Initialization::svd);
  }
  return options.initialization(bsconv::Initialization::data).calibration({loaded.model, batches});
}

bsconv::ReplacementReport replace_layers(LoadedModel& loaded, const bsconv::ModelName& name,
                                         const ReplaceArguments& arguments,
                                         const std::vector<torch::Tensor>& batches) {
  if (name.variant == bsconv::ModelVariant::bsconvu) {
    return bsconv::replace_with_bsconv_u(
        *loaded.model,
        with_arguments(bsconv::BSConvUReplacementOptions(), arguments, loaded, batches));
  }
  return bsconv::replace_with_bsconv_s(
      *loaded.model,
      with_arguments(bsconv::BSConvSReplacementOptions().p(name.p.value()).with_bn(true), arguments,
                     loaded, batches));
}

void replace(const ReplaceArguments& arguments) {
  bsconv::weights::format_of_name(arguments.out);
  auto loaded = load(arguments.trained);
  std::string target = loaded.name;
  target += "_" + arguments.variant;
  bsconv::ModelName name;
  try {
    name = bsconv::parse_model_name(target);
  } catch (const c10::Error& error) {
    throw UsageError(error.what_without_backtrace());
  }
  const bool can_be = name.family == bsconv::ModelFamily::resnet ||
                      name.family == bsconv::ModelFamily::preresnet ||
                      name.family == bsconv::ModelFamily::wrn;
  if (!can_be) {
    throw UsageError("replace: the variants of MobileNets are other architectures; '" + target +
                     "' can't be made of '" + loaded.name + "'");
  }
  const auto batches = images_at_hand(arguments, loaded);
  const auto report = replace_layers(loaded, name, arguments, batches);
  // By samples, they are estimated with the weights.
  if (report.replaced() > 0 && !batches.empty() && arguments.initialization != "data") {
    bsconv::estimate_batch_norm_statistics(loaded.model, batches);
  }
  const auto state = bsconv::weights::state_dict(*loaded.model);
  // Without sums and floors it is what the name's model reads.
  const bool named = bsconv::weights::compare_state_dict(
                         *make_model(target, loaded.classes, loaded.in_channels), state)
                         .empty();
  auto metadata = loaded.metadata;
  metadata["architecture"] = named ? target : loaded.name;
  if (!named && report.replaced() > 0) {
    metadata["replacement"] = report.to_string(2);
  }
  bsconv::weights::save_weights(arguments.out, state, metadata);
  const char* advice = report.replaced() == 0 ? ". Nothing was replaced.\n"
                       : !batches.empty()
                           ? ", with new statistics of its batch normalizations.\n"
                           : ". Its batch normalizations need new statistics: train it on.\n";
  std::cout << report << "Wrote the weights of a " << (named ? target : loaded.name)
            << (named || report.replaced() == 0 ? "" : " with these replacements") << " to "
            << arguments.out.native() << advice;
}

}  // namespace

void add_analyze_command(CLI::App& app) {
  auto* command = app.add_subcommand(
      "analyze", "Show how much of a trained model's kernels blueprints explain, layer by layer");
  const auto arguments = std::make_shared<AnalyzeArguments>();
  add_trained_model(*command, arguments->trained);
  command
      ->add_option("--format", arguments->format,
                   "A table of the layers, CSV of the filters, or histograms as SVG")
      ->check(CLI::IsMember({"table", "csv", "svg"}))
      ->capture_default_str();
  command->add_option("--out", arguments->out, "The file to write; default: standard output");
  command->callback([arguments] { analyze(*arguments); });
}

void add_replace_command(CLI::App& app) {
  auto* command =
      app.add_subcommand("replace", "Replace the convolutions of a trained model by BSConv layers");
  const auto arguments = std::make_shared<ReplaceArguments>();
  add_trained_model(*command, arguments->trained);
  command->add_option("--by", arguments->variant, "bsconvu, or bsconvs_pXdY")->required();
  command
      ->add_option("--initialization", arguments->initialization,
                   "Where the new weights come from: svd keeps what comes closest to the old "
                   "weights, data what comes closest to the old outputs on training images")
      ->check(CLI::IsMember({"random", "svd", "data"}))
      ->capture_default_str();
  command->add_option("--data-root", arguments->data_root, "Directory of the data set's files");
  command
      ->add_option("--dataset", arguments->dataset,
                   "Data set to calibrate with, and to estimate the statistics of batch "
                   "normalizations with; default: what the model was trained on")
      ->check(CLI::IsMember(dataset_names()));
  command
      ->add_option("--calibration-images", arguments->calibration_images,
                   "How many training images to take for that [512]")
      ->transform(whole_number(1));
  command
      ->add_option("--terms", arguments->terms,
                   "How many BSConv layers, added up, a convolution becomes")
      ->transform(whole_number(1))
      ->capture_default_str();
  command
      ->add_option(
          "--explained-variance", arguments->explained_variance,
          "Choose the terms of each layer: the fewest that can have this share, 0 to 1, of "
          "its weights' squared norm, with no more parameters than before")
      ->transform(number(0, 1));
  command
      ->add_option("--min-explained-variance", arguments->min_explained_variance,
                   "Leave a layer alone that would have less than this share, 0 to 1")
      ->transform(number(0, 1));
  command->add_option("--out", arguments->out, "The file to write: .safetensors, .pth, .pt or .bin")
      ->required();
  command->callback([arguments] { replace(*arguments); });
}

}  // namespace bsconv_program
