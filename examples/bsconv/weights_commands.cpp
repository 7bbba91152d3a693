// SPDX-License-Identifier: BSD-3-Clause-Clear
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
#include <vector>

#include "commands.hpp"
#include "common.hpp"

namespace bsconv_program {

namespace {

using bsconv::weights::StateDict;

struct InspectArguments {
  std::filesystem::path file;
  std::string key;
  std::string format = "table";
};

struct ConvertArguments {
  std::filesystem::path from;
  std::filesystem::path to;
  std::string key;
  std::vector<std::string> strip;
  std::vector<std::string> rename;
};

std::string shape_of(const torch::Tensor& tensor) {
  std::ostringstream text;
  text << tensor.sizes();
  return text.str();
}

void inspect(const InspectArguments& arguments) {
  const auto file = bsconv::weights::load_weights(arguments.file,
                                                  bsconv::weights::PthOptions().key(arguments.key));
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
    std::cout << nlohmann::ordered_json{{"format", name_of(file.format)},
                                        {"tensors", tensors},
                                        {"metadata", file.metadata}}
                     .dump()
              << '\n';
    return;
  }
  for (const auto& item : file.tensors) {
    std::cout << std::left << std::setw(static_cast<int>(longest) + 2) << item.key()
              << std::setw(10) << c10::toString(item.value().scalar_type()) << std::setw(22)
              << shape_of(item.value()) << std::right << std::setw(14)
              << bsconv::detail::with_commas(static_cast<int64_t>(item.value().nbytes())) << '\n';
  }
  for (const auto& [name, text] : file.metadata) {
    std::cout << "metadata " << name << ": " << text << '\n';
  }
  std::cout << name_of(file.format) << ", " << file.tensors.size() << " tensors, "
            << bsconv::detail::with_commas(static_cast<int64_t>(elements)) << " elements, "
            << bsconv::detail::with_commas(static_cast<int64_t>(bytes)) << " bytes\n";
}

StateDict renamed(StateDict state, const std::vector<std::string>& rules) {
  for (const auto& rule : rules) {
    const auto split = rule.find('=');
    if (split == std::string::npos || split == 0) {
      throw UsageError("--rename takes OLD=NEW, got '" + rule + "'");
    }
    const auto from = rule.substr(0, split);
    const auto to = rule.substr(split + 1);
    state = bsconv::weights::rename_keys(state, [&](const std::string& name) {
      return name.compare(0, from.size(), from) == 0 ? to + name.substr(from.size()) : name;
    });
  }
  return state;
}

void convert(const ConvertArguments& arguments) {
  bsconv::weights::format_of_name(arguments.to);
  auto file = bsconv::weights::load_weights(arguments.from,
                                            bsconv::weights::PthOptions().key(arguments.key));
  for (const auto& prefix : arguments.strip) {
    file.tensors = bsconv::weights::strip_prefix(file.tensors, prefix);
  }
  file.tensors = renamed(std::move(file.tensors), arguments.rename);
  bsconv::weights::save_weights(arguments.to, file.tensors, file.metadata);
  std::cout << "Wrote " << file.tensors.size() << " tensors to " << arguments.to.native() << '\n';
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  auto* command = app.add_subcommand("inspect", "List the tensors of a weight file");
  const auto arguments = std::make_shared<InspectArguments>();
  command->add_option("file", arguments->file, "A safetensors or PyTorch file")->required();
  command->add_option("--key", arguments->key,
                      "Where a checkpoint's tensors are, such as model_state_dict [found]");
  command->add_option("--format", arguments->format, "The output's format")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  command->callback([arguments] { inspect(*arguments); });
}

void add_convert_command(CLI::App& app) {
  auto* command = app.add_subcommand(
      "convert",
      "Convert a weight file: from safetensors or PyTorch's format, by its content, to "
      "the one that the new name ends in");
  const auto arguments = std::make_shared<ConvertArguments>();
  command->add_option("from", arguments->from, "The file to read")->required();
  command->add_option("to", arguments->to, "The file to write: .safetensors, .pth, .pt or .bin")
      ->required();
  command->add_option("--key", arguments->key,
                      "Where a checkpoint's tensors are, such as model_state_dict [found]");
  command->add_option("--strip", arguments->strip, "A prefix to strip off names, such as module.");
  command->add_option("--rename", arguments->rename,
                      "OLD=NEW: names that begin with OLD begin with NEW instead");
  command->callback([arguments] { convert(*arguments); });
}

}  // namespace bsconv_program
