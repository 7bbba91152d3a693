// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/data/class_names.hpp>
#include <bsconv/data/prepared_image.hpp>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checks.hpp"
#include "commands.hpp"
#include "common.hpp"
#include "data_sets.hpp"
#include "trained_model.hpp"

namespace bsconv_program {
namespace {

struct PredictFlags {
  std::vector<std::filesystem::path> images;
  TrainedModelFlags trained;
  std::string dataset;
  std::string device = "cpu";
  int64_t top = 5;
  std::string format = "table";
};

/// What an image shows, the likeliest first.
struct Prediction {
  std::vector<std::string> names;
  /// From 0 to 1.
  std::vector<double> probabilities;
};

void print_table(const std::string& file, const Prediction& prediction) {
  std::cout << file << '\n';
  for (std::size_t rank = 0; rank < prediction.names.size(); ++rank) {
    std::cout << "  " << std::fixed << std::setprecision(2) << std::setw(6)
              << 100 * prediction.probabilities[rank] << " %  " << prediction.names[rank] << '\n';
  }
}

/// Prints one line.
void print_line(const std::string& file, const std::string& model, const Prediction& prediction) {
  nlohmann::ordered_json row = {{"image", file}, {"model", model}};
  auto& classes = row["classes"] = nlohmann::ordered_json::array();
  for (std::size_t rank = 0; rank < prediction.names.size(); ++rank) {
    classes.push_back(
        {{"name", prediction.names[rank]}, {"probability", prediction.probabilities[rank]}});
  }
  print_json(row);
}

/// Has the images prepared as those of `dataset`, whose classes give the names that the file of the
/// weights doesn't tell.
void use_data_set(TrainedModel& trained, const std::string& dataset) {
  auto& info = trained.info;
  info.dataset = dataset;
  const auto names = fixed_class_names(dataset);
  if (names.empty() || info.class_names != bsconv::data::numbered_class_names(info.num_classes())) {
    return;
  }
  TORCH_CHECK(names.size() == info.class_names.size(), "the model of '", trained.origin, "' has ",
              info.class_names.size(), " classes, ", dataset, " has ", names.size());
  info.class_names = names;
}

void predict(const PredictFlags& flags) {
  if (!flags.dataset.empty() && flags.trained.weights.empty()) {
    throw UsageError("--dataset is for --weights; a checkpoint and a trained model tell their own");
  }
  const auto device = parse_device(flags.device);
  auto trained = load_trained_model(flags.trained, device);
  if (!flags.dataset.empty()) {
    use_data_set(trained, flags.dataset);
  }
  const auto geometry = test_geometry(trained.info.dataset, trained.image_size);
  const auto channels = trained.info.in_channels;
  TORCH_CHECK(channels == 1 || channels == 3, "the model of '", trained.origin,
              "' takes images of ", channels, " channels; image files have 1 or 3");
  const int64_t top = std::min(flags.top, trained.info.num_classes());
  if (flags.format == "table") {
    std::cout << "model " << trained.origin << '\n';
  }
  const torch::NoGradGuard no_grad;
  for (const auto& file : flags.images) {
    auto image = bsconv::data::read_image(file, geometry).unsqueeze(0).to(device, torch::kFloat);
    if (channels == 1) {
      // ITU-R 601, as PIL and torchvision make gray of color.
      const auto weights = torch::tensor({0.299F, 0.587F, 0.114F}, image.options());
      image = (image * weights.view({3, 1, 1})).sum(1, /*keepdim=*/true);
    }
    const auto logits = trained.model->forward(image.div_(255));
    const auto [values, classes] = logits.softmax(1).squeeze(0).cpu().topk(top);
    Prediction prediction;
    for (int64_t rank = 0; rank < top; ++rank) {
      const auto label = static_cast<std::size_t>(classes[rank].item<int64_t>());
      prediction.names.push_back(trained.info.class_names.at(label));
      prediction.probabilities.push_back(values[rank].item<double>());
    }
    if (flags.format == "json") {
      print_line(file.native(), trained.origin, prediction);
    } else {
      print_table(file.native(), prediction);
    }
  }
}

}  // namespace

void add_predict_command(CLI::App& app) {
  auto* command = app.add_subcommand("predict", "Name what PNG, JPEG or PPM images show");
  const auto flags = std::make_shared<PredictFlags>();
  command->add_option("images", flags->images, "Image files")->required();
  add_trained_model_flags(*command, flags->trained);
  command
      ->add_option("--dataset", flags->dataset,
                   "With --weights: the data set as whose images these are prepared; default: what "
                   "the file tells")
      ->check(CLI::IsMember(dataset_names()));
  command->add_option("--top", flags->top, "How many classes to print for each image")
      ->transform(whole_number(1))
      ->capture_default_str();
  command->add_option("--device", flags->device, "cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--format", flags->format, "A table, or JSON with a line for each image")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  command->callback([flags] { predict(*flags); });
}

}  // namespace bsconv_program
