// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "train_plan.hpp"

#include <bsconv/train/progress.hpp>

#include <algorithm>
#include <cstdint>
#include <iomanip>
#include <sstream>
#include <vector>

#include "timing.hpp"

namespace bsconv_program {
namespace {

using bsconv::data::BatchSource;

/// A source cut to its first batches.
class FirstBatches : public BatchSource {
 public:
  FirstBatches(const BatchSource& source, int64_t count)
      : source_(source), count_(std::min(count, source.num_batches())) {}
  int64_t num_batches() const override { return count_; }
  int64_t num_examples() const override { return source_.num_examples(); }
  bsconv::data::Shard shard() const override { return source_.shard(); }
  torch::Device device() const override { return source_.device(); }
  bsconv::data::Batch get(int64_t epoch, int64_t index) const override {
    return source_.get(epoch, index);
  }

 private:
  const BatchSource& source_;
  int64_t count_;
};

/// Median seconds of a training step, the making of its batch included.
double step_seconds(bsconv::train::Trainer& trainer, const BatchSource& training) {
  constexpr int64_t warmup = 1;
  constexpr int64_t timed = 5;
  std::vector<double> times;
  for (int64_t i = 0; i < warmup + timed; ++i) {
    const auto seconds =
        seconds_of([&] { trainer.train_step(training.get(0, i % training.num_batches())); },
                   trainer.options().device());
    if (i >= warmup) {
      times.push_back(seconds);
    }
  }
  std::nth_element(times.begin(), times.begin() + timed / 2, times.end());
  return times[timed / 2];
}

}  // namespace

std::string describe_plan(bsconv::train::Trainer& trainer, const BatchSource& training,
                          const BatchSource& test) {
  const auto& options = trainer.options();
  const int64_t steps = training.num_batches();
  const int64_t updates = (steps + options.accumulate() - 1) / options.accumulate();
  const int64_t epochs = std::max<int64_t>(options.epochs() - trainer.epoch(), 0);
  const int64_t tests =
      options.epochs() / options.eval_every() + (options.epochs() % options.eval_every() > 0);
  const double step = step_seconds(trainer, training);
  const FirstBatches sample(test, 3);
  const double test_batch = seconds_of([&] { trainer.evaluate(sample); }, options.device()) /
                            static_cast<double>(sample.num_batches());
  const double epoch_time = step * static_cast<double>(steps);
  const double test_time = test_batch * static_cast<double>(test.num_batches());
  const double total = epoch_time * static_cast<double>(epochs) +
                       test_time * static_cast<double>(options.epochs() > 0 ? tests : 0) *
                           static_cast<double>(epochs) /
                           static_cast<double>(std::max<int64_t>(options.epochs(), 1));

  std::ostringstream out;
  out << "steps          " << steps << " batches and " << updates
      << " steps of the optimizer an epoch, " << updates * epochs << " steps in " << epochs
      << " epochs\nlearning rate ";
  const auto rates = options.learning_rates();
  std::vector<int64_t> shown = {0, options.epochs() / 4, options.epochs() / 2,
                                options.epochs() * 3 / 4, options.epochs() - 1};
  shown.erase(std::unique(shown.begin(), shown.end()), shown.end());
  for (const int64_t epoch : shown) {
    if (epoch >= 0) {
      out << (epoch == shown.front() ? " " : ", ") << rates.at(epoch, 0, updates) << " (epoch "
          << epoch + 1 << ')';
    }
  }
  out << std::fixed << std::setprecision(1) << "\nexpected time  " << 1000 * step << " ms a step, "
      << bsconv::train::format_duration(epoch_time) << " an epoch, "
      << bsconv::train::format_duration(test_time) << " a test, "
      << bsconv::train::format_duration(total) << " in all\n";
  return out.str();
}

}  // namespace bsconv_program
