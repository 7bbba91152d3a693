// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <bsconv/data/prepared_image.hpp>

#include <algorithm>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "commands.hpp"
#include "common.hpp"
#include "data_sets.hpp"
#include "trained_model.hpp"

namespace bsconv_program {
namespace {

struct PredictFlags {
  std::vector<std::filesystem::path> images;
  TrainedModelFlags trained;
  std::string device = "cpu";
  int64_t top = 5;
};

void predict(const PredictFlags& flags) {
  const auto device = parse_device(flags.device);
  auto trained = load_trained_model(flags.trained, device);
  const auto geometry = test_geometry(trained.info.dataset, input_size(trained.info.architecture));
  const auto channels = trained.info.in_channels;
  TORCH_CHECK(channels == 1 || channels == 3, "the model of '", trained.origin,
              "' takes images of ", channels, " channels; image files have 1 or 3");
  const int64_t top = std::min(flags.top, trained.info.num_classes());
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
    std::cout << file.native() << '\n';
    for (int64_t rank = 0; rank < top; ++rank) {
      const auto label = static_cast<std::size_t>(classes[rank].item<int64_t>());
      std::cout << "  " << std::fixed << std::setprecision(2) << std::setw(6)
                << 100 * values[rank].item<double>() << " %  " << trained.info.class_names.at(label)
                << '\n';
    }
  }
}

}  // namespace

void add_predict_command(CLI::App& app) {
  auto* command = app.add_subcommand("predict", "Name what PNG, JPEG or PPM images show");
  const auto flags = std::make_shared<PredictFlags>();
  command->add_option("images", flags->images, "Image files")->required();
  add_trained_model_flags(*command, flags->trained);
  command->add_option("--top", flags->top, "How many classes to print for each image")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--device", flags->device, "cpu, cuda or cuda:N")->capture_default_str();
  command->callback([flags] { predict(*flags); });
}

}  // namespace bsconv_program
