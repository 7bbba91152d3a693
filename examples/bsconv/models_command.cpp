// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/pretrained.hpp>
#include <bsconv/util/text.hpp>
#include <bsconv/zoo.hpp>

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "commands.hpp"
#include "common.hpp"

namespace bsconv_program {
namespace {

struct ModelsFlags {
  std::string pattern = "*";
  bool pretrained = false;
  std::string format = "table";
};

void list_names(const ModelsFlags& flags) {
  const auto names = bsconv::list_models(flags.pattern);
  TORCH_CHECK(!names.empty(), "no model matches '", flags.pattern,
              "'; 'bsconv models' lists the names");
  if (flags.format == "json") {
    print_json(names);
    return;
  }
  for (const auto& name : names) {
    std::cout << name << '\n';
  }
}

void list_trained(const ModelsFlags& flags) {
  const auto store = bsconv::ModelStore::find();
  for (const auto& [name, reason] : store.unreadable()) {
    std::cerr << "bsconv: warning: " << reason << '\n';
  }
  std::vector<bsconv::ModelCard> cards;
  std::copy_if(store.cards().begin(), store.cards().end(), std::back_inserter(cards),
               [pattern = bsconv::detail::lower(flags.pattern)](const auto& card) {
                 return bsconv::detail::matches(pattern, bsconv::detail::lower(card.name));
               });
  TORCH_CHECK(!cards.empty(), "no trained model in '", store.directory().native(), "' matches '",
              flags.pattern, "'");
  auto list = nlohmann::ordered_json::array();
  for (const auto& card : cards) {
    if (flags.format == "json") {
      list.push_back({{"name", card.name},
                      {"architecture", card.architecture},
                      {"dataset", card.dataset},
                      {"top1", card.top1},
                      {"top5", card.top5},
                      {"parameters", card.parameters},
                      {"flops", card.flops},
                      {"weights", (store.directory() / card.weights).native()}});
    } else {
      std::cout << std::left << std::setw(42) << card.name << std::right << std::fixed
                << std::setprecision(2) << std::setw(8) << card.top1 << " %" << std::setw(12)
                << bsconv::detail::with_commas(card.parameters) << " parameters" << std::setw(10)
                << static_cast<double>(card.flops) / 1e6 << " M multiply-adds\n";
    }
  }
  if (flags.format == "json") {
    print_json(list);
  }
}

}  // namespace

void add_models_command(CLI::App& app) {
  auto* command = app.add_subcommand("models", "List the names of models");
  const auto flags = std::make_shared<ModelsFlags>();
  command->add_option("pattern", flags->pattern, "Only names that match, such as 'cifar_*_bsconvu'")
      ->capture_default_str();
  command->add_flag("--pretrained", flags->pretrained,
                    "The trained models that come with the library: test accuracy and cost");
  command->add_option("--format", flags->format, "The output's format")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  command->callback([flags] { flags->pretrained ? list_trained(*flags) : list_names(*flags); });
}

}  // namespace bsconv_program
