// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn.h>
#include <torch/utils.h>
#include <bsconv/data.hpp>
#include <bsconv/nn.hpp>
#include <bsconv/train/trainer.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace train_trainer_test {
namespace {

using bsconv::data::Batch;
using bsconv::data::DataLoader;
using bsconv::data::LoaderOptions;
using bsconv::data::Split;
using bsconv::train::Checkpoint;
using bsconv::train::FitResult;
using bsconv::train::Trainer;
using bsconv::train::TrainOptions;
using bsconv_test::count_files;
using bsconv_test::error_of;
using bsconv_test::TemporaryDirectory;
using testing::ElementsAre;
using testing::HasSubstr;

torch::nn::Sequential make_net(int64_t channels = 6) {
  return torch::nn::Sequential(
      torch::nn::Conv2d(torch::nn::Conv2dOptions(3, channels, 5).stride(4)),
      torch::nn::BatchNorm2d(channels), torch::nn::ReLU(), torch::nn::Dropout(0.2),
      torch::nn::Flatten(), torch::nn::Linear(channels * 49, 10));
}

DataLoader train_loader(int64_t batch_size = 32) {
  return DataLoader(bsconv::data::digits(Split::train).subset(torch::arange(150)),
                    LoaderOptions()
                        .batch_size(batch_size)
                        .shuffle(true)
                        .seed(4)
                        .augmentation(bsconv::data::crop_and_flip(2, false)));
}

DataLoader test_loader() {
  return DataLoader(bsconv::data::digits(Split::test).subset(torch::arange(70)),
                    LoaderOptions().batch_size(32));
}

TrainOptions make_options(const std::filesystem::path& folder = {}) {
  return TrainOptions()
      .epochs(4)
      .learning_rate(0.05)
      .schedule({2})
      .batch_size(32)
      .seed(4)
      .output_dir(folder);
}

/// Says true once, at its nth question.
std::function<bool()> once_after(int64_t questions) {
  return [left = questions]() mutable { return --left == 0; };
}

class TrainTrainer : public testing::Test {
 protected:
  void SetUp() override {
    threads_ = torch::get_num_threads();
    torch::set_num_threads(1);
    torch::manual_seed(11);
  }
  void TearDown() override { torch::set_num_threads(threads_); }

  const TemporaryDirectory directory;

