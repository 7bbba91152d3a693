// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace bsconv_program {

/// A transformation that takes whole numbers from `least` to `most` and writes them as CLI11 reads
/// them. The message has the value and what is valid.
CLI::Validator whole_number(int64_t least, int64_t most = std::numeric_limits<int64_t>::max());

/// The same for numbers from `least` to `most`; none of them is NaN.
CLI::Validator number(double least, double most);

/// Adds `--threads`, which sets how many LibTorch computes with.
void add_threads_option(CLI::App& command);

/// What all options of all commands have in common: a text is not empty, as a shell makes it of a
/// variable that is not set; of a flag and its opposite, the one that is given last counts.
void check_all_options(CLI::App& app);

/// Throws a `UsageError` for `--name=` without a value, for which CLI11 would take the next
/// argument, and for a flag with one.
void check_assignments(CLI::App& app, const std::vector<std::string>& arguments);

}  // namespace bsconv_program
