// SPDX-License-Identifier: BSD-3-Clause-Clear
// Weight files in other formats, with other names, folded, or as whole models.
#include <bsconv/export.hpp>
#include <bsconv/nn/fuse.hpp>
#include <bsconv/pretrained/classifier.hpp>
#include <bsconv/train/settings.hpp>
#include <bsconv/weights.hpp>
#include <bsconv/zoo.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checks.hpp"
#include "commands.hpp"
#include "common.hpp"

namespace bsconv_program {

namespace {

using bsconv::weights::StateDict;

struct ConvertArguments {
  std::filesystem::path from;
  std::filesystem::path to;
  std::string key;
  std::vector<std::string> strip;
  std::vector<std::string> rename;
  std::string architecture;
  bool fold = false;
  std::string dtype;
  std::vector<int64_t> input;
  int64_t opset = 0;
};

// Throws unless a name begins with `prefix`, which `flag` wants to change.
void check_some_begin_with(const StateDict& state, const std::string& prefix, const char* flag) {
  const auto begins = [&](const auto& item) { return item.key().rfind(prefix, 0) == 0; };
  TORCH_CHECK(std::any_of(state.begin(), state.end(), begins), flag, ": no name begins with '",
              prefix, "'; 'bsconv inspect' lists the names",
              state.is_empty() ? "" : ", the first is '" + state.front().key() + "'");
}

StateDict stripped(StateDict state, const std::vector<std::string>& prefixes) {
  for (const auto& prefix : prefixes) {
    check_some_begin_with(state, prefix, "--strip");
    state = bsconv::weights::strip_prefix(state, prefix);
  }
  return state;
}

StateDict renamed(StateDict state, const std::vector<std::string>& rules) {
  for (const auto& rule : rules) {
    const auto split = rule.find('=');
    if (split == std::string::npos || split == 0) {
      throw UsageError("--rename takes OLD=NEW, got '" + rule + "'");
    }
    const auto from = rule.substr(0, split);
    const auto to = rule.substr(split + 1);
    check_some_begin_with(state, from, "--rename");
    state = bsconv::weights::rename_keys(state, [&](const std::string& name) {
      return name.compare(0, from.size(), from) == 0 ? to + name.substr(from.size()) : name;
    });
  }
  return state;
}

// `state` with its floating-point numbers as the type that `--dtype` names.
StateDict with_dtype(const StateDict& state, const std::string& name) {
  const auto dtype = parse_dtype(name);
  StateDict result;
  for (const auto& item : state) {
    auto value = item.value().detach();
    if (torch::isFloatingType(value.scalar_type())) {
      const auto old = value;
      value = old.to(dtype);
      TORCH_CHECK(value.isfinite().all().item<bool>() ||
                      !old.to(torch::kDouble).isfinite().all().item<bool>(),
                  "--dtype ", name, ": '", item.key(), "' has numbers that are too large for it");
    }
    result.insert(item.key(), value);
  }
  return result;
}

// The name of the model whose weights a file holds: as told, or as the file says.
std::string architecture_of(const ConvertArguments& arguments,
                            const bsconv::weights::WeightFile& file) {
  if (!arguments.architecture.empty()) {
    return arguments.architecture;
  }
  const auto kept = file.metadata.find("architecture");
  if (kept == file.metadata.end()) {
    throw UsageError("convert: --fold and .onnx need --architecture, the model's name, as '" +
                     arguments.from.native() + "' doesn't tell it");
  }
  return kept->second;
}

// Throws unless the tensors, of whatever type, are those of the model that they are said to be of:
// a label that does not fit misleads whoever reads it.
void check_label(const ConvertArguments& arguments, const bsconv::weights::WeightFile& file) {
  check_is_unchanged_model(file, arguments.from);
  const auto origin = arguments.from.native();
  const auto model =
      make_model(arguments.architecture, bsconv::num_classes_of(file.tensors, origin),
                 bsconv::in_channels_of(file.tensors, origin));
  auto difference = bsconv::weights::compare_state_dict(*model, file.tensors);
  difference.dtypes.clear();
  TORCH_CHECK(difference.empty(), "--architecture: '", origin, "' is not of a ",
              arguments.architecture, ":\n", difference.to_string());
}

// An image, or what `--input` says of it: N or H W.
torch::Tensor example_image(const ConvertArguments& arguments, int64_t channels, int64_t side) {
  const auto& given = arguments.input;
  const bool valid = given.size() <= 2 && std::all_of(given.begin(), given.end(), [](int64_t size) {
                       return size >= 1 && size <= max_image_size;
                     });
  if (!valid) {
    throw UsageError(c10::str("--input takes N or HxW, from 1 to ", max_image_size, ", got ",
                              bsconv::train::detail::value_text(given)));
  }
  return torch::zeros(
      {1, channels, given.empty() ? side : given.front(), given.empty() ? side : given.back()});
}

void export_model(const ConvertArguments& arguments, const bsconv::weights::WeightFile& file) {
  const auto architecture = architecture_of(arguments, file);
  const auto model = make_model(architecture, file, arguments.from);
  auto metadata = bsconv::OnnxExportOptions::Metadata(file.metadata.begin(), file.metadata.end());
  const auto class_names = class_names_of(file, arguments.from);
  const auto is_written_anew = [&](const auto& item) {
    return item.first == "architecture" || (item.first == "class_names" && !class_names.empty());
  };
  metadata.erase(std::remove_if(metadata.begin(), metadata.end(), is_written_anew), metadata.end());
  metadata.emplace_back("architecture", architecture);
  const auto example =
      example_image(arguments, bsconv::in_channels_of(file.tensors, arguments.from.native()),
                    image_size(architecture, file.metadata));
  const auto written = bsconv::export_onnx(model, example, arguments.to,
                                           bsconv::OnnxExportOptions()
                                               .opset(arguments.opset > 0 ? arguments.opset : 17)
                                               .fold_batch_norms(arguments.fold)
                                               .model_name(architecture)
                                               .class_names(class_names)
                                               .metadata(metadata));
  std::cout << "Wrote " << written.nodes.size() << " nodes and " << written.initializers.size()
            << " tensors to " << arguments.to.native() << '\n';
}

void convert(const ConvertArguments& arguments) {
  const bool to_onnx = arguments.to.extension() == ".onnx";
  if (!to_onnx) {
    bsconv::weights::format_of_name(arguments.to);
    if (arguments.opset > 0) {
      throw UsageError("--opset is for .onnx, got '" + arguments.to.native() + "'");
    }
    if (!arguments.input.empty()) {
      throw UsageError(c10::str("--input is for .onnx, got '", arguments.to.native(), "'"));
    }
  } else if (!arguments.dtype.empty()) {
    throw UsageError(
        c10::str("--dtype is for files of weights; models are exported in float32, got '",
                 arguments.to.native(), "'"));
  }
  auto file = load_model_weights(arguments.from, arguments.key);
  file.tensors = stripped(std::move(file.tensors), arguments.strip);
  file.tensors = renamed(std::move(file.tensors), arguments.rename);
  if (to_onnx) {
    export_model(arguments, file);
    return;
  }
  if (arguments.fold) {
    const auto architecture = architecture_of(arguments, file);
    auto model = make_model(architecture, file, arguments.from);
    const auto layers = bsconv::fuse(*model);
    TORCH_CHECK(layers > 0, "convert: --fold folds what is inside BSConv layers, and '",
                architecture,
                "' has no layer with batch normalizations inside; an .onnx file folds all");
    file.tensors = bsconv::weights::state_dict(*model);
    file.metadata["folded"] = architecture;
    std::cout << "Folded the batch normalizations of " << layers << " layers\n";
  }
  if (!arguments.architecture.empty()) {
    if (!arguments.fold) {
      check_label(arguments, file);
    }
    file.metadata["architecture"] = arguments.architecture;
  }
  if (!arguments.dtype.empty()) {
    file.tensors = with_dtype(file.tensors, arguments.dtype);
  }
  bsconv::weights::save_weights(arguments.to, file.tensors, file.metadata);
  std::cout << "Wrote " << file.tensors.size() << " tensors to " << arguments.to.native() << '\n';
}

}  // namespace

void add_convert_command(CLI::App& app) {
  auto* command = app.add_subcommand(
      "convert",
      "Convert a weight file: from safetensors or PyTorch's format, by its content, to "
      "the one that the new name ends in");
  const auto arguments = std::make_shared<ConvertArguments>();
  command
      ->add_option("from", arguments->from,
                   "The file to read, or the folder of a run for its best checkpoint")
      ->required();
  command
      ->add_option("to", arguments->to, "The file to write: .safetensors, .pth, .pt, .bin or .onnx")
      ->required();
  command->add_option("--key", arguments->key,
                      "Where a checkpoint's tensors are, such as model_state_dict [found]");
  command
      ->add_option("--strip", arguments->strip,
                   "A prefix to strip off names, such as module.; may be given several times")
      ->allow_extra_args(false);
  command
      ->add_option(
          "--rename", arguments->rename,
          "OLD=NEW: names that begin with OLD begin with NEW instead; may be given several "
          "times")
      ->allow_extra_args(false);
  command->add_option("--architecture", arguments->architecture,
                      "The name of the model whose weights these are; .onnx and --fold need it "
                      "where the file doesn't tell");
  command->add_flag(
      "--fold", arguments->fold,
      "Fold batch normalizations: those in BSConv layers, or all that can be for .onnx");
  command
      ->add_option("--dtype", arguments->dtype,
                   "The type of floating-point numbers, not for .onnx [as they are]")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}));
  command
      ->add_option("--input", arguments->input,
                   "The image size of an ONNX file: N or HxW [what the model was trained on]")
      ->delimiter('x')
      ->allow_extra_args(false);
  command->add_option("--opset", arguments->opset, "The operator set of an ONNX file [17]")
      ->transform(whole_number(17, 21));
  command->callback([arguments] { convert(*arguments); });
}

}  // namespace bsconv_program
