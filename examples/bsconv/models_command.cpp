// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/zoo.hpp>

#include <iostream>
#include <memory>
#include <string>

#include "commands.hpp"
#include "common.hpp"

namespace bsconv_program {

void add_models_command(CLI::App& app) {
  auto* command = app.add_subcommand("models", "List the names of models");
  const auto pattern = std::make_shared<std::string>("*");
  command->add_option("pattern", *pattern, "Only names that match, such as 'cifar_*_bsconvu'")
      ->capture_default_str();
  command->callback([pattern] {
    const auto names = bsconv::list_models(*pattern);
    TORCH_CHECK(!names.empty(), "no model matches '", *pattern,
                "'; 'bsconv models' lists the names");
    for (const auto& name : names) {
      std::cout << name << '\n';
    }
  });
}

}  // namespace bsconv_program
