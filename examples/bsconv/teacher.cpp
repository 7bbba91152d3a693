// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "teacher.hpp"

#ifdef BSCONV_HAS_CUDA
#include <bsconv/cuda.hpp>
#endif
#include <torch/types.h>
#include <bsconv/data/class_names.hpp>
#include <bsconv/infer.hpp>

#include <filesystem>
#include <system_error>

#include "common.hpp"
#include "trained_model.hpp"

namespace bsconv_program {
namespace {

TrainedModel load_teacher(const std::string& name, torch::Device device) {
  std::error_code error;
  if (!std::filesystem::exists(name, error)) {
    return load_pretrained_model(name, device);
  }
  const auto path = in_directory(name, "best.safetensors");
  return trained_model_of(bsconv::train::load_checkpoint(path), path, device);
}

}  // namespace

bsconv::train::ForwardFunction make_teacher(const std::string& name,
                                            const bsconv::train::RunInfo& info, int64_t side,
                                            torch::Device device) {
  const auto trained = load_teacher(name, device);
  const auto classes = bsconv::data::class_difference(trained.info.class_names, info.class_names);
  TORCH_CHECK(classes.empty(), "the teacher '", trained.origin, "' was trained on ",
              trained.info.dataset, " and knows other classes than ", info.dataset, ": ", classes);
  TORCH_CHECK(trained.info.in_channels == info.in_channels, "the teacher '", trained.origin,
              "' wants images of ", trained.info.in_channels, " channels, not ", info.in_channels);
#ifndef BSCONV_HAS_CUDA
  if (!device.is_cpu()) {
    return [model = trained.model](const torch::Tensor& images) mutable {
      return model->forward(images);
    };
  }
#endif
  const auto example =
      torch::zeros({1, info.in_channels, side, side}, torch::TensorOptions().device(device));
  return bsconv::optimize(trained.model, example);
}

}  // namespace bsconv_program
