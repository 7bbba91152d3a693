// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/export/onnx_reader.hpp>
#include <bsconv/util/text.hpp>
#include <bsconv/weights.hpp>

#include <cstdint>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "commands.hpp"
#include "common.hpp"

namespace bsconv_program {

namespace {

struct InspectArguments {
  std::filesystem::path file;
  std::string key;
  std::string format = "table";
};

std::string shape_of(const torch::Tensor& tensor) {
  std::ostringstream text;
  text << tensor.sizes();
  return text.str();
}

std::string shape_of(const bsconv::onnx::ValueInfo& info) {
  if (!info.ranked) {
    return "of unknown shape";
  }
  std::string text = "[";
  for (const auto& size : info.sizes) {
    text += text.size() == 1 ? "" : ", ";
    text += !size.name.empty() ? size.name : size.size < 0 ? "?" : std::to_string(size.size);
  }
  return text + "]";
}

std::string type_of(int32_t number) {
  const auto type = bsconv::onnx::element_type(number);
  return type ? c10::toString(*type) : "type " + std::to_string(number);
}

void inspect_onnx(const InspectArguments& arguments) {
  const auto model = bsconv::onnx::load_onnx(arguments.file);
  if (arguments.format == "json") {
    const auto values = [](const std::vector<bsconv::onnx::ValueInfo>& infos) {
      nlohmann::ordered_json list = nlohmann::ordered_json::array();
      for (const auto& info : infos) {
        nlohmann::ordered_json shape = nlohmann::ordered_json::array();
        for (const auto& [size, name] : info.sizes) {
          if (!name.empty()) {
            shape.push_back(name);
          } else {
            shape.push_back(size < 0 ? nlohmann::ordered_json() : nlohmann::ordered_json(size));
          }
        }
        list.push_back({{"name", info.name},
                        {"dtype", type_of(info.type)},
                        {"shape", info.ranked ? std::move(shape) : nlohmann::ordered_json()}});
      }
      return list;
    };
    nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
    for (const auto& item : model.initializers) {
      tensors.push_back(
          {{"name", item.name}, {"dtype", type_of(item.type)}, {"shape", item.sizes}});
    }
    nlohmann::ordered_json metadata = nlohmann::ordered_json::object();
    for (const auto& [name, text] : model.metadata) {
      metadata[name] = text;
    }
    print_json({{"format", "onnx"},
                {"opset", model.opset},
                {"nodes", model.nodes.size()},
                {"inputs", values(model.inputs)},
                {"outputs", values(model.outputs)},
                {"tensors", tensors},
                {"metadata", metadata}});
    return;
  }
  const auto print = [](const std::string& kind, const std::string& name, int32_t type,
                        const std::string& shape) {
    std::cout << kind << ' ' << name << "  " << type_of(type) << ' ' << shape << '\n';
  };
  for (const auto& info : model.inputs) {
    print("input", info.name, info.type, shape_of(info));
  }
  for (const auto& info : model.outputs) {
    print("output", info.name, info.type, shape_of(info));
  }
  for (const auto& item : model.initializers) {
    print("tensor", item.name, item.type, c10::str(torch::IntArrayRef(item.sizes)));
  }
  for (const auto& [name, text] : model.metadata) {
    std::cout << "metadata " << name << ": " << text << '\n';
  }
  std::cout << "onnx, operator set " << model.opset << ", " << model.nodes.size() << " nodes, "
            << model.initializers.size() << " tensors, by " << model.producer << ' '
            << model.producer_version << '\n';
}

// The text, or its begin where it would fill the screen, as the state of a training does.
std::string shortened(const std::string& text) {
  constexpr std::size_t limit = 300;
  return text.size() <= limit ? text
                              : text.substr(0, limit) + "... (" +
                                    bsconv::detail::with_commas(static_cast<int64_t>(text.size())) +
                                    " bytes; --format json prints all)";
}

void inspect(const InspectArguments& arguments) {
  const auto path = find_weight_file(arguments.file);
  const bool is_onnx = path.extension() == ".onnx";
  const auto file = is_onnx ? bsconv::weights::WeightFile()
                            : bsconv::weights::load_weights(
                                  path, bsconv::weights::PthOptions().key(arguments.key));
  check_key(arguments.key, file, path);
  if (is_onnx) {
    inspect_onnx(arguments);
    return;
  }
  uint64_t elements = 0;
  uint64_t bytes = 0;
  std::size_t longest = 4;
  for (const auto& item : file.tensors) {
    elements += static_cast<uint64_t>(item.value().numel());
    bytes += item.value().nbytes();
    longest = std::max(longest, item.key().size());
  }
  if (arguments.format == "json") {
    nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
    for (const auto& item : file.tensors) {
      tensors.push_back({{"name", item.key()},
                         {"dtype", c10::toString(item.value().scalar_type())},
                         {"shape", item.value().sizes().vec()},
                         {"bytes", item.value().nbytes()}});
    }
    print_json(
        {{"format", name_of(file.format)}, {"tensors", tensors}, {"metadata", file.metadata}});
    return;
  }
  for (const auto& item : file.tensors) {
    std::cout << std::left << std::setw(static_cast<int>(longest) + 2) << item.key()
              << std::setw(10) << c10::toString(item.value().scalar_type()) << std::setw(22)
              << shape_of(item.value()) << std::right << std::setw(14)
              << bsconv::detail::with_commas(static_cast<int64_t>(item.value().nbytes())) << '\n';
  }
  for (const auto& [name, text] : file.metadata) {
    std::cout << "metadata " << name << ": " << shortened(text) << '\n';
  }
  std::cout << name_of(file.format) << ", " << file.tensors.size() << " tensors, "
            << bsconv::detail::with_commas(static_cast<int64_t>(elements)) << " elements, "
            << bsconv::detail::with_commas(static_cast<int64_t>(bytes)) << " bytes\n";
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  auto* command = app.add_subcommand("inspect", "List the tensors of a weight file");
  const auto arguments = std::make_shared<InspectArguments>();
  command
      ->add_option(
          "file", arguments->file,
          "A safetensors, PyTorch or ONNX file, a run's folder for its best checkpoint, or "
          "a trained model that comes with the library")
      ->required();
  command->add_option("--key", arguments->key,
                      "Where a checkpoint's tensors are, such as model_state_dict [found]");
  command->add_option("--format", arguments->format, "The output's format")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  command->callback([arguments] { inspect(*arguments); });
}

}  // namespace bsconv_program
