// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/nn/layer.hpp>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/weights/state_dict.hpp>
#include <bsconv/weights/weight_file.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
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

/// The type called "f32", "bf16" or "f16".
torch::Dtype parse_dtype(const std::string& name);

/// A model of the zoo; an unknown name is a `UsageError`.
bsconv::Layer make_model(const std::string& architecture, int64_t num_classes, int64_t in_channels);

/// The side of the square images that a model of the zoo takes.
int64_t input_size(const std::string& architecture);

/// The side of the largest images.
inline constexpr int64_t max_image_size = 8192;

/// The side of the square images that a model of the zoo was trained on: what `settings`, those of
/// its training, have as `image_size`, otherwise `input_size`.
int64_t image_size(const std::string& architecture,
                   const std::map<std::string, std::string>& settings);

/// `classes`, or if that is 0 the number of the published tables: 100 for the CIFAR models, 1000
/// for the others.
int64_t classes_or_default(int64_t classes, const std::string& architecture);

/// The checkpoint at `path`. A file of weights alone is a `UsageError` that says which flag takes
/// it.
bsconv::train::Checkpoint read_checkpoint(const std::filesystem::path& path);

/// Throws unless `info`, of the checkpoint at `path`, tells the architecture and the classes.
void check_is_described(const bsconv::train::RunInfo& info, const std::filesystem::path& path);

/// The weight file that `path` stands for: the best checkpoint of a run's folder, and where there
/// is nothing at `path`, which then is the name of a trained model that comes with the library, its
/// file.
std::filesystem::path find_weight_file(const std::filesystem::path& path);

/// What a weight file tells of a model that was trained so, as far as it is known: `architecture`,
/// `dataset`, `class_names` (a JSON list), and `image_size` if it is not the architecture's own.
std::map<std::string, std::string> metadata_of(const bsconv::train::RunInfo& info);

/// What the weight file that `path` stands for holds; of a checkpoint or a trained model, the
/// weights, of which there may be a moving average, and `metadata_of` it. `key` tells where the
/// tensors of a PyTorch checkpoint are; for another file it is a `UsageError`.
bsconv::weights::WeightFile load_model_weights(const std::filesystem::path& path,
                                               const std::string& key = "");

/// Throws a `UsageError` if `key` is given and `file`, read from `path`, is none of PyTorch's.
void check_key(const std::string& key, const bsconv::weights::WeightFile& file,
               const std::filesystem::path& path);

/// The names of the classes that the metadata of `file`, read from `path`, tells; empty if it tells
/// none. Throws if they are not as many as the classifier has.
std::vector<std::string> class_names_of(const bsconv::weights::WeightFile& file,
                                        const std::filesystem::path& path);

/// Throws if `file`, read from `path`, is of a model that was changed beyond its name: then no
/// model of the zoo has these tensors.
void check_is_unchanged_model(const bsconv::weights::WeightFile& file,
                              const std::filesystem::path& path);

/// Copies `weights` into `model`; floating-point numbers of another type become the model's.
/// Returns what was done to them, such as "converted from float16 to float32", or nothing.
std::string load_converted(torch::nn::Module& model, const bsconv::weights::StateDict& weights);

/// The model called `architecture` with the weights of `file`, read from `path`, in evaluation
/// mode. If numbers had to be converted, standard error says so.
bsconv::Layer make_model(const std::string& architecture, const bsconv::weights::WeightFile& file,
                         const std::filesystem::path& path);

/// Prints `json` as one line. Names in files, and of files, may be no UTF-8, which JSON is.
void print_json(const nlohmann::ordered_json& json);

/// `path` itself, or its `file_name` if it is a directory.
std::filesystem::path in_directory(const std::filesystem::path& path, const char* file_name);

}  // namespace bsconv_program
