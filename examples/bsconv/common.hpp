// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/nn/layer.hpp>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/weights/state_dict.hpp>
#include <bsconv/weights/weight_file.hpp>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace bsconv_program {

/// What the program returns to the shell.
enum ExitCode : int { success = 0, failure = 1, usage = 2, interrupted = 130 };

/// A wrong argument; ends the program with `ExitCode::usage`.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Ends the program with `ExitCode::interrupted`.
class Interrupted : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// "cpu", "cuda" or "cuda:N" as a device that exists.
torch::Device parse_device(const std::string& text);

/// A model of the zoo; an unknown name is a `UsageError`.
bsconv::Layer make_model(const std::string& architecture, int64_t num_classes, int64_t in_channels);

/// The side of the square images that a model of the zoo takes.
int64_t input_size(const std::string& architecture);

/// The weight file that `path` stands for: the best checkpoint of a run's folder, and where there
/// is nothing at `path`, which then is the name of a trained model that comes with the library, its
/// file.
std::filesystem::path find_weight_file(const std::filesystem::path& path);

/// What the weight file that `path` stands for holds; of a checkpoint, only the model, with the
/// moving average of its weights where there is one. `key` tells where the tensors of a PyTorch
/// checkpoint are; for another file it is a `UsageError`.
bsconv::weights::WeightFile load_model_weights(const std::filesystem::path& path,
                                               const std::string& key = "");

/// Throws a `UsageError` if `key` is given and `file`, read from `path`, is none of PyTorch's.
void check_key(const std::string& key, const bsconv::weights::WeightFile& file,
               const std::filesystem::path& path);

/// Throws if `file`, read from `path`, is of a model that was changed beyond its name: then no
/// model of the zoo has these tensors.
void check_is_unchanged_model(const bsconv::weights::WeightFile& file,
                              const std::filesystem::path& path);

/// The model called `architecture` with the weights of `file`, read from `path`, in evaluation
/// mode.
bsconv::Layer make_model(const std::string& architecture, const bsconv::weights::WeightFile& file,
                         const std::filesystem::path& path);

/// Prints `json` as one line. Names in files, and of files, may be no UTF-8, which JSON is.
void print_json(const nlohmann::ordered_json& json);

/// `path` itself, or its `file_name` if it is a directory.
std::filesystem::path in_directory(const std::filesystem::path& path, const char* file_name);

}  // namespace bsconv_program
