// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "common.hpp"

#include <torch/cuda.h>
#include <bsconv/pretrained/model_store.hpp>
#include <bsconv/train/checkpoint.hpp>
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
  TORCH_CHECK(
      count > 0, "--device ", text, ": there is no CUDA device",
      torch::cuda::is_available()
          ? ""
          : ", or this program is built without CUDA (-DBSCONV_TORCH_CUDA=ON builds it with)",
      "; --device cpu needs none");
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

namespace {

// Whether `text` could be the name of a trained model: of the zoo, with or without a training.
bool is_trained_name(const std::string& text) {
  return bsconv::try_parse_model_name(text.substr(0, text.find('.'))).has_value();
}

}  // namespace

bsconv::weights::WeightFile load_model_weights(const std::filesystem::path& path,
                                               const std::string& key) {
  std::error_code error;
  if (!std::filesystem::exists(path, error) && is_trained_name(path.native())) {
    const auto store = bsconv::ModelStore::find();
    const auto& card = store.card(path.native());
    bsconv::weights::WeightFile file;
    file.tensors = store.load_weights(card);
    file.metadata = {{"architecture", card.architecture}, {"dataset", card.dataset}};
    return file;
  }
  const auto found = in_directory(path, "best.safetensors");
  auto file = bsconv::weights::load_weights(found, bsconv::weights::PthOptions().key(key));
  if (bsconv::train::is_checkpoint(file.metadata)) {
    const auto checkpoint = bsconv::train::load_checkpoint(found);
    file.tensors = checkpoint.inference_model();
    file.metadata = {{"architecture", checkpoint.info.architecture},
                     {"dataset", checkpoint.info.dataset}};
  }
  return file;
}

std::filesystem::path in_directory(const std::filesystem::path& path, const char* file_name) {
  std::error_code error;
  return std::filesystem::is_directory(path, error) ? path / file_name : path;
}

}  // namespace bsconv_program