 private:
  int threads_ = 1;
};

TEST_F(TrainTrainer, LearnsAndWritesCheckpointsAndCsv) {
  Trainer trainer(make_net(), make_options(directory / "run").epochs(12).schedule({9}));
  const auto result = trainer.fit(train_loader(), test_loader());
  EXPECT_FALSE(result.interrupted);
  ASSERT_EQ(result.history.size(), 12U);
  EXPECT_LT(result.history.back().train.loss, 0.5 * result.history.front().train.loss);
  EXPECT_GT(result.best_accuracy, 0.6);
  EXPECT_DOUBLE_EQ(result.history[8].learning_rate, 0.05);
  EXPECT_DOUBLE_EQ(result.history[9].learning_rate, 0.005);
  double best = 0;
  for (const auto& row : result.history) {
    best = std::max(best, row.test.accuracy);
    EXPECT_EQ(row.best_accuracy, best);
    EXPECT_EQ(row.train.regularization, 0);
  }
  EXPECT_EQ(count_files(directory / "run"), 3);
  EXPECT_EQ(bsconv_test::read_file(directory / "run/metrics.csv"),
            bsconv::train::to_csv(result.history));
  const auto best_checkpoint = bsconv::train::load_checkpoint(directory / "run/best.safetensors");
  EXPECT_EQ(best_checkpoint.epoch, result.history.back().best_epoch);
  EXPECT_EQ(bsconv::train::load_checkpoint(directory / "run/last.safetensors").epoch, 12);
}

void expect_same(const Checkpoint& a, const Checkpoint& b) {
  EXPECT_EQ(a.epoch, b.epoch);
  EXPECT_EQ(a.step, b.step);
  const auto expect_equal = [](const auto& left, const auto& right) {
    ASSERT_EQ(left.keys(), right.keys());
    for (const auto& item : left) {
      EXPECT_TRUE(item.value().equal(right[item.key()])) << item.key();
    }
  };
  expect_equal(a.model, b.model);
  expect_equal(a.momentum, b.momentum);
  expect_equal(a.generators, b.generators);
  ASSERT_EQ(a.history.size(), b.history.size());
  for (std::size_t i = 0; i < a.history.size(); ++i) {
    EXPECT_EQ(a.history[i].train.loss, b.history[i].train.loss) << i;
    EXPECT_EQ(a.history[i].train.accuracy, b.history[i].train.accuracy) << i;
    EXPECT_EQ(a.history[i].test.loss, b.history[i].test.loss) << i;
  }
}

TEST_F(TrainTrainer, ResumesBitForBitWhereverItWasInterrupted) {
  const auto initial = bsconv::weights::clone_state_dict(bsconv::weights::state_dict(*make_net()));
  const auto start = [&](torch::nn::Sequential& net) {
    bsconv::weights::load_state_dict(*net, initial);
    torch::manual_seed(3);
  };
  auto whole_net = make_net();
  Trainer whole(whole_net, make_options());
  start(whole_net);
  EXPECT_FALSE(whole.fit(train_loader(), test_loader()).interrupted);

  // An epoch asks 5 times in training, 3 times in the test, and once at its end.
  for (const int64_t questions : {1, 3, 5, 6, 7, 8, 9, 12, 14, 30}) {
    SCOPED_TRACE(questions);
    const auto folder = directory / std::to_string(questions);
    auto first_net = make_net();
    Trainer first(first_net, make_options(folder));
    first.stop_when(once_after(questions));
    start(first_net);
    EXPECT_TRUE(first.fit(train_loader(), test_loader()).interrupted);

    torch::manual_seed(99);
    Trainer second(make_net(), make_options(folder).workers(2));
    second.resume_from(folder / "last.safetensors");
    const auto result = second.fit(train_loader(), test_loader());
    EXPECT_FALSE(result.interrupted);
    expect_same(whole.checkpoint(), second.checkpoint());
  }
}

TEST_F(TrainTrainer, ATestOfItsOwnIsNeverCutShort) {
  Trainer trainer(make_net(), make_options());
  const auto expected = trainer.evaluate(test_loader());
  trainer.stop_when([] { return true; });
  const auto found = trainer.evaluate(test_loader());
  EXPECT_EQ(found.loss, expected.loss);
  EXPECT_EQ(found.accuracy, expected.accuracy);
}

TEST_F(TrainTrainer, GoesOnBeyondTheLastEpochOfACheckpoint) {
  Trainer first(make_net(), make_options(directory.path()).epochs(1));
  first.fit(train_loader(), test_loader());
  Trainer second(make_net(), make_options(directory.path()).epochs(3));
  second.resume_from(directory / "last.safetensors");
  EXPECT_EQ(second.epoch(), 1);
  EXPECT_EQ(second.fit(train_loader(), test_loader()).history.size(), 3U);
  EXPECT_EQ(second.fit(train_loader(), test_loader()).history.size(), 3U);
}

/// The epoch of the checkpoint at `path`.
int64_t epoch_of(const std::filesystem::path& path) {
  return bsconv::train::load_checkpoint(path).epoch;
}

TEST_F(TrainTrainer, SetsABestCheckpointOfAnotherCourseAside) {
  const auto options = make_options(directory.path()).epochs(3).keep_checkpoints(3);
  Trainer first(make_net(), options);
  const auto best = first.fit(train_loader(), test_loader()).history.back().best_epoch;
  ASSERT_GT(best, 1);

  // The run's own, whose folder says so.
  Trainer same(make_net(), options);
  same.resume_from(directory / "last.safetensors");
  same.fit(train_loader(), test_loader());
  EXPECT_EQ(epoch_of(directory / "best.safetensors"), best);

  Trainer other(make_net(), make_options(directory.path()).epochs(2).keep_checkpoints(3));
  auto early = bsconv::train::load_checkpoint(directory / "epoch-0001.safetensors");
  early.history.back().best_accuracy = 1.0;
  const auto path = directory / "edited.safetensors";
  bsconv::train::save_checkpoint(path, early);
  other.resume_from(path);
  EXPECT_EQ(other.fit(train_loader(), test_loader()).history.back().best_epoch, 1);
  EXPECT_FALSE(std::filesystem::exists(directory / "best.safetensors"));
  const auto aside = "best-of-" + bsconv::train::numbered_checkpoint_name(best);
  EXPECT_EQ(epoch_of(directory / aside), best);
}

TEST_F(TrainTrainer, RefusesACheckpointOfAnotherModelAndNamesTheKeys) {
  Trainer small(make_net(6), make_options());
  small.info({"small", "digits", {}, 3});
  const auto checkpoint = small.checkpoint();
  auto net = make_net(7);
  net->push_back(torch::nn::Linear(10, 10));
  Trainer large(net, make_options());
  large.info({"large", "digits", {}, 3});
  const auto before = large.checkpoint();
  const auto message = error_of([&] { large.resume(checkpoint); });
  EXPECT_THAT(message, HasSubstr("cannot resume: the checkpoint is of 'small', the model is "
                                 "'large'; these tensors differ:\n"));
  EXPECT_THAT(message, HasSubstr("  missing: 6.weight\n"));
  EXPECT_THAT(message, HasSubstr("  wrong shape: 0.weight: the model has Float [7, 3, 5, 5], found "
                                 "Float [6, 3, 5, 5]\n"));
  expect_same(before, large.checkpoint());

  Trainer renamed(make_net(6), make_options());
  renamed.info({"renamed", "digits", {}, 3});
  EXPECT_THAT(error_of([&] { renamed.resume(checkpoint); }),
              HasSubstr("the checkpoint is of 'small', the model is 'renamed'"));
  renamed.info({"small", "cifar10", {}, 3});
  EXPECT_THAT(error_of([&] { renamed.resume(checkpoint); }),
              HasSubstr("was trained on 'digits', not on 'cifar10'"));
  auto named = checkpoint;
  named.info.class_names = {"a", "b"};
  small.info({"small", "digits", {"b", "a"}, 3});
  EXPECT_THAT(error_of([&] { small.resume(named); }),
              HasSubstr("cannot resume: in the checkpoint class 0 is 'a', not 'b'"));
}

TEST_F(TrainTrainer, RefusesATestThatIsSharded) {
  const DataLoader half(bsconv::data::digits(Split::test),
                        LoaderOptions().batch_size(32).shard({1, 2}));
  Trainer trainer(make_net(), make_options());
  EXPECT_THAT(error_of([&] { trainer.fit(train_loader(), half); }),
              HasSubstr("the test images are shard 1 of 2, but must be all of them"));
}

TEST_F(TrainTrainer, RefusesTextsThatNoCheckpointHoldsBeforeItTrains) {
  const auto folder = directory / "run";
  const auto error = [&](bsconv::train::RunInfo info) {
    Trainer trainer(make_net(), make_options(folder));
    trainer.info(std::move(info));
    return error_of([&] { trainer.fit(train_loader(), test_loader()); });
  };
  EXPECT_THAT(error({"net", "digits", {"caf\xe9"}, 3}),
              HasSubstr("the class 'caf\xe9' is not UTF-8, so no checkpoint can hold it"));
  EXPECT_THAT(error({"net", "digits", {"caf\u00e9"}, 3, {{"weights", "\xff"}}}),
              HasSubstr("weights '\xff' is not UTF-8"));
  EXPECT_FALSE(std::filesystem::exists(folder / "last.safetensors"));
}

TEST_F(TrainTrainer, RefusesToResumeMidEpochWithOtherBatches) {
  Trainer first(make_net(), make_options());
  first.stop_when(once_after(2));
  first.fit(train_loader(), test_loader());
  const auto checkpoint = first.checkpoint();
  EXPECT_EQ(checkpoint.step, 2);
  Trainer other(make_net(), make_options().batch_size(64));
  EXPECT_THAT(error_of([&] { other.resume(checkpoint); }),
              HasSubstr("the checkpoint has batch size 32 and seed 4, the trainer 64 and 4"));
  Trainer same(make_net(), make_options());
  same.resume(checkpoint);
  EXPECT_THAT(error_of([&] { same.fit(train_loader(150), test_loader()); }),
              HasSubstr("cannot resume after batch 2 of an epoch that has 1 batches"));
  // A refused training has not begun.
  EXPECT_EQ(same.checkpoint().steps, 5);
  EXPECT_FALSE(same.fit(train_loader(), test_loader()).interrupted);
}

TEST_F(TrainTrainer, ReplacesAnotherRunOnlyIfToldTo) {
  const auto options = make_options(directory.path()).epochs(3).keep_checkpoints(3);
  Trainer first(make_net(), options);
  EXPECT_EQ(first.fit(train_loader(), test_loader()).history.size(), 3U);
  const auto csv = bsconv_test::read_file(directory / "metrics.csv");
  // Its own.
  EXPECT_EQ(first.fit(train_loader(), test_loader()).history.size(), 3U);

  Trainer other(make_net(), options);
  EXPECT_THAT(
      error_of([&] { other.fit(train_loader(), test_loader()); }),
      HasSubstr("'" + directory.path().native() +
                "' holds a run; resume_from its last.safetensors, choose another output_dir, or "
                "set overwrite"));
  EXPECT_EQ(other.epoch(), 0);
  EXPECT_EQ(bsconv_test::read_file(directory / "metrics.csv"), csv);

  bsconv_test::write_file(directory / "best-of-epoch-0002.safetensors", "aside");
  bsconv_test::write_file(directory / "notes.txt", "mine");
  auto replacing = TrainOptions(options).overwrite(true).epochs(1);
  Trainer refused(make_net(), replacing);
  const DataLoader half(bsconv::data::digits(Split::test),
                        LoaderOptions().batch_size(32).shard({1, 2}));
  EXPECT_NE(error_of([&] { refused.fit(train_loader(), half); }), "no error");
  EXPECT_EQ(bsconv_test::read_file(directory / "metrics.csv"), csv);

  Trainer second(make_net(), replacing);
  // Once a batch is done, nothing of the other run is left.
  second.stop_when(once_after(1));
  EXPECT_TRUE(second.fit(train_loader(), test_loader()).interrupted);
  EXPECT_EQ(count_files(directory.path()), 2);
  EXPECT_TRUE(std::filesystem::exists(directory / "notes.txt"));
  EXPECT_TRUE(std::filesystem::exists(directory / "last.safetensors"));
  // What it wrote before its first epoch ended is its own, too.
  EXPECT_EQ(second.fit(train_loader(), test_loader()).history.size(), 1U);
}

TEST_F(TrainTrainer, GoesOnInItsOwnFolderWithinTheFirstEpoch) {
  Trainer trainer(make_net(), make_options(directory.path()).epochs(1));
  trainer.stop_when(once_after(2));
  EXPECT_TRUE(trainer.fit(train_loader(), test_loader()).interrupted);
  EXPECT_EQ(trainer.fit(train_loader(), test_loader()).history.size(), 1U);
}

TEST_F(TrainTrainer, RefusesADamagedCheckpointAndChangesNothing) {
  Trainer trainer(make_net(), make_options());
  const auto before = trainer.checkpoint();
  auto damaged = trainer.checkpoint();
  damaged.momentum.insert("0.weight", torch::zeros({1}));
  damaged.momentum.insert("nothing", torch::zeros({1}));
  const auto message = error_of([&] { trainer.resume(damaged); });
  EXPECT_THAT(message, HasSubstr("  does not fit: 0.weight: the parameter is Float [6, 3, 5, 5], "
                                 "the momentum Float [1]\n  unexpected: nothing\n"));
  damaged = trainer.checkpoint();
  damaged.generators["cpu"] = torch::zeros({3}, torch::kByte);
  EXPECT_NE(error_of([&] { trainer.resume(damaged); }), "no error");
  expect_same(before, trainer.checkpoint());
}

/// Passes a loader's batches on, one of them with an infinite pixel.
class BrokenSource : public bsconv::data::BatchSource {
 public:
  BrokenSource(int64_t epoch, int64_t index) : epoch_(epoch), index_(index) {}
  int64_t num_batches() const override { return loader_.num_batches(); }
  int64_t num_examples() const override { return loader_.num_examples(); }
  Batch get(int64_t epoch, int64_t index) const override {
    auto batch = loader_.get(epoch, index);
    if (epoch == epoch_ && index == index_) {
      batch.images.fill_(std::numeric_limits<float>::infinity());
    }
    return batch;
  }

