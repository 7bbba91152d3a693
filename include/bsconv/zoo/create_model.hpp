// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/any.h>
#include <torch/types.h>
#include <bsconv/nn/bsconv_u.hpp>
#include <bsconv/nn/composite.hpp>
#include <bsconv/nn/convert.hpp>
#include <bsconv/nn/layer.hpp>
#include <bsconv/replace/bsconv.hpp>
#include <bsconv/replace/options.hpp>
#include <bsconv/replace/replacer.hpp>
#include <bsconv/replace/report.hpp>
#include <bsconv/zoo/blocks.hpp>
#include <bsconv/zoo/mobilenet.hpp>
#include <bsconv/zoo/model_name.hpp>
#include <bsconv/zoo/model_options.hpp>
#include <bsconv/zoo/registry.hpp>
#include <bsconv/zoo/resnet.hpp>

#include <string>

namespace bsconv {

namespace zoo {

/// Replaces every depthwise separable unit of a MobileNetV1 by a BSConv-U with batch normalization
/// and ReLU behind it (paper, section 4.1).
inline ReplacementReport replace_depthwise_separable_units(torch::nn::Module& model) {
  return Replacer({{[](const torch::nn::Module& module, const std::string&) {
                      return dynamic_cast<const DepthwiseSeparableUnitImpl*>(&module) != nullptr;
                    },
                    [](const torch::nn::Module& module, const std::string&) {
                      const auto& unit = dynamic_cast<const DepthwiseSeparableUnitImpl&>(module);
                      Chain chain;
                      chain->push_back(
                          "0", BSConvU(BSConvUOptions(unit.in_channels, unit.out_channels, 3)
                                           .stride(unit.stride)
                                           .padding(1)
                                           .bias(false)));
                      chain->push_back("1", torch::nn::BatchNorm2d(unit.out_channels));
                      chain->push_back("2", make_activation(Activation::relu));
                      return torch::nn::AnyModule(chain);
                    }}})
      .apply(model);
}

/// The model that `name` stands for, freshly initialized, on the CPU.
inline Network make_model(const ModelName& name, const ModelOptions& options) {
  switch (name.family) {
    case ModelFamily::mobilenetv1: {
      auto model = make_mobilenetv1(name, options);
      if (name.variant == ModelVariant::bsconvu) {
        replace_depthwise_separable_units(*model);
      }
      return model;
    }
    case ModelFamily::mobilenetv2:
    case ModelFamily::mobilenetv3_small:
    case ModelFamily::mobilenetv3_large:
      return make_bottleneck_mobilenet(name, options);
    default: {
      auto model = make_resnet(name, options);
      if (name.variant == ModelVariant::bsconvu) {
        replace_with_bsconv_u(*model);
      } else if (name.variant == ModelVariant::bsconvs) {
        replace_with_bsconv_s(*model, BSConvSReplacementOptions().p(name.p.value()).with_bn(true));
      }
      return model;
    }
  }
}

}  // namespace zoo

/// Creates a model by name: `cifar_resnet20_bsconvu`, `mobilenetv2_w1`, … (see
/// `try_parse_model_name`), or one that `register_model` knows.
///
/// Models map images `[N, in_channels, H, W]` with values from 0 to 1 to logits
/// `[N, num_classes]`. State-dict names and, after the same `torch::manual_seed`, the initial
/// weights are those of the Python package. Throws `c10::ValueError` for an unknown name (with the
/// wrong part, what is valid there, and the nearest known name) or an option out of range.
inline Layer create_model(const std::string& name, const ModelOptions& options = {}) {
  options.validate();
  Layer model = nullptr;
  if (const auto builder = detail::ModelRegistry::instance().find(detail::lower(name))) {
    model = builder(options);
    TORCH_CHECK(!model.is_empty(), "create_model: the builder of '", name, "' returned no model");
  } else {
    model = zoo::make_model(parse_model_name(name), options);
  }
  detail::convert(*model, options.device(), options.dtype());
  return model;
}

}  // namespace bsconv
