// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "common.hpp"

#include <torch/cuda.h>
#include <bsconv/pretrained/classifier.hpp>
#include <bsconv/pretrained/model_store.hpp>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/train/settings.hpp>
#include <bsconv/util/text.hpp>
#include <bsconv/weights/safetensors.hpp>
#include <bsconv/weights/state_dict.hpp>
#include <bsconv/zoo.hpp>

#include <algorithm>
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

torch::Dtype parse_dtype(const std::string& name) {
  return name == "bf16" ? torch::kBFloat16 : name == "f16" ? torch::kHalf : torch::kFloat;
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

int64_t classes_or_default(int64_t classes, const std::string& architecture) {
  return classes != 0 ? classes : input_size(architecture) == 32 ? 100 : 1000;
}

namespace {

// The setting `image_size`; 0, the model's own, if there is none.
int64_t image_size_setting(const std::map<std::string, std::string>& settings) {
  const auto found = settings.find("image_size");
  if (found == settings.end()) {
    return 0;
  }
  int64_t side = -1;
  try {
    bsconv::train::detail::parse_value(found->second, side);
  } catch (const c10::ValueError&) {
    // No number.
  }
  TORCH_CHECK(side >= 0 && side <= max_image_size, "image_size must be a whole number from 0 to ",
              max_image_size, ", got '", found->second, "'");
  return side;
}

// Whether the file at `path` holds weights, but is no checkpoint.
bool is_file_of_weights(const std::filesystem::path& path) {
  try {
    return bsconv::weights::weight_format(path) == bsconv::weights::WeightFormat::pth ||
           !bsconv::train::is_checkpoint(bsconv::weights::load_safetensors(path).metadata);
  } catch (const c10::Error&) {
    return false;
  }
}

}  // namespace

int64_t image_size(const std::string& architecture,
                   const std::map<std::string, std::string>& settings) {
  const int64_t side = image_size_setting(settings);
  return side > 0 ? side : input_size(architecture);
}

bsconv::train::Checkpoint read_checkpoint(const std::filesystem::path& path) {
  try {
    return bsconv::train::load_checkpoint(path);
  } catch (const c10::Error& error) {
    if (is_file_of_weights(path)) {
      throw UsageError(c10::str(error.what_without_backtrace(), "; use --weights"));
    }
    throw;
  }
}

void check_is_described(const bsconv::train::RunInfo& info, const std::filesystem::path& path) {
  const bool has_name = !info.architecture.empty();
  const bool has_classes = !info.class_names.empty();
  TORCH_CHECK(has_name && has_classes, "checkpoint '", path.native(), "' doesn't tell the model's ",
              has_name ? "" : "architecture", has_name || has_classes ? "" : " and ",
              has_classes ? "" : "classes",
              "; the program that wrote it must give them to Trainer::info");
}

std::map<std::string, std::string> metadata_of(const bsconv::train::RunInfo& info) {
  std::map<std::string, std::string> metadata;
  if (!info.architecture.empty()) {
    metadata["architecture"] = info.architecture;
  }
  if (!info.dataset.empty()) {
    metadata["dataset"] = info.dataset;
  }
  if (!info.class_names.empty()) {
    metadata["class_names"] = nlohmann::json(info.class_names).dump();
  }
  const int64_t side = image_size_setting(info.settings);
  const auto name = bsconv::try_parse_model_name(info.architecture);
  if (side > 0 && !(name && name->input_size() == side)) {
    metadata["image_size"] = std::to_string(side);
  }
  return metadata;
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
    return store.checked_path(store.card(path.native()));
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
    file.metadata = metadata_of({card.architecture,
                                 card.dataset,
                                 card.class_names,
                                 card.in_channels,
                                 {{"image_size", std::to_string(card.input_size)}}});
  } else {
    const auto found = in_directory(path, "best.safetensors");
    file = bsconv::weights::load_weights(found, bsconv::weights::PthOptions().key(key));
    if (bsconv::train::is_checkpoint(file.metadata)) {
      const auto checkpoint = bsconv::train::load_checkpoint(found);
      file.tensors = checkpoint.inference_model();
      file.metadata = metadata_of(checkpoint.info);
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

std::vector<std::string> class_names_of(const bsconv::weights::WeightFile& file,
                                        const std::filesystem::path& path) {
  const auto found = file.metadata.find("class_names");
  if (found == file.metadata.end()) {
    return {};
  }
  const auto json = nlohmann::json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  const bool is_list =
      json.is_array() &&
      std::all_of(json.begin(), json.end(), [](const auto& name) { return name.is_string(); });
  // Another program may have written something else.
  if (!is_list || json.empty()) {
    return {};
  }
  const auto count = bsconv::num_classes_of(file.tensors, path.native());
  TORCH_CHECK(static_cast<int64_t>(json.size()) == count, "'", path.native(), "' names ",
              json.size(), " classes, but its classifier tells ", count, " apart");
  return json.get<std::vector<std::string>>();
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

namespace {

std::string float_name(torch::ScalarType type) {
  return type == torch::kHalf       ? "float16"
         : type == torch::kBFloat16 ? "bfloat16"
         : type == torch::kFloat    ? "float32"
         : type == torch::kDouble   ? "float64"
                                    : c10::toString(type);
}

}  // namespace

std::string load_converted(torch::nn::Module& model, const bsconv::weights::StateDict& weights) {
  std::set<std::string> from;
  std::set<std::string> to;
  bool floating = true;
  for (const auto& item : bsconv::weights::state_dict(model)) {
    const auto* found = weights.find(item.key());
    if (found == nullptr || found->scalar_type() == item.value().scalar_type()) {
      continue;
    }
    floating = floating && torch::isFloatingType(found->scalar_type()) &&
               torch::isFloatingType(item.value().scalar_type());
    from.insert(float_name(found->scalar_type()));
    to.insert(float_name(item.value().scalar_type()));
  }
  // Integers in the place of weights are no rounded weights.
  const bool convert = floating && !from.empty();
  bsconv::weights::load_state_dict(
      model, weights,
      bsconv::weights::LoadOptions().dtype_policy(convert ? bsconv::weights::DtypePolicy::convert
                                                          : bsconv::weights::DtypePolicy::exact));
  return convert ? c10::str("converted from ", bsconv::detail::join(from, " and "), " to ",
                            bsconv::detail::join(to, " and "))
                 : std::string();
}

bsconv::Layer make_model(const std::string& architecture, const bsconv::weights::WeightFile& file,
                         const std::filesystem::path& path) {
  check_is_unchanged_model(file, path);
  auto model = make_model(architecture, bsconv::num_classes_of(file.tensors, path.native()),
                          bsconv::in_channels_of(file.tensors, path.native()));
  const auto converted = load_converted(*model, file.tensors);
  if (!converted.empty()) {
    std::cerr << "bsconv: note: the weights of '" << path.native() << "' were " << converted
              << '\n';
  }
  model->eval();
  return model;
}

std::filesystem::path in_directory(const std::filesystem::path& path, const char* file_name) {
  std::error_code error;
  return std::filesystem::is_directory(path, error) ? path / file_name : path;
}

}  // namespace bsconv_program
