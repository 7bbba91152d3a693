// SPDX-License-Identifier: BSD-3-Clause-Clear
// What is left of a trained model once its convolutions are replaced: at once, after new statistics
// of its batch normalizations, and after some training.
//
//     replacement                                      a small network on the embedded digits
//     replacement CHECKPOINT DATA_ROOT EPOCHS ROW…     a run of `bsconv train` on CIFAR-100
//
// A row is variant/initialization/terms, where the terms may be chosen by a share of the variance:
// u/random/1  u/svd/1  u/data/1  u/data/2  u/data/90%  s/data/1
#include <bsconv/bsconv.hpp>
#include <bsconv/data.hpp>
#include <bsconv/train.hpp>

#include <cstdint>
#include <exception>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace {

using Batches = std::vector<torch::Tensor>;

struct Row {
  std::string variant;
  std::string initialization;
  std::string terms;
};

Row parse(const std::string& text) {
  Row row;
  std::istringstream parts(text);
  std::getline(parts, row.variant, '/');
  std::getline(parts, row.initialization, '/');
  std::getline(parts, row.terms);
  TORCH_CHECK((row.variant == "u" || row.variant == "s") && !row.terms.empty(), "'", text,
              "' is no row; an example is u/data/2");
  return row;
}

template <class Options>
Options with(Options options, const Row& row, const bsconv::Calibration& calibration) {
  options.initialization(row.initialization == "data"  ? bsconv::Initialization::data
                         : row.initialization == "svd" ? bsconv::Initialization::svd
                                                       : bsconv::Initialization::random);
  const double number = std::stod(row.terms);
  if (row.terms.back() == '%') {
    options.explained_variance(number / 100.0);
  } else {
    options.terms(static_cast<int64_t>(number));
  }
  return options.calibration(calibration);
}

bsconv::ReplacementReport replace(bsconv::Layer& model, const Row& row, const Batches& batches) {
  const auto calibration = bsconv::Calibration(model, batches).batch_norm_statistics(false);
  return row.variant == "u"
             ? bsconv::replace_with_bsconv_u(
                   model, with(bsconv::BSConvUReplacementOptions(), row, calibration))
             : bsconv::replace_with_bsconv_s(
                   model,
                   with(bsconv::BSConvSReplacementOptions().with_bn(true), row, calibration));
}

struct Task {
  std::function<bsconv::Layer()> load;
  const bsconv::data::DataLoader& training;
  const bsconv::data::DataLoader& test;
  Batches calibration;
};

double accuracy(bsconv::Layer& model, const Task& task) {
  const auto sums = bsconv::train::evaluate(
      *model, [&](const torch::Tensor& images) { return model->forward(images); }, task.test);
  return 100.0 * sums.mean().accuracy;
}

// Prints a line of the table; returns the last accuracy.
double measure(const Row& row, const Task& task, int64_t epochs) {
  torch::manual_seed(1);
  auto model = task.load();
  model->eval();
  const auto report = replace(model, row, task.calibration);
  std::cout << "| " << row.variant << " | " << row.initialization << " | " << row.terms << " | "
            << report.parameters_after << " | " << accuracy(model, task) << " | " << std::flush;
  bsconv::estimate_batch_norm_statistics(model, task.calibration);
  double last = accuracy(model, task);
  std::cout << last << " |" << std::flush;
  if (epochs > 0) {
    model->train();
    bsconv::train::Trainer trainer(
        model, bsconv::train::TrainOptions().epochs(epochs).learning_rate(0.1).schedule_type(
                   bsconv::train::ScheduleType::onecycle));
    last = 100.0 * trainer.fit(task.training, task.test).history.back().test.accuracy;
    std::cout << ' ' << last << " |";
  }
  std::cout << std::endl;
  return last;
}

Batches first_batches(const bsconv::data::DataLoader& loader, int64_t images) {
  Batches batches;
  for (int64_t index = 0; images > 0; ++index) {
    batches.push_back(loader.get(0, index).images.slice(0, 0, images));
    images -= batches.back().size(0);
  }
  return batches;
}

