// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <string>

#include <c10/util/Exception.h>
#include <torch/nn/module.h>

#include <bsconv/weights/state_dict.hpp>

namespace bsconv {

/// How many classes a model of the zoo with the weights `state` tells apart: the length of its
/// classifier's bias. Throws `c10::Error` that begins with `origin` if there is none.
inline int64_t num_classes_of(const weights::StateDict& state, const std::string& origin) {
  const auto* bias = state.find("classifier.conv.bias");
  TORCH_CHECK(bias != nullptr && bias->dim() == 1, origin,
              ": there is no 'classifier.conv.bias' to tell the number of classes from");
  return bias->size(0);
}

/// How many channels the images of a model of the zoo with the weights `state` have: the length of
/// what normalizes them. Throws `c10::Error` that begins with `origin` if there is none.
inline int64_t in_channels_of(const weights::StateDict& state, const std::string& origin) {
  const auto* mean = state.find("backbone.data_bn.running_mean");
  TORCH_CHECK(mean != nullptr && mean->dim() == 1, origin,
              ": there is no 'backbone.data_bn.running_mean' to tell the number of channels from");
  return mean->size(0);
}

/// Puts the classifier of `model`, one of the zoo, in the place of that in `state`, so that weights
/// for other classes can be loaded into the model.
inline void keep_classifier(const torch::nn::Module& model, weights::StateDict& state) {
  const auto own = weights::state_dict(model);
  for (const char* name : {"classifier.conv.weight", "classifier.conv.bias"}) {
    auto* tensor = state.find(name);
    TORCH_CHECK(tensor != nullptr, "keep_classifier: there is no '", name, "' in the weights");
    *tensor = own[name];
  }
}

}  // namespace bsconv
