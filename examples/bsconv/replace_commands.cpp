// SPDX-License-Identifier: BSD-3-Clause-Clear
// What a replacement would cost a trained model, and doing it.
#include <bsconv/replace.hpp>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/weights.hpp>
#include <bsconv/zoo.hpp>

#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>

#include "commands.hpp"
#include "common.hpp"

namespace bsconv_program {

namespace {

// A trained model: a run's checkpoint, or a name with a weight file.
struct TrainedModelArguments {
  std::string name;
  std::filesystem::path weights;
  std::filesystem::path checkpoint;
};

void add_trained_model(CLI::App& command, TrainedModelArguments& arguments) {
  command.add_option("name", arguments.name, "The model, such as cifar_resnet20");
  command.add_option("--weights", arguments.weights, "Its weights: a safetensors or PyTorch file");
  command.add_option("--checkpoint", arguments.checkpoint,
                     "A checkpoint of `bsconv train`, or a run's folder for its best one, instead "
                     "of name and weights");
}

struct TrainedModel {
  std::string name;
  bsconv::Layer model{nullptr};
  int64_t classes = 0;
};

// The number of classes is the length of the classifier's bias.
int64_t classes_of(const bsconv::weights::StateDict& state, const std::string& origin) {
  const auto* bias = state.find("classifier.conv.bias");
  TORCH_CHECK(bias != nullptr && bias->dim() == 1, origin,
              ": there is no 'classifier.conv.bias' to tell the number of classes from");
  return bias->size(0);
}

TrainedModel load(const TrainedModelArguments& arguments) {
  const bool from_run = !arguments.checkpoint.empty();
  if (from_run == !arguments.weights.empty() || from_run == !arguments.name.empty()) {
    throw UsageError("give either a model's name and --weights, or --checkpoint");
  }
  TrainedModel loaded;
  if (from_run) {
    const auto path = in_directory(arguments.checkpoint, "best.safetensors");
    const auto checkpoint = bsconv::train::load_checkpoint(path);
    loaded.name = checkpoint.info.architecture;
    loaded.classes = checkpoint.info.num_classes();
    loaded.model = load_model(checkpoint, torch::kCPU);
    return loaded;
  }
  const auto file = bsconv::weights::load_weights(arguments.weights);
  loaded.name = arguments.name;
  loaded.classes = classes_of(file.tensors, arguments.weights.native());
  loaded.model = make_model(loaded.name, loaded.classes, 3);
  bsconv::weights::load_state_dict(*loaded.model, file.tensors);
  loaded.model->eval();
  return loaded;
}

struct AnalyzeArguments {
  TrainedModelArguments trained;
  std::string format = "table";
};

void analyze(const AnalyzeArguments& arguments) {
  const auto loaded = load(arguments.trained);
  const auto analysis = bsconv::analyze_kernels(loaded.model);
  std::cout << (arguments.format == "csv"   ? analysis.to_csv()
                : arguments.format == "svg" ? analysis.to_svg()
                                            : analysis.to_table());
}

struct ReplaceArguments {
  TrainedModelArguments trained;
  std::string variant;
  std::string initialization = "svd";
  std::filesystem::path out;
};

template <class Options>
Options with_initialization(Options options, const std::string& name) {
  options.initialization(name == "svd" ? bsconv::Initialization::svd
                                       : bsconv::Initialization::random);
  return options;
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
  const auto report =
      name.variant == bsconv::ModelVariant::bsconvu
          ? bsconv::replace_with_bsconv_u(
                *loaded.model,
                with_initialization(bsconv::BSConvUReplacementOptions(), arguments.initialization))
          : bsconv::replace_with_bsconv_s(
                *loaded.model,
                with_initialization(
                    bsconv::BSConvSReplacementOptions().p(name.p.value()).with_bn(true),
                    arguments.initialization));
  // What is written is what the name's model reads.
  const auto state = bsconv::weights::state_dict(*loaded.model);
  bsconv::weights::load_state_dict(*make_model(target, loaded.classes, 3), state);
  bsconv::weights::save_weights(arguments.out, state, {{"architecture", target}});
  std::cout << report << "Wrote the weights of a " << target << " to " << arguments.out.native()
            << ". Its batch normalizations need new statistics: train it on.\n";
}

}  // namespace

void add_analyze_command(CLI::App& app) {
  auto* command = app.add_subcommand(
      "analyze", "Show how much of a trained model's kernels blueprints explain, layer by layer");
  const auto arguments = std::make_shared<AnalyzeArguments>();
  add_trained_model(*command, arguments->trained);
  command
      ->add_option("--format", arguments->format,
                   "A table of the layers, CSV of the filters, or a histogram as SVG")
      ->check(CLI::IsMember({"table", "csv", "svg"}))
      ->capture_default_str();
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
                   "Where the new weights come from: svd keeps what comes closest to the old")
      ->check(CLI::IsMember({"svd", "random"}))
      ->capture_default_str();
  command->add_option("--out", arguments->out, "The file to write: .safetensors, .pth, .pt or .bin")
      ->required();
  command->callback([arguments] { replace(*arguments); });
}

}  // namespace bsconv_program
