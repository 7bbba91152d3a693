// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "checks.hpp"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <bsconv/train/settings.hpp>

#include <string>
#include <vector>

#include "common.hpp"

namespace bsconv_program {
namespace {

template <class Number>
CLI::Validator range(Number least, Number most, const std::string& valid, const char* kind) {
  const auto check = [=](std::string& text) {
    try {
      Number value{};
      bsconv::train::detail::parse_value(text, value);
      if (value >= least && value <= most) {
        // CLI11 would read 010 as eight.
        text = bsconv::train::detail::value_text(value);
        return std::string();
      }
    } catch (const c10::ValueError&) {
      // Another kind of value.
    }
    return std::string("must be ") + kind + " " + valid + ", got '" + text + "'";
  };
  return {check, valid, ""};
}

std::vector<CLI::App*> commands_of(CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

bool is_flag(const CLI::Option& option) { return option.get_items_expected_max() == 0; }

// An empty list is one.
bool takes_list(const CLI::Option& option) { return option.get_delimiter() != '\0'; }

}  // namespace

CLI::Validator whole_number(int64_t least, int64_t most) {
  const auto from = std::to_string(least);
  return range(least, most,
               most == std::numeric_limits<int64_t>::max()
                   ? "from " + from + " on"
                   : "from " + from + " to " + std::to_string(most),
               "a whole number");
}

CLI::Validator number(double least, double most) {
  using bsconv::train::detail::value_text;
  return range(least, most, "from " + value_text(least) + " to " + value_text(most), "a number");
}

void add_threads_option(CLI::App& command) {
  command
      .add_option_function<int>(
          "--threads", [](const int& count) { at::set_num_threads(count); },
          "Threads [LibTorch's default]")
      ->transform(whole_number(1, 1024));
}

void check_all_options(CLI::App& app) {
  const CLI::Validator not_empty(
      [](const std::string& text) { return std::string(text.empty() ? "must not be empty" : ""); },
      "", "");
  for (auto* command : commands_of(app)) {
    for (auto* option : command->get_options()) {
      if (is_flag(*option)) {
        option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
      } else if (!takes_list(*option)) {
        option->check(not_empty);
      }
    }
  }
}

void check_assignments(CLI::App& app, const std::vector<std::string>& arguments) {
  for (const auto& argument : arguments) {
    if (argument == "--") {
      return;
    }
    const auto sign = argument.find('=');
    if (argument.rfind("--", 0) != 0 || sign == std::string::npos) {
      continue;
    }
    const auto name = argument.substr(0, sign);
    for (auto* command : commands_of(app)) {
      const auto* option = command->get_option_no_throw(name);
      if (option != nullptr && is_flag(*option)) {
        throw UsageError(name + " takes no value, got '" + argument + "'");
      }
      if (option != nullptr && !takes_list(*option) && sign + 1 == argument.size()) {
        throw UsageError(name + ": must not be empty");
      }
    }
  }
}

}  // namespace bsconv_program
