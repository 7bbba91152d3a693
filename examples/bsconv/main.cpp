// SPDX-License-Identifier: BSD-3-Clause-Clear
// The command-line program: models by name, their cost, training, evaluation, prediction.
#include <c10/util/Exception.h>
#include <torch/version.h>
#include <bsconv/version.hpp>

#include <algorithm>
#include <exception>
#include <iostream>
#include <limits>
#include <string>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "checks.hpp"
#include "commands.hpp"
#include "common.hpp"

namespace {

// Every step of training and every batch needs the same memory again. The C library gives large
// blocks back to the system at once and gets them anew, page by page, which takes a quarter of the
// time of a small network; here it keeps them.
void keep_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
}

}  // namespace

int main(int argc, char** argv) {
  keep_memory();
  using bsconv_program::ExitCode;
  CLI::App app{"Blueprint separable convolutions: models, their cost, training and use", "bsconv"};
  app.footer(
      "Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 interrupted after writing a "
      "checkpoint.");
  app.set_version_flag("--version",
                       std::string("bsconv ") + bsconv::version + " on LibTorch " + TORCH_VERSION);
  bsconv_program::add_models_command(app);
  bsconv_program::add_profile_command(app);
  bsconv_program::add_bench_command(app);
  bsconv_program::add_train_command(app);
  bsconv_program::add_evaluate_command(app);
  bsconv_program::add_plot_command(app);
  bsconv_program::add_predict_command(app);
  bsconv_program::add_package_command(app);
  bsconv_program::add_inspect_command(app);
  bsconv_program::add_convert_command(app);
  bsconv_program::add_analyze_command(app);
  bsconv_program::add_replace_command(app);
  bsconv_program::check_all_options(app);
  // A second command's name is an argument of the first.
  app.require_subcommand(0, 1);
  try {
    bsconv_program::check_assignments(app, {argv + std::min(argc, 1), argv + argc});
    app.parse(argc, argv);
    if (app.get_subcommands().empty()) {
      std::cerr << "bsconv: a command is required\n" << app.help();
      return ExitCode::usage;
    }
    if (!std::cout.flush()) {
      std::cerr << "bsconv: cannot write to standard output\n";
      return ExitCode::failure;
    }
    return ExitCode::success;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? ExitCode::success : ExitCode::usage;
  } catch (const bsconv_program::UsageError& error) {
    std::cerr << "bsconv: " << error.what() << '\n';
    return ExitCode::usage;
  } catch (const bsconv_program::Interrupted& error) {
    std::cerr << "bsconv: " << error.what() << '\n';
    return ExitCode::interrupted;
  } catch (const c10::Error& error) {
    std::cerr << "bsconv: " << error.what_without_backtrace() << '\n';
    return ExitCode::failure;
  } catch (const std::exception& error) {
    std::cerr << "bsconv: " << error.what() << '\n';
    return ExitCode::failure;
  }
}
