// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <CLI/CLI.hpp>

namespace bsconv_program {

/// `bsconv models [PATTERN]`
void add_models_command(CLI::App& app);
/// `bsconv profile NAME`
void add_profile_command(CLI::App& app);
/// `bsconv bench NAME…`
void add_bench_command(CLI::App& app);
/// `bsconv train`
void add_train_command(CLI::App& app);
/// `bsconv evaluate`
void add_evaluate_command(CLI::App& app);
/// `bsconv plot RUN…`
void add_plot_command(CLI::App& app);
/// `bsconv predict IMAGE…`
void add_predict_command(CLI::App& app);
/// `bsconv package --checkpoint RUN --out FOLDER`
void add_package_command(CLI::App& app);
/// `bsconv inspect FILE`
void add_inspect_command(CLI::App& app);
/// `bsconv convert FROM TO`
void add_convert_command(CLI::App& app);
/// `bsconv analyze NAME --weights FILE`
void add_analyze_command(CLI::App& app);
/// `bsconv replace NAME --weights FILE --by VARIANT --out FILE`
void add_replace_command(CLI::App& app);

}  // namespace bsconv_program
