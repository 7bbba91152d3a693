// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/plot.hpp>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "checks.hpp"
#include "commands.hpp"
#include "common.hpp"

namespace bsconv_program {
namespace {

struct PlotFlags {
  std::vector<std::filesystem::path> inputs;
  std::vector<std::filesystem::path> outputs;
  std::string tables;
  std::string title;
  double scale = 0;
};

/// Whether a file is a table of results and not the metrics of a run.
bool is_result_table(const std::filesystem::path& path) {
  std::error_code error;
  return !std::filesystem::is_directory(path, error) &&
         bsconv::plot::CsvTable::read(path).has("accuracy_top1");
}

bsconv::plot::Figure make_figure(const PlotFlags& flags) {
  const auto tables = std::count_if(flags.inputs.begin(), flags.inputs.end(), is_result_table);
  if (tables == 0) {
    if (!flags.tables.empty()) {
      throw UsageError("--tables is for a table of results; these are runs");
    }
    return bsconv::plot::training_curves(flags.inputs);
  }
  if (tables > 1 || flags.inputs.size() > 1) {
    throw UsageError("a table of results is drawn alone; give one such file, or only runs");
  }
  return bsconv::plot::accuracy_by_cost(flags.inputs.front(),
                                        flags.tables.empty() ? "*" : flags.tables);
}

void plot(PlotFlags flags) {
  for (const auto& output : flags.outputs) {
    if (output.extension() != ".svg" && output.extension() != ".png") {
      throw UsageError("-o takes names that end in .svg or .png, got '" + output.native() + "'");
    }
  }
  if (flags.outputs.empty()) {
    const auto& first = flags.inputs.front();
    std::error_code error;
    const auto base = std::filesystem::is_directory(first, error)
                          ? first / "curves"
                          : std::filesystem::path(first).replace_extension();
    for (const auto* ending : {".svg", ".png"}) {
      flags.outputs.emplace_back(base.native() + ending);
    }
  }
  const bool any_png = std::any_of(flags.outputs.begin(), flags.outputs.end(),
                                   [](const auto& output) { return output.extension() == ".png"; });
  if (flags.scale > 0 && !any_png) {
    throw UsageError("--scale is for PNG files; -o names none");
  }
  auto figure = make_figure(flags);
  if (!flags.title.empty()) {
    figure.title = flags.title;
  }
  for (const auto& output : flags.outputs) {
    bsconv::plot::save_figure(output, figure, flags.scale > 0 ? flags.scale : 2);
    std::cout << "wrote '" << output.native() << "'\n";
  }
}

}  // namespace

void add_plot_command(CLI::App& app) {
  auto* command =
      app.add_subcommand("plot", "Draw the curves of runs, or a table of results, as SVG and PNG");
  const auto flags = std::make_shared<PlotFlags>();
  command
      ->add_option("runs", flags->inputs,
                   "Run folders or their metrics.csv; or one CSV of results (columns table, model, "
                   "accuracy_top1, params_M, flops_M)")
      ->required();
  command
      ->add_option("-o,--out", flags->outputs,
                   "A file to write, .svg or .png; may be given several times; default: curves.svg "
                   "and .png in the first run")
      ->allow_extra_args(false);
  command->add_option("--tables", flags->tables,
                      "Shell pattern of the tables of results to draw [*]");
  command->add_option("--title", flags->title, "Title above the panels");
  command->add_option("--scale", flags->scale, "Pixels of a PNG for each point of 1/72 inch [2]")
      ->transform(number(0.1, 20));
  command->callback([flags] { plot(*flags); });
}

}  // namespace bsconv_program
