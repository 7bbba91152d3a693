// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/arg.h>
#include <torch/types.h>

#include <cstdint>

namespace bsconv {

/// Options for `create_model`.
///
/// Example: `create_model("cifar_resnet20_bsconvu", ModelOptions().num_classes(10))`
struct ModelOptions {
  ModelOptions() = default;

  /// The number of classes, the width of the model's output. Default: 1000
  TORCH_ARG(int64_t, num_classes) = 1000;

  /// The number of channels of the input images. Default: 3
  TORCH_ARG(int64_t, in_channels) = 3;

  /// The device of parameters and buffers. Default: the CPU
  TORCH_ARG(torch::Device, device) = torch::Device(torch::kCPU);

  /// The dtype of parameters and floating-point buffers. Default: `torch::kFloat32`
  TORCH_ARG(torch::Dtype, dtype) = torch::kFloat32;

 public:
  /// Throws `c10::ValueError` if an option is out of range.
  void validate() const {
    TORCH_CHECK_VALUE(num_classes_ > 0, "create_model: num_classes must be at least 1, got ",
                      num_classes_);
    TORCH_CHECK_VALUE(in_channels_ > 0, "create_model: in_channels must be at least 1, got ",
                      in_channels_);
    TORCH_CHECK_VALUE(torch::isFloatingType(dtype_),
                      "create_model: dtype must be a floating-point type, got ", dtype_);
    // LibTorch's modules make their parameters on the CPU and can't move them to "meta".
    TORCH_CHECK_VALUE(device_.type() != torch::kMeta,
                      "create_model: device must be a CPU or CUDA device, got ", device_);
  }
};

}  // namespace bsconv
