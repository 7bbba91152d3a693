// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn.h>
#include <torch/utils.h>
#include <bsconv/data/dataset.hpp>
#include <bsconv/data/digits.hpp>
#include <bsconv/data/loader.hpp>
#include <bsconv/train/distillation.hpp>
#include <bsconv/train/loss.hpp>
#include <bsconv/train/trainer.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "test_files.hpp"

namespace train_distillation_test {
namespace {

using bsconv::data::DataLoader;
using bsconv::data::LoaderOptions;
using bsconv::data::Split;
using bsconv::train::Distillation;
using bsconv::train::distillation_loss;
using bsconv::train::Trainer;
using bsconv::train::TrainOptions;
using bsconv_test::error_of;
using testing::HasSubstr;

/// The definition, number by number in double precision.
double loss_by_definition(const torch::Tensor& student, const torch::Tensor& teacher,
                          double temperature) {
  const auto probabilities = [temperature](const torch::Tensor& logits) {
    std::vector<double> result;
    double sum = 0;
    for (int64_t i = 0; i < logits.size(0); ++i) {
      result.push_back(std::exp(logits[i].item<double>() / temperature));
      sum += result.back();
    }
    for (auto& value : result) {
      value /= sum;
    }
    return result;
  };
  double loss = 0;
  for (int64_t n = 0; n < student.size(0); ++n) {
    const auto p = probabilities(teacher[n]);
    const auto q = probabilities(student[n]);
    for (std::size_t i = 0; i < p.size(); ++i) {
      loss += p[i] * std::log(p[i] / q[i]);
    }
  }
  return temperature * temperature * loss / static_cast<double>(student.size(0));
}

TEST(TrainDistillation, LossIsTheDivergenceOfTheSofterProbabilities) {
  torch::manual_seed(1);
  for (const int64_t images : {1, 5}) {
    for (const double temperature : {0.5, 1.0, 4.0, 20.0}) {
      const auto student = 3 * torch::randn({images, 7});
      const auto teacher = 3 * torch::randn({images, 7});
      const auto found =
          distillation_loss(student, Distillation(teacher).temperature(temperature)).item<double>();
      const double expected = loss_by_definition(student, teacher, temperature);
      EXPECT_NEAR(found, expected, 1e-4 * expected) << images << ", " << temperature;
      EXPECT_NEAR(
          distillation_loss(student, Distillation(student).temperature(temperature)).item<double>(),
          0, 1e-5);
    }
  }
}

TEST(TrainDistillation, GradientIsTheDifferenceOfProbabilitiesTimesTheTemperature) {
  torch::manual_seed(2);
  const auto student = torch::randn({4, 6}).requires_grad_();
  const auto teacher = torch::randn({4, 6}).requires_grad_();
  distillation_loss(student, Distillation(teacher).temperature(3)).backward();
  const auto expected = 3 * ((student / 3).softmax(1) - (teacher / 3).softmax(1)).detach() / 4;
  EXPECT_TRUE(torch::allclose(student.grad(), expected, 1e-4, 1e-7));
  EXPECT_FALSE(teacher.grad().defined());
}

TEST(TrainDistillation, SharesTheLossWithTheLabels) {
  torch::manual_seed(3);
  const torch::nn::Linear none(1, 1);
  const auto student = torch::randn({4, 6});
  const auto teacher = Distillation(torch::randn({4, 6})).weight(0.3);
  const auto labels = torch::tensor({0, 5, 2, 2});
  const auto alone = bsconv::train::classification_loss(*none, student, labels, 0.1);
  const auto both = bsconv::train::classification_loss(*none, student, labels, 0.1, 0, {}, teacher);
  EXPECT_NEAR(
      both.loss.item<double>(),
      0.7 * alone.loss.item<double>() + 0.3 * distillation_loss(student, teacher).item<double>(),
      1e-6);
  EXPECT_EQ(both.cross_entropy.item<double>(), alone.cross_entropy.item<double>());
  EXPECT_FLOAT_EQ(both.distillation.item<float>(),
                  distillation_loss(student, teacher).item<float>());
  EXPECT_FALSE(both.distillation.requires_grad());
  EXPECT_FALSE(alone.distillation.defined());
  EXPECT_EQ(both.correct.item<int64_t>(), alone.correct.item<int64_t>());
}

TEST(TrainDistillation, Errors) {
  const auto logits = torch::zeros({4, 6});
  EXPECT_THAT(error_of([&] {
                distillation_loss(logits, Distillation(torch::zeros({4, 5})));
              }),
              HasSubstr("the teacher's logits must be [N, classes] as the model's, [4, 6], got "
                        "[4, 5]"));
  EXPECT_THAT(error_of([&] { distillation_loss(logits, Distillation()); }), HasSubstr("got []"));
  EXPECT_THAT(error_of([&] { distillation_loss(logits, Distillation(logits).temperature(0)); }),
              HasSubstr("the temperature of a distillation must be above 0, got 0"));
  EXPECT_THAT(error_of([] { TrainOptions().distillation_weight(1.5).check(); }),
              HasSubstr("distillation_weight must lie in 0..1, got 1.5"));
  EXPECT_THAT(error_of([] { TrainOptions().distillation_temperature(0).check(); }),
              HasSubstr("distillation_temperature must be a number above 0, got 0"));
  EXPECT_THAT(error_of([] { Trainer(torch::nn::Sequential(torch::nn::Linear(1, 1))).teacher({}); }),
              HasSubstr("the teacher is empty"));
}

torch::nn::Sequential small_net(uint64_t seed) {
  torch::manual_seed(seed);
  return torch::nn::Sequential(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 5).stride(4)),
                               torch::nn::BatchNorm2d(8), torch::nn::ReLU(), torch::nn::Flatten(),
                               torch::nn::Linear(8 * 49, 10));
}

TEST(TrainDistillation, AStudentThatHearsTheTeacherAloneLearnsInSpiteOfWrongLabels) {
  const DataLoader right(bsconv::data::digits(Split::train),
                         LoaderOptions().batch_size(64).shuffle(true).seed(1));
  const DataLoader test(bsconv::data::digits(Split::test), LoaderOptions().batch_size(128));
  const auto digits = bsconv::data::digits(Split::train);
  const DataLoader wrong(
      bsconv::data::ImageDataset(digits.images(), (digits.labels() + 1) % 10, digits.class_names()),
      LoaderOptions().batch_size(64).shuffle(true).seed(1));
  const auto options = TrainOptions().epochs(8).learning_rate(0.05).batch_size(64);

  auto net = small_net(1);
  const auto taught = Trainer(net, options).fit(right, test).best_accuracy;
  ASSERT_GT(taught, 0.9);
  net->eval();
  const auto teacher = [net](const torch::Tensor& images) mutable { return net->forward(images); };
  const auto accuracy = [&](double weight) {
    Trainer trainer(small_net(2), TrainOptions(options).distillation_weight(weight));
    trainer.teacher(teacher);
    return trainer.fit(wrong, test).best_accuracy;
  };
  EXPECT_GT(accuracy(1), taught - 0.05);
  EXPECT_LT(accuracy(0), 0.2);
}

}  // namespace
}  // namespace train_distillation_test
