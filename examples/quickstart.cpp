// SPDX-License-Identifier: BSD-3-Clause-Clear
// A model by name, its cost, a training on real images, and replacement in an existing network.
#include <torch/torch.h>
#include <bsconv/bsconv.hpp>
#include <bsconv/data.hpp>
#include <bsconv/train.hpp>

#include <iostream>
#include <memory>

namespace {

// A network as LibTorch users write them; nothing here knows of bsconv.
struct PlainNetImpl : torch::nn::Module {
  torch::nn::Conv2d conv1{torch::nn::Conv2dOptions(3, 32, 3).padding(1)};
  torch::nn::Conv2d conv2{torch::nn::Conv2dOptions(32, 64, 3).padding(1).stride(2)};
  torch::nn::Conv2d conv3{torch::nn::Conv2dOptions(64, 128, 3).padding(1).stride(2)};
  torch::nn::Linear fc{128, 10};

  PlainNetImpl() {
    register_module("conv1", conv1);
    register_module("conv2", conv2);
    register_module("conv3", conv3);
    register_module("fc", fc);
  }

  torch::Tensor forward(torch::Tensor x) {
    x = torch::relu(conv1(x));
    x = torch::relu(conv2(x));
    x = torch::relu(conv3(x));
    return fc(x.mean({2, 3}));
  }
};
TORCH_MODULE(PlainNet);

}  // namespace

int main() try {
  std::cout << "1. A model by name, and what it costs\n\n";
  torch::manual_seed(1);
  auto model =
      bsconv::create_model("cifar_resnet20_bsconvu", bsconv::ModelOptions().num_classes(10));
  const auto profile = bsconv::profile(model, torch::zeros({1, 3, 32, 32}));
  std::cout << bsconv::to_table(profile, bsconv::ProfileTableOptions().depth(2));

  std::cout << "\n2. Training on 1,438 handwritten digits, testing on 359 others\n\n";
  constexpr int64_t epochs = 12;
  const bsconv::data::DataLoader train_loader(
      bsconv::data::digits(bsconv::data::Split::train),
      bsconv::data::LoaderOptions().batch_size(64).shuffle(true).seed(1));
  const bsconv::data::DataLoader test_loader(bsconv::data::digits(bsconv::data::Split::test));
  bsconv::train::Trainer trainer(model,
                                 bsconv::train::TrainOptions().epochs(epochs).schedule({8, 10}));
  trainer.observe(std::make_shared<bsconv::train::Progress>(
      std::cout, bsconv::train::default_progress_style(), /*interval=*/1000));
  const auto result = trainer.fit(train_loader, test_loader);
  std::cout << "test accuracy: " << 100.0 * result.best_accuracy << " %\n";

  std::cout << "\n3. Replacing the convolutions of an existing network\n\n";
  PlainNet net;
  std::cout << bsconv::replace_with_bsconv_u(net);
  std::cout << "output: " << net->forward(torch::zeros({1, 3, 32, 32})).sizes() << '\n';
  return result.best_accuracy >= 0.97 ? 0 : 1;
} catch (const std::exception& error) {
  std::cerr << "quickstart: " << error.what() << '\n';
  return 1;
}
