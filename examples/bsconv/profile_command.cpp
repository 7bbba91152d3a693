// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/profile.hpp>
#include <bsconv/profile/json.hpp>
#include <bsconv/zoo.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checks.hpp"
#include "commands.hpp"
#include "common.hpp"

namespace bsconv_program {

namespace {

struct ProfileArguments {
  std::string name;
  std::vector<int64_t> input;
  int64_t classes = 0;
  std::string convention = "reference";
  std::string format = "table";
  std::string sort = "tree";
  int64_t depth = -1;
  int64_t timed_runs = 0;
  bool human_readable = false;
  std::string device = "cpu";
};

// What `--input` means: H W, C H W, or N C H W.
std::vector<int64_t> input_shape(const ProfileArguments& arguments) {
  const auto& given = arguments.input;
  if (given.size() == 1 || given.size() > 4) {
    throw UsageError("--input takes HxW, CxHxW or NxCxHxW");
  }
  for (const int64_t size : given) {
    if (size <= 0) {
      throw UsageError("--input: every size must be at least 1, got " + std::to_string(size));
    }
  }
  std::vector<int64_t> shape = {1, 3, input_size(arguments.name), input_size(arguments.name)};
  std::copy(given.begin(), given.end(), shape.end() - static_cast<std::ptrdiff_t>(given.size()));
  return shape;
}

void run_profile(const ProfileArguments& arguments) {
  static const std::map<std::string, bsconv::ProfileOrder> orders = {
      {"tree", bsconv::ProfileOrder::tree},
      {"params", bsconv::ProfileOrder::parameters},
      {"flops", bsconv::ProfileOrder::flops},
      {"memory", bsconv::ProfileOrder::memory},
      {"time", bsconv::ProfileOrder::time}};
  if (arguments.sort == "time" && arguments.timed_runs == 0) {
    throw UsageError("--sort time needs --time RUNS");
  }
  if (arguments.format == "json" &&
      (arguments.depth >= 0 || arguments.sort != "tree" || arguments.human_readable)) {
    throw UsageError(
        "--format json has all modules in tree order; --depth, --sort and --human are "
        "for the other formats");
  }
  if (arguments.format == "csv" && arguments.human_readable) {
    throw UsageError("--human is for people; --format csv has whole numbers");
  }
  const auto shape = input_shape(arguments);
  const int64_t classes = classes_or_default(arguments.classes, arguments.name);
  const auto device = parse_device(arguments.device);
  auto model = make_model(arguments.name, classes, shape[1]);
  model->to(device);
  const auto profile = bsconv::profile(
      model,
      bsconv::ProfileOptions()
          .convention(arguments.convention == "complete" ? bsconv::Convention::complete
                                                         : bsconv::Convention::reference)
          .timed_runs(arguments.timed_runs),
      torch::zeros(shape, torch::TensorOptions().device(device)));
  auto table = bsconv::ProfileTableOptions()
                   .order(orders.at(arguments.sort))
                   .human_readable(arguments.human_readable);
  if (arguments.depth >= 0) {
    table.depth(arguments.depth);
  }
  if (arguments.format == "json") {
    print_json(bsconv::to_json(profile, arguments.name));
  } else if (arguments.format == "csv") {
    std::cout << bsconv::to_csv(profile, table);
  } else if (arguments.format == "markdown") {
    std::cout << bsconv::to_markdown(profile, table);
  } else {
    std::cout << bsconv::to_table(profile, table);
  }
}

}  // namespace

void add_profile_command(CLI::App& app) {
  auto* command = app.add_subcommand("profile", "Show what a model costs, module by module");
  const auto arguments = std::make_shared<ProfileArguments>();
  command->add_option("name", arguments->name, "The model, such as cifar_resnet20_bsconvu")
      ->required();
  command
      ->add_option("--input", arguments->input,
                   "The input's shape: HxW, CxHxW or NxCxHxW [the model's, with batch 1]")
      ->delimiter('x')
      ->allow_extra_args(false);
  command
      ->add_option("--classes", arguments->classes,
                   "The number of classes [100 for CIFAR models, else 1000]")
      ->transform(whole_number(1, 1 << 24));
  command
      ->add_option("--convention", arguments->convention,
                   "How multiply-adds are counted: as the published tables, or every operator")
      ->check(CLI::IsMember({"reference", "complete"}))
      ->capture_default_str();
  command->add_option("--format", arguments->format, "The output's format")
      ->check(CLI::IsMember({"table", "csv", "markdown", "json"}))
      ->capture_default_str();
  command->add_option("--depth", arguments->depth, "Show modules down to this depth [all]")
      ->transform(whole_number(0));
  command->add_option("--sort", arguments->sort, "The order of the rows")
      ->check(CLI::IsMember({"tree", "params", "flops", "memory", "time"}))
      ->capture_default_str();
  command->add_option("--time", arguments->timed_runs, "Time this many forward passes")
      ->transform(whole_number(0));
  command->add_flag("--human", arguments->human_readable, "Shorten numbers: 7.30 M");
  command->add_option("--device", arguments->device, "cpu, cuda or cuda:N")->capture_default_str();
  command->callback([arguments] { run_profile(*arguments); });
}

}  // namespace bsconv_program
