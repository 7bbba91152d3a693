// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "trained_model.hpp"

#include <bsconv/data/class_names.hpp>
#include <bsconv/pretrained.hpp>
#include <bsconv/train/settings.hpp>
#include <bsconv/util/text.hpp>
#include <bsconv/weights/state_dict.hpp>
#include <bsconv/zoo.hpp>

#include <algorithm>
#include <vector>

#include "common.hpp"

namespace bsconv_program {
namespace {

bsconv::Layer load_model(const bsconv::train::Checkpoint& checkpoint, torch::Device device,
                         bool averaged) {
  auto model = bsconv::create_model(checkpoint.info.architecture,
                                    bsconv::ModelOptions()
                                        .num_classes(checkpoint.info.num_classes())
                                        .in_channels(checkpoint.info.in_channels));
  bsconv::weights::load_state_dict(*model,
                                   averaged ? checkpoint.inference_model() : checkpoint.model);
  model->to(device);
  model->eval();
  return model;
}

const bsconv::ModelCard& find_card(const bsconv::ModelStore& store, const std::string& name) {
  try {
    return store.card(name);
  } catch (const c10::ValueError& error) {
    throw UsageError(error.what_without_backtrace());
  }
}

void check_flags(const TrainedModelFlags& flags, bool averaged) {
  std::vector<std::string> given;
  if (!flags.checkpoint.empty()) {
    given.emplace_back("--checkpoint");
  }
  if (!flags.pretrained.empty()) {
    given.emplace_back("--pretrained");
  }
  if (!flags.weights.empty()) {
    given.emplace_back("--weights");
  }
  if (given.size() != 1) {
    throw UsageError(c10::str("give one of --checkpoint, --pretrained and --weights, got ",
                              given.empty() ? "none" : bsconv::detail::join(given, " and ")));
  }
  if (!flags.architecture.empty() && flags.weights.empty()) {
    throw UsageError(
        c10::str("--architecture is for --weights; ", given.front(), " tells its own"));
  }
  if (!averaged && flags.checkpoint.empty()) {
    throw UsageError(
        c10::str("--no-ema is for --checkpoint; ", given.front(), " has one set of weights"));
  }
}

TrainedModel from_weights(const TrainedModelFlags& flags, torch::Device device) {
  const auto& path = flags.weights;
  const auto file = load_model_weights(path);
  const auto told = [&file](const char* key) {
    const auto found = file.metadata.find(key);
    return found == file.metadata.end() ? std::string() : found->second;
  };
  const auto name = flags.architecture.empty() ? told("architecture") : flags.architecture;
  if (name.empty()) {
    throw UsageError(c10::str("--weights needs --architecture, the model's name, as '",
                              path.native(), "' doesn't tell it"));
  }
  TrainedModel trained;
  trained.image_size = image_size(name, file.metadata);
  trained.model = make_model(name, file, path);
  trained.model->to(device);
  trained.info.architecture = bsconv::parse_model_name(name).text;
  trained.info.dataset = told("dataset");
  trained.info.class_names = class_names_of(file, path);
  if (trained.info.class_names.empty()) {
    trained.info.class_names =
        bsconv::data::numbered_class_names(bsconv::num_classes_of(file.tensors, path.native()));
  }
  trained.info.in_channels = bsconv::in_channels_of(file.tensors, path.native());
  trained.origin = path.native();
  return trained;
}

}  // namespace

TrainedModel load_pretrained_model(const std::string& name, torch::Device device) {
  const auto store = bsconv::ModelStore::find();
  const auto& card = find_card(store, name);
  TrainedModel trained;
  trained.model = bsconv::create_model(store, card, bsconv::Pretrained().device(device));
  trained.info.architecture = card.architecture;
  trained.info.dataset = card.dataset;
  trained.info.class_names = card.class_names;
  trained.info.in_channels = card.in_channels;
  // A card also has the program's own settings.
  const auto known = bsconv::train::setting_names();
  for (const auto& [key, text] : card.settings) {
    if (std::find(known.begin(), known.end(), key) != known.end()) {
      bsconv::train::set_setting(trained.options, key, text);
    }
  }
  trained.image_size = card.input_size > 0 ? card.input_size : input_size(card.architecture);
  trained.epoch = card.epoch;
  trained.averaged = trained.options.ema_decay() > 0;
  trained.origin = card.name;
  return trained;
}

void add_trained_model_flags(CLI::App& command, TrainedModelFlags& flags) {
  command.add_option("--checkpoint", flags.checkpoint,
                     "Checkpoint, or a run's folder for its best one");
  command.add_option("--pretrained,--model", flags.pretrained,
                     "A trained model that comes with the library, instead of a checkpoint; see "
                     "'bsconv models --pretrained'");
  command.add_option("--weights", flags.weights,
                     "A safetensors or PyTorch file of weights, instead of a checkpoint");
  command.add_option("--architecture", flags.architecture,
                     "With --weights: the model's name, where the file doesn't tell it");
}

TrainedModel load_trained_model(const TrainedModelFlags& flags, torch::Device device,
                                bool averaged) {
  check_flags(flags, averaged);
  if (!flags.weights.empty()) {
    return from_weights(flags, device);
  }
  if (!flags.pretrained.empty()) {
    return load_pretrained_model(flags.pretrained, device);
  }
  const auto path = in_directory(flags.checkpoint, "best.safetensors");
  return trained_model_of(read_checkpoint(path), path, device, averaged);
}

TrainedModel trained_model_of(const bsconv::train::Checkpoint& checkpoint,
                              const std::filesystem::path& path, torch::Device device,
                              bool averaged) {
  check_is_described(checkpoint.info, path);
  TrainedModel trained;
  trained.model = load_model(checkpoint, device, averaged);
  trained.image_size = image_size(checkpoint.info.architecture, checkpoint.info.settings);
  trained.info = checkpoint.info;
  trained.options = checkpoint.options;
  trained.epoch = checkpoint.epoch;
  trained.averaged = averaged && !checkpoint.ema.is_empty();
  trained.origin = path.native();
  return trained;
}

}  // namespace bsconv_program
