// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/arg.h>
#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include <bsconv/nn/convert.hpp>
#include <bsconv/nn/layer.hpp>
#include <bsconv/pretrained/classifier.hpp>
#include <bsconv/pretrained/model_card.hpp>
#include <bsconv/pretrained/model_store.hpp>
#include <bsconv/weights/state_dict.hpp>
#include <bsconv/zoo/create_model.hpp>

namespace bsconv {

/// Options of `create_model` for a model that is trained already.
///
/// Example: `create_model("cifar_resnet20_bsconvu", Pretrained().device(torch::kCUDA))`
struct Pretrained {
  Pretrained() = default;

  /// The folder of trained models; empty: the one that comes with the library, see
  /// `ModelStore::find`. Default: empty
  TORCH_ARG(std::filesystem::path, directory) = {};

  /// The number of classes; if it is not that of the trained model, the classifier starts from
  /// random weights. Default: 0, that of the trained model
  TORCH_ARG(int64_t, num_classes) = 0;

  /// The device of parameters and buffers. Default: the CPU
  TORCH_ARG(torch::Device, device) = torch::Device(torch::kCPU);

  /// The dtype of parameters and floating-point buffers. Default: `torch::kFloat32`
  TORCH_ARG(torch::Dtype, dtype) = torch::kFloat32;
};

/// The model of the card of `store`, with its weights, in evaluation mode; of `options` the
/// folder is not looked at.
inline Layer create_model(const ModelStore& store, const ModelCard& card,
                          const Pretrained& options = {}) {
  auto weights = store.load_weights(card);
  const auto trained = static_cast<int64_t>(card.class_names.size());
  const auto classes = options.num_classes() == 0 ? trained : options.num_classes();
  auto model = create_model(card.architecture,
                            ModelOptions().num_classes(classes).in_channels(card.in_channels));
  if (classes != trained) {
    keep_classifier(*model, weights);
  }
  weights::load_state_dict(*model, weights);
  detail::convert(*model, options.device(), options.dtype());
  model->eval();
  return model;
}

/// Creates a trained model by name: of an architecture, "cifar_resnet20_bsconvu", or of a certain
/// training, "cifar_resnet20_bsconvu.cifar100". It is in evaluation mode.
///
/// It maps images `[N, 3, H, W]` with values from 0 to 1 to logits `[N, num_classes]`; its card,
/// `ModelStore::find().card(name)`, tells the size it was trained on and the classes' names. Throws
/// `c10::ValueError` with the nearest name if there is none, and `c10::Error` if the file of its
/// weights is damaged.
inline Layer create_model(const std::string& name, const Pretrained& options) {
  const auto store =
      options.directory().empty() ? ModelStore::find() : ModelStore(options.directory());
  return create_model(store, store.card(name), options);
}

}  // namespace bsconv
