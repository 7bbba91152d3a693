// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "common.hpp"

#include <torch/cuda.h>
#include <bsconv/pretrained/classifier.hpp>
#include <bsconv/pretrained/model_store.hpp>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/weights/state_dict.hpp>
#include <bsconv/zoo.hpp>

#include <iostream>
#include <nlohmann/json.hpp>
#include <set>
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

// Whether `path` is no file and could be the name of a trained model: of the zoo, with or without
// what it was trained on.
bool is_trained_name(const std::filesystem::path& path) {
  static const std::set<std::string> endings = {".safetensors", ".pth", ".pt", ".bin", ".onnx"};
  std::error_code error;
  const auto text = path.native();
  return !std::filesystem::exists(path, error) && endings.count(path.extension().native()) == 0 &&
         bsconv::try_parse_model_name(text.substr(0, text.find('.'))).has_value();
}

}  // namespace

std::filesystem::path find_weight_file(const std::filesystem::path& path) {
  if (is_trained_name(path)) {
    const auto store = bsconv::ModelStore::find();
    return store.directory() / store.card(path.native()).weights;
  }
  return in_directory(path, "best.safetensors");
}

bsconv::weights::WeightFile load_model_weights(const std::filesystem::path& path,
                                               const std::string& key) {
  bsconv::weights::WeightFile file;
  if (is_trained_name(path)) {
    const auto store = bsconv::ModelStore::find();
    const auto& card = store.card(path.native());
    file.tensors = store.load_weights(card);
    file.metadata = {{"architecture", card.architecture}, {"dataset", card.dataset}};
  } else {
    const auto found = in_directory(path, "best.safetensors");
    file = bsconv::weights::load_weights(found, bsconv::weights::PthOptions().key(key));
    if (bsconv::train::is_checkpoint(file.metadata)) {
      const auto checkpoint = bsconv::train::load_checkpoint(found);
      file.tensors = checkpoint.inference_model();
      file.metadata = {{"architecture", checkpoint.info.architecture},
                       {"dataset", checkpoint.info.dataset}};
    }
  }
  check_key(key, file, path);
  return file;
}

void check_key(const std::string& key, const bsconv::weights::WeightFile& file,
               const std::filesystem::path& path) {
  if (!key.empty() && file.format != bsconv::weights::WeightFormat::pth) {
    throw UsageError("--key is for PyTorch's files, which '" + path.native() + "' is not");
  }
}

void print_json(const nlohmann::ordered_json& json) {
  std::cout << json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
}

void check_is_unchanged_model(const bsconv::weights::WeightFile& file,
                              const std::filesystem::path& path) {
  const auto check = [&](const char* key, const char* change) {
    TORCH_CHECK(file.metadata.count(key) == 0, "'", path.native(),
                "' fits no model of the zoo as it is: ", change,
                "; a program can read it into a model that it has changed in the same way");
  };
  check("folded", "batch normalizations of its layers are folded into convolutions");
  check("replacement", "layers of it are replaced by others than the name's");
}

bsconv::Layer make_model(const std::string& architecture, const bsconv::weights::WeightFile& file,
                         const std::filesystem::path& path) {
  check_is_unchanged_model(file, path);
  auto model = make_model(architecture, bsconv::num_classes_of(file.tensors, path.native()),
                          bsconv::in_channels_of(file.tensors, path.native()));
  bsconv::weights::load_state_dict(*model, file.tensors);
  model->eval();
  return model;
}

std::filesystem::path in_directory(const std::filesystem::path& path, const char* file_name) {
  std::error_code error;
  return std::filesystem::is_directory(path, error) ? path / file_name : path;
}

}  // namespace bsconv_program
