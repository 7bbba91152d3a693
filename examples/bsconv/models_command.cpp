// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/pretrained.hpp>
#include <bsconv/util/text.hpp>
#include <bsconv/zoo.hpp>

#include <iomanip>
#include <iostream>
#include <memory>
#include <string>

#include "commands.hpp"
#include "common.hpp"

namespace bsconv_program {
namespace {

void list_names(const std::string& pattern) {
  const auto names = bsconv::list_models(pattern);
  TORCH_CHECK(!names.empty(), "no model matches '", pattern, "'; 'bsconv models' lists the names");
  for (const auto& name : names) {
    std::cout << name << '\n';
  }
}

void list_trained(const std::string& pattern) {
  const auto store = bsconv::ModelStore::find();
  bool any = false;
  for (const auto& card : store.cards()) {
    if (bsconv::detail::matches(bsconv::detail::lower(pattern), bsconv::detail::lower(card.name))) {
      any = true;
      std::cout << std::left << std::setw(42) << card.name << std::right << std::fixed
                << std::setprecision(2) << std::setw(8) << card.top1 << " %" << std::setw(8)
                << static_cast<double>(card.parameters) / 1e6 << " M parameters" << std::setw(10)
                << static_cast<double>(card.flops) / 1e6 << " M multiply-adds\n";
    }
  }
  TORCH_CHECK(any, "no trained model in '", store.directory().native(), "' matches '", pattern,
              "'");
}

}  // namespace

void add_models_command(CLI::App& app) {
  auto* command = app.add_subcommand("models", "List the names of models");
  const auto pattern = std::make_shared<std::string>("*");
  const auto trained = std::make_shared<bool>(false);
  command->add_option("pattern", *pattern, "Only names that match, such as 'cifar_*_bsconvu'")
      ->capture_default_str();
  command->add_flag("--pretrained", *trained,
                    "The trained models that come with the library: test accuracy and cost");
  command->callback(
      [pattern, trained] { *trained ? list_trained(*pattern) : list_names(*pattern); });
}

}  // namespace bsconv_program
