// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "common.hpp"

#include <torch/cuda.h>
#include <bsconv/weights/state_dict.hpp>
#include <bsconv/zoo.hpp>

#include <system_error>

namespace bsconv_program {

torch::Device parse_device(const std::string& text) {
  const bool indexed = text.rfind("cuda:", 0) == 0;
  const std::string index = indexed ? text.substr(5) : "";
  const bool valid_index = !index.empty() && index.size() <= 3 &&
                           index.find_first_not_of("0123456789") == std::string::npos;
  if (text == "cpu") {
    return torch::kCPU;
  }
  if (text != "cuda" && !(indexed && valid_index)) {
    throw UsageError("--device '" + text + "' is unknown; valid are cpu, cuda and cuda:N");
  }
  const auto count = static_cast<int64_t>(int{torch::cuda::device_count()});
  TORCH_CHECK(count > 0, "--device ", text, ": there is no CUDA device",
              torch::cuda::is_available() ? "" : " or this LibTorch is built without CUDA",
              "; use --device cpu");
  const int64_t number = indexed ? std::stoll(index) : 0;
  TORCH_CHECK(number < count, "--device ", text, ": there ", count == 1 ? "is" : "are", " only ",
              count, " CUDA device", count == 1 ? "" : "s", ", cuda:0 to cuda:", count - 1);
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(number)};
}

bsconv::Layer make_model(const std::string& architecture, int64_t num_classes,
                         int64_t in_channels) {
  (void)input_size(architecture);
  return bsconv::create_model(
      architecture, bsconv::ModelOptions().num_classes(num_classes).in_channels(in_channels));
}

int64_t input_size(const std::string& architecture) {
  try {
    return bsconv::parse_model_name(architecture).input_size();
  } catch (const c10::Error& error) {
    throw UsageError(error.what_without_backtrace());
  }
}

int64_t classes_of(const bsconv::weights::StateDict& state, const std::string& origin) {
  const auto* bias = state.find("classifier.conv.bias");
  TORCH_CHECK(bias != nullptr && bias->dim() == 1, origin,
              ": there is no 'classifier.conv.bias' to tell the number of classes from");
  return bias->size(0);
}

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

std::filesystem::path in_directory(const std::filesystem::path& path, const char* file_name) {
  std::error_code error;
  return std::filesystem::is_directory(path, error) ? path / file_name : path;
}

}  // namespace bsconv_program