 private:
  DataLoader loader_ = train_loader();
  int64_t epoch_;
  int64_t index_;
};

TEST_F(TrainTrainer, StopsAtALossThatIsNotFiniteAndNamesTheLastGoodCheckpoint) {
  Trainer trainer(make_net(), make_options(directory.path()));
  const auto last = directory / "last.safetensors";
  const auto message = error_of([&] { trainer.fit(BrokenSource(1, 2), test_loader()); });
  EXPECT_THAT(message, HasSubstr("the loss is not finite at step 3 of epoch 2: nan (cross entropy "
                                 "nan, regularization 0)"));
  EXPECT_THAT(message, HasSubstr("the last good checkpoint is '" + last.native() + "'"));
  const auto checkpoint = bsconv::train::load_checkpoint(last);
  EXPECT_EQ(checkpoint.epoch, 1);
  for (const auto& item : checkpoint.model) {
    EXPECT_TRUE(torch::isfinite(item.value()).all().item<bool>()) << item.key();
  }
  Trainer fresh(make_net(), make_options());
  EXPECT_THAT(error_of([&] { fresh.fit(BrokenSource(0, 0), test_loader()); }),
              HasSubstr("no checkpoint was written before"));
}

/// A test set with an image that cannot be read.
class UnreadableSource : public bsconv::data::BatchSource {
 public:
  int64_t num_batches() const override { return 1; }
  int64_t num_examples() const override { return 1; }
  Batch get(int64_t, int64_t) const override { throw std::runtime_error("an image is broken"); }
};

TEST_F(TrainTrainer, ATestThatFailsLosesNoTraining) {
  const auto options = make_options(directory.path()).epochs(1);
  Trainer trainer(make_net(), options);
  EXPECT_THROW(trainer.fit(train_loader(), UnreadableSource()), std::runtime_error);
  const auto saved = bsconv::train::load_checkpoint(directory / "last.safetensors");
  EXPECT_EQ(saved.epoch, 0);
  EXPECT_EQ(saved.step, train_loader().num_batches());
  Trainer again(make_net(), options);
  again.resume(saved);
  const auto result = again.fit(train_loader(), test_loader());
  ASSERT_EQ(result.history.size(), 1U);
  EXPECT_TRUE(result.history[0].tested());
}

TEST_F(TrainTrainer, ATestWhoseLossIsNotFiniteIsNeverTheBest) {
  Trainer trainer(make_net(), make_options(directory.path()).epochs(1));
  const auto result = trainer.fit(train_loader(), BrokenSource(0, 0));
  EXPECT_TRUE(result.history[0].tested());
  EXPECT_FALSE(std::isfinite(result.history[0].test.loss));
  EXPECT_EQ(result.history[0].best_epoch, 0);
  EXPECT_FALSE(std::filesystem::exists(directory / "best.safetensors"));
}

TEST_F(TrainTrainer, NeverSavesWeightsThatAreNotFinite) {
  auto net = make_net();
  Trainer trainer(net, make_options(directory.path()).epochs(1));
  trainer.stop_when([&net] {
    const torch::NoGradGuard no_grad;
    net->at<torch::nn::LinearImpl>(5).weight[0][0] = std::numeric_limits<float>::quiet_NaN();
    return true;
  });
  EXPECT_THAT(error_of([&] { trainer.fit(train_loader(), test_loader()); }),
              HasSubstr("'5.weight' is not finite after step 1 of epoch 1, which was not saved; no "
                        "checkpoint was written before"));
  EXPECT_EQ(count_files(directory.path()), 0);
}

TEST_F(TrainTrainer, FindsOutAtTheStartThatTheFolderCannotBeWritten) {
  bsconv_test::write_file(directory / "file", "");
  const auto fit = [&](const std::filesystem::path& folder) {
    auto net = make_net();
    const auto weight = net->at<torch::nn::LinearImpl>(5).weight;
    const auto before = weight.clone();
    Trainer trainer(net, make_options(folder));
    const auto message = error_of([&] { trainer.fit(train_loader(), test_loader()); });
    EXPECT_TRUE(weight.equal(before));
    return message;
  };
  EXPECT_THAT(fit(directory / "file"),
              HasSubstr("cannot make the output folder '" + (directory / "file").native() + "': "));
  EXPECT_THAT(fit("/proc/run"), HasSubstr("cannot make the output folder '/proc/run': "));
  EXPECT_THAT(fit("/proc"), HasSubstr("cannot write '/proc/last.safetensors': "));
}

TEST_F(TrainTrainer, AddsTheRegularizationLossInTrainingAndTest) {
  const auto make = [] {
    torch::manual_seed(2);
    return torch::nn::Sequential(bsconv::BSConvS(bsconv::BSConvSOptions(3, 8, 5).stride(4)),
                                 torch::nn::Flatten(), torch::nn::Linear(8 * 49, 10));
  };
  Trainer with(make(), make_options().alpha(0.5));
  Trainer without(make(), make_options().alpha(0.0));
  const auto batch = train_loader().get(0, 0);
  const auto first = with.train_step(batch).metrics();
  const auto second = without.train_step(batch).metrics();
  EXPECT_EQ(first.cross_entropy, second.cross_entropy);
  EXPECT_EQ(second.regularization, 0);
  EXPECT_GT(first.regularization, 0.1);
  EXPECT_NEAR(first.loss, first.cross_entropy + first.regularization, 1e-5);
  const auto tested = with.evaluate(test_loader());
  EXPECT_NEAR(tested.regularization, bsconv::regularization_loss(with.module(), 0.5).item<double>(),
              1e-6);
  EXPECT_NEAR(tested.loss, tested.cross_entropy + tested.regularization, 1e-5);
}

TEST_F(TrainTrainer, EvaluationPutsEveryModeBack) {
  auto net = make_net();
  net->ptr(1)->eval();
  Trainer trainer(net, make_options());
  const auto first = trainer.evaluate(test_loader());
  EXPECT_EQ(first.loss, trainer.evaluate(test_loader()).loss);
  EXPECT_TRUE(net->is_training());
  EXPECT_FALSE(net->ptr(1)->is_training());
  EXPECT_TRUE(net->ptr(3)->is_training());
}

TEST_F(TrainTrainer, TrainsAUsersModuleThroughAForwardFunction) {
  struct Own : torch::nn::Module {
    Own() { weight = register_parameter("weight", torch::zeros({10, 3072})); }
    torch::Tensor logits(const torch::Tensor& images) { return images.flatten(1).mm(weight.t()); }
    torch::Tensor weight;
  };
  const auto own = std::make_shared<Own>();
  Trainer trainer(
      own, [own](const torch::Tensor& images) { return own->logits(images); },
      make_options().learning_rate(0.001).epochs(2));
  const auto result = trainer.fit(train_loader(), test_loader());
  EXPECT_LT(result.history[1].train.loss, result.history[0].train.loss);
}

TEST_F(TrainTrainer, TrainsAUsersModuleInASharedPointer) {
  struct Own : torch::nn::Module {
    Own() { weight = register_parameter("weight", torch::zeros({10, 3072})); }
    torch::Tensor forward(const torch::Tensor& images) { return images.flatten(1).mm(weight.t()); }
    torch::Tensor weight;
  };
  const auto own = std::make_shared<Own>();
  Trainer trainer(own, make_options().learning_rate(0.001).epochs(2));
  const auto result = trainer.fit(train_loader(), test_loader());
  EXPECT_LT(result.history[1].train.loss, result.history[0].train.loss);
  EXPECT_EQ(&trainer.module(), own.get());
  const auto net = make_net();
  EXPECT_EQ(&Trainer(net.ptr()).module(), net.ptr().get());
  EXPECT_THAT(error_of([] { Trainer{std::shared_ptr<Own>()}; }), HasSubstr("needs a module"));
}

TEST_F(TrainTrainer, TellsObserversInOrder) {
  struct Recorder : bsconv::train::Observer {
    void on_pass_begin(const bsconv::train::Position& at) override {
      events.push_back(std::string("begin ") + to_string(at.split));
    }
    void on_step(const bsconv::train::Position& at,
                 const bsconv::train::MetricSums& sums) override {
      events.push_back(c10::str("step ", at.step, "/", at.steps, " ", sums.examples));
    }
    void on_pass_end(const bsconv::train::Position&, const bsconv::train::MetricSums&) override {
      events.emplace_back("end");
    }
    void on_epoch_end(const bsconv::train::EpochSummary& row) override {
      events.push_back("epoch " + std::to_string(row.epoch));
    }
    void on_checkpoint(const std::filesystem::path& path) override {
      events.push_back(path.filename().native());
    }
    std::vector<std::string> events;
  };
  const auto recorder = std::make_shared<Recorder>();
  Trainer trainer(make_net(), make_options(directory.path()).epochs(1));
  trainer.observe(recorder).fit(train_loader(100), test_loader());
  EXPECT_THAT(recorder->events,
              ElementsAre("begin train", "step 1/2 100", "step 2/2 150", "end", "begin test",
                          "step 1/3 32", "step 2/3 64", "step 3/3 70", "end", "best.safetensors",
                          "last.safetensors", "epoch 1"));
}

TEST_F(TrainTrainer, RefusesWhatItCannotTrain) {
  EXPECT_THAT(error_of([] { Trainer{torch::nn::Sequential(torch::nn::ReLU())}; }),
              HasSubstr("the model has no parameter that requires a gradient"));
  EXPECT_THAT(error_of([] { Trainer(make_net(), TrainOptions().momentum(2)); }),
              HasSubstr("momentum must lie in 0..1"));
  EXPECT_THAT(error_of([] { Trainer(nullptr, [](const torch::Tensor& x) { return x; }); }),
              HasSubstr("needs a module"));
  EXPECT_THAT(error_of([] { Trainer(make_net().ptr(), nullptr); }), HasSubstr("forward function"));
  EXPECT_THAT(error_of([] { Trainer(make_net()).observe(nullptr); }), HasSubstr("is null"));
  Trainer trainer(make_net());
  EXPECT_THAT(error_of([&] {
                trainer.train_step({torch::rand({2, 3, 32, 32}), torch::zeros({3}, torch::kLong)});
              }),
              HasSubstr("logits must be [N, classes] and labels [N], got [2, 10] and [3]"));
}

}  // namespace
}  // namespace train_trainer_test
