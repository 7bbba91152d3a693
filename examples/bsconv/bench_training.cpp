// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "bench_training.hpp"

#include <bsconv/autograd/fused_training.hpp>
#include <bsconv/profile.hpp>
#include <bsconv/train.hpp>
#include <bsconv/util/text.hpp>
#include <bsconv/zoo.hpp>

#include <cstdint>
#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common.hpp"
#include "record_steps.hpp"
#include "timing.hpp"

namespace bsconv_program {

namespace {

void print_header(const TrainingBench& bench, double peak) {
  std::cout << "Training, batch " << bench.batch << ", " << torch::get_num_threads()
            << " threads, device " << bench.device;
  if (peak > 0) {
    std::cout << ", peak " << bsconv::detail::with_unit(peak) << " multiply-adds/s";
  }
  std::cout << ". Most images a second:\n"
            << std::left << std::setw(36) << "model" << std::right << std::setw(10) << "eager"
            << std::setw(10) << "fused" << std::setw(9) << "speedup" << std::setw(11) << "eager MiB"
            << std::setw(11) << "fused MiB" << std::setw(10) << "GMAC/s" << std::setw(8) << "share"
            << '\n';
}

void bench_model(const TrainingBench& bench, const std::string& name, double peak) {
  const int64_t side = input_size(name);
  const int64_t classes = classes_or_default(bench.classes, name);
  auto model = make_model(name, classes, 3);
  const double multiply_adds = static_cast<double>(
      bsconv::profile(model, torch::zeros({1, 3, side, side})).flops() * bench.batch);
  const auto options = bsconv::train::TrainOptions().device(bench.device);
  bsconv::train::Trainer eager_trainer(model, options);
  bsconv::train::Trainer fused_trainer(make_model(name, classes, 3), options);
  record_steps(fused_trainer);
  const bsconv::data::Batch batch = {
      torch::rand({bench.batch, 3, side, side}, bench.device),
      torch::randint(0, classes, {bench.batch}, torch::dtype(torch::kLong).device(bench.device))};
  const auto step = [&](bool fused) {
    const bsconv::FusedTrainingGuard guard(fused);
    // Fetching the loss waits for the device.
    return (fused ? fused_trainer : eager_trainer).train_step(batch).loss.item<double>();
  };
  std::vector<Candidate> candidates = {{"eager", [&] { step(false); }},
                                       {"fused", [&] { step(true); }}};
  time_in_turn(candidates, bench.seconds);
  // A graph's memory on a GPU is not reported as that of single operators is.
  const auto mebibytes = [&](const Candidate& candidate, bsconv::train::Trainer& trainer) {
    if (!bench.device.is_cpu()) {
      return 0.0;
    }
    // Gradients count as a part of the step.
    trainer.module().zero_grad(/*set_to_none=*/true);
    return static_cast<double>(bsconv::peak_memory(candidate.call)) / (1 << 20);
  };
  const double eager_memory = mebibytes(candidates[0], eager_trainer);
  const double fused_memory = mebibytes(candidates[1], fused_trainer);
  const auto images = static_cast<double>(bench.batch);
  const double eager = images / candidates[0].best;
  const double fused = images / candidates[1].best;
  // A step takes three times the arithmetic of a forward pass: that of the gradients of the inputs
  // and of the weights is the same.
  const double rate = 3.0 * multiply_adds / candidates[1].best;
  if (bench.json) {
    nlohmann::ordered_json row = {{"model", name},
                                  {"batch", bench.batch},
                                  {"threads", torch::get_num_threads()},
                                  {"device", bench.device.str()},
                                  {"images_per_s", {{"eager", eager}, {"fused", fused}}},
                                  {"gmacs", rate * 1e-9},
                                  {"peak_share", peak > 0 ? rate / peak : 0.0}};
    if (bench.device.is_cpu()) {
      row["peak_mib"] = {{"eager", eager_memory}, {"fused", fused_memory}};
    }
    print_json(row);
    std::cout << std::flush;
    return;
  }
  std::cout << std::left << std::setw(36) << name << std::right << std::fixed
            << std::setprecision(0) << std::setw(10) << eager << std::setw(10) << fused
            << std::setprecision(2) << std::setw(9) << fused / eager << std::setprecision(0)
            << std::setw(11) << eager_memory << std::setw(11) << fused_memory
            << std::setprecision(1) << std::setw(10) << rate * 1e-9;
  if (peak > 0) {
    std::cout << std::setw(7) << 100.0 * rate / peak << "%";
  }
  std::cout << std::endl;
}

}  // namespace

void bench_training(const TrainingBench& bench) {
  const double peak = bench.device.is_cpu()
                          ? measured_peak(bsconv::kernels::find_kernels(), torch::get_num_threads())
                          : 0.0;
  try_out_algorithms(bench.device);
  if (!bench.json) {
    print_header(bench, peak);
  }
  for (const auto& name : bench.names) {
    bench_model(bench, name, peak);
  }
}

}  // namespace bsconv_program