bsconv::Layer small_network() {
  const auto conv = [](int64_t in, int64_t out, int64_t stride) {
    return torch::nn::Conv2d(
        torch::nn::Conv2dOptions(in, out, 3).padding(1).stride(stride).bias(false));
  };
  bsconv::Chain net;
  net->push_back("conv1", conv(3, 16, 2)).push_back("bn1", torch::nn::BatchNorm2d(16));
  net->push_back("relu1", torch::nn::ReLU()).push_back("conv2", conv(16, 32, 2));
  net->push_back("bn2", torch::nn::BatchNorm2d(32)).push_back("relu2", torch::nn::ReLU());
  net->push_back("conv3", conv(32, 64, 2)).push_back("bn3", torch::nn::BatchNorm2d(64));
  net->push_back("relu3", torch::nn::ReLU()).push_back("pool", torch::nn::AdaptiveAvgPool2d(1));
  net->push_back("flatten", torch::nn::Flatten()).push_back("fc", torch::nn::Linear(64, 10));
  return net;
}

int digits() {
  const bsconv::data::DataLoader training(
      bsconv::data::digits(bsconv::data::Split::train),
      bsconv::data::LoaderOptions().batch_size(64).shuffle(true).seed(1));
  const bsconv::data::DataLoader test(bsconv::data::digits(bsconv::data::Split::test));
  torch::manual_seed(1);
  auto trained = small_network();
  bsconv::train::Trainer(trained, bsconv::train::TrainOptions().epochs(6).schedule({4}))
      .fit(training, test);
  const Task task{
      [&] { return bsconv::Layer(std::dynamic_pointer_cast<bsconv::LayerImpl>(trained->clone())); },
      training, test, first_batches(training, 512)};
  std::cout << "trained: " << accuracy(trained, task) << " %\n\n"
            << "| variant | initialization | terms | parameters | at once | new statistics |\n"
            << "| --- | --- | --- | --- | --- | --- |\n";
  const double random = measure(parse("u/random/1"), task, 0);
  measure(parse("u/svd/1"), task, 0);
  const double one = measure(parse("u/data/1"), task, 0);
  const double two = measure(parse("u/data/2"), task, 0);
  const bool kept = one > random + 20.0 && two > 90.0;
  std::cout << (kept ? "\nwhat was learned is kept\n" : "\nwhat was learned is lost\n");
  return kept ? 0 : 1;
}

int cifar100(const std::string& path, const std::string& root, int64_t epochs,
             const std::vector<std::string>& rows) {
  const auto checkpoint = bsconv::train::load_checkpoint(path);
  const bsconv::data::DataLoader training(
      bsconv::data::load_cifar100(root, bsconv::data::Split::train),
      bsconv::data::LoaderOptions().shuffle(true).augmentation(bsconv::data::crop_and_flip()));
  const bsconv::data::DataLoader test(bsconv::data::load_cifar100(root, bsconv::data::Split::test));
  const auto load = [&] {
    auto model =
        bsconv::create_model(checkpoint.info.architecture,
                             bsconv::ModelOptions().num_classes(checkpoint.info.num_classes()));
    bsconv::weights::load_state_dict(*model, checkpoint.model);
    return model;
  };
  const Task task{load, training, test, first_batches(training, 2048)};
  auto trained = load();
  std::cout << "trained: " << accuracy(trained, task) << " %, " << bsconv::parameter_count(*trained)
            << " parameters" << std::endl;
  for (const auto& row : rows) {
    measure(parse(row), task, epochs);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.empty()) {
    return digits();
  }
  TORCH_CHECK(arguments.size() > 3, "usage: replacement [CHECKPOINT DATA_ROOT EPOCHS ROW...]");
  return cifar100(arguments[0], arguments[1], std::stoll(arguments[2]),
                  {arguments.begin() + 3, arguments.end()});
} catch (const std::exception& error) {
  std::cerr << "replacement: " << error.what() << '\n';
  return 1;
}
