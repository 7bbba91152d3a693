// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "trained_model.hpp"

#include <bsconv/pretrained.hpp>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/train/settings.hpp>
#include <bsconv/weights/state_dict.hpp>
#include <bsconv/zoo.hpp>

#include <algorithm>

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

TrainedModel from_card(const std::string& name, torch::Device device) {
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
  trained.epoch = card.epoch;
  trained.averaged = trained.options.ema_decay() > 0;
  trained.origin = card.name;
  return trained;
}

}  // namespace

void add_trained_model_flags(CLI::App& command, TrainedModelFlags& flags) {
  command.add_option("--checkpoint", flags.checkpoint,
                     "Checkpoint, or a run's folder for its best one");
  command.add_option("--pretrained,--model", flags.pretrained,
                     "A trained model that comes with the library, instead of a checkpoint; see "
                     "'bsconv models --pretrained'");
}

TrainedModel load_trained_model(const TrainedModelFlags& flags, torch::Device device,
                                bool averaged) {
  if (flags.checkpoint.empty() == flags.pretrained.empty()) {
    throw UsageError("give either --checkpoint or --pretrained");
  }
  if (flags.checkpoint.empty()) {
    if (!averaged) {
      throw UsageError("--no-ema is for a checkpoint; a trained model has one set of weights");
    }
    return from_card(flags.pretrained, device);
  }
  const auto path = in_directory(flags.checkpoint, "best.safetensors");
  const auto checkpoint = bsconv::train::load_checkpoint(path);
  TrainedModel trained;
  trained.model = load_model(checkpoint, device, averaged);
  trained.info = checkpoint.info;
  trained.options = checkpoint.options;
  trained.epoch = checkpoint.epoch;
  trained.averaged = averaged && !checkpoint.ema.is_empty();
  trained.origin = path.native();
  return trained;
}

}  // namespace bsconv_program
