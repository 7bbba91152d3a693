// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <torch/cuda.h>
#ifdef BSCONV_HAS_CUDA
#include <bsconv/cuda.hpp>
#endif
#include <bsconv/infer.hpp>
#include <bsconv/nn/convert.hpp>
#include <bsconv/util/text.hpp>
#include <bsconv/zoo.hpp>

#include <cstdint>
#include <iomanip>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench_training.hpp"
#include "checks.hpp"
#include "commands.hpp"
#include "common.hpp"
#include "timing.hpp"

namespace bsconv_program {

namespace {

struct BenchArguments {
  std::vector<std::string> names;
  int64_t batch = 1;
  int64_t classes = 0;
  std::string dtype = "f32";
  std::string device = "cpu";
  std::string format = "table";
  std::string kernels;
  double seconds = 1.5;
  bool steps = false;
  bool train = false;
};

void print_header(const BenchArguments& arguments, double peak, const std::string& kernels) {
  std::cout << "Batch " << arguments.batch << ", " << torch::get_num_threads()
            << " threads, kernels " << kernels;
  if (peak > 0) {
    std::cout << ", peak " << bsconv::detail::with_unit(peak) << " multiply-adds/s";
  }
  std::cout << ". Least milliseconds a batch:\n"
            << std::left << std::setw(36) << "model" << std::right << std::setw(10) << "eager"
            << std::setw(15) << "channels_last" << std::setw(10) << "fused" << std::setw(12)
            << "images/s" << std::setw(9) << "speedup" << std::setw(10) << "GMAC/s" << std::setw(8)
            << "share" << '\n';
}

const bsconv::kernels::KernelTable& kernels_for(const BenchArguments& arguments,
                                                torch::Device device) {
  try {
    return bsconv::kernels::find_kernels(
        arguments.kernels, device.is_cpu() ? parse_dtype(arguments.dtype) : torch::kFloat);
  } catch (const c10::Error& error) {
    throw UsageError(std::string("bench: ") + error.what_without_backtrace());
  }
}

void bench_model(const BenchArguments& arguments, const std::string& name, torch::Device device,
                 double peak) {
  const int64_t side = input_size(name);
  const int64_t classes = classes_or_default(arguments.classes, name);
  const auto dtype = parse_dtype(arguments.dtype);
  const auto make = [&](torch::Dtype type) {
    auto model = make_model(name, classes, 3);
    model->eval();
    model->to(device, type);
    return model;
  };
  auto model = make(dtype);
  auto last = make(dtype);
  bsconv::detail::use_channels_last(*last);
  const auto images = torch::randn({arguments.batch, 3, side, side}, device);
  // The plan rounds weights of 32 bits itself; LibTorch's operators run in the same type.
  const auto fast =
      bsconv::optimize(make(torch::kFloat), images,
                       bsconv::OptimizeOptions().kernels(arguments.kernels).dtype(dtype));
  const auto input = images.to(dtype);
  const auto input_last = input.contiguous(torch::MemoryFormat::ChannelsLast);
  const auto wait = [&] {
    if (device.is_cuda()) {
      torch::cuda::synchronize(device.index());
    }
  };
  std::vector<Candidate> candidates;
  candidates.push_back({"eager", [&] { model->forward(input), wait(); }});
  candidates.push_back({"eager_channels_last", [&] { last->forward(input_last), wait(); }});
  candidates.push_back({"fused", [&] { fast(images), wait(); }});
  time_in_turn(candidates, arguments.seconds);

  const double eager = candidates[0].best;
  const double fused = candidates[2].best;
  const auto rate = static_cast<double>(fast.report().multiply_adds()) / fused;
  if (arguments.format == "json") {
    nlohmann::ordered_json ms;
    for (const auto& candidate : candidates) {
      ms[candidate.name] = candidate.best * 1e3;
    }
    const nlohmann::ordered_json row = {{"model", name},
                                        {"batch", arguments.batch},
                                        {"threads", torch::get_num_threads()},
                                        {"device", device.str()},
                                        {"dtype", arguments.dtype},
                                        {"ms", ms},
                                        {"kernels", fast.report().kernels},
                                        {"fallbacks", fast.report().fallbacks()},
                                        {"eager", fast.report().eager},
                                        {"gmacs", rate * 1e-9},
                                        {"peak_share", peak > 0 ? rate / peak : 0.0}};
    print_json(row);
    std::cout << std::flush;
    return;
  }
  std::cout << std::left << std::setw(36) << name << std::right << std::fixed
            << std::setprecision(4) << std::setw(10) << eager * 1e3 << std::setw(15)
            << candidates[1].best * 1e3 << std::setw(10) << fused * 1e3 << std::setprecision(0)
            << std::setw(12) << static_cast<double>(arguments.batch) / fused << std::setprecision(2)
            << std::setw(9) << eager / fused << std::setprecision(1) << std::setw(10)
            << rate * 1e-9;
  if (peak > 0) {
    std::cout << std::setw(7) << 100.0 * rate / peak << "%";
  }
  std::cout << std::endl;
  if (!fast.report().eager.empty() || fast.report().fallbacks() != 0) {
    std::cout << fast.report();
  }
  if (arguments.steps) {
    std::cout << fast.profile(images);
  }
}

void run_bench(const BenchArguments& arguments) {
  const auto device = parse_device(arguments.device);
  if (arguments.steps && arguments.format == "json") {
    throw UsageError("bench: --steps is for --format table");
  }
  if (arguments.train) {
    if (arguments.dtype != "f32" || !arguments.kernels.empty() || arguments.steps) {
      throw UsageError(
          "bench: --train times steps in f32 on the fastest kernels; --dtype, "
          "--kernels and --steps are for inference");
    }
    bench_training({arguments.names, arguments.batch, arguments.classes, device,
                    arguments.format == "json", arguments.seconds});
    return;
  }
#ifndef BSCONV_HAS_CUDA
  if (!device.is_cpu()) {
    throw UsageError("bench: this build optimizes models for the CPU only; --device was " +
                     arguments.device + "; -DBSCONV_TORCH_CUDA=ON builds for GPUs too");
  }
#endif
  const torch::NoGradGuard no_grad;
  const auto& kernels = kernels_for(arguments, device);
  const double peak = device.is_cpu() ? measured_peak(kernels, torch::get_num_threads()) : 0.0;
  if (arguments.format == "table") {
    print_header(arguments, peak, device.is_cpu() ? kernels.name : device.str());
  }
  for (const auto& name : arguments.names) {
    bench_model(arguments, name, device, peak);
  }
}

}  // namespace

void add_bench_command(CLI::App& app) {
  auto* command = app.add_subcommand(
      "bench", "Time inference or, with --train, training: LibTorch's and this library's");
  const auto arguments = std::make_shared<BenchArguments>();
  command->add_option("names", arguments->names, "The models, such as cifar_resnet20_bsconvu")
      ->required();
  command->add_option("--batch", arguments->batch, "Images in a batch")
      ->transform(whole_number(1, 1 << 20))
      ->capture_default_str();
  add_threads_option(*command);
  command
      ->add_option("--classes", arguments->classes,
                   "The number of classes [100 for CIFAR models, else 1000]")
      ->transform(whole_number(1, 1 << 24));
  command
      ->add_option("--dtype", arguments->dtype,
                   "The type of the numbers; on the CPU f32, or bf16 with AVX512-BF16")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}))
      ->capture_default_str();
  command->add_option("--device", arguments->device, "cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--kernels", arguments->kernels,
                      "avx512, avx2 or baseline, neon on ARM [the fastest]");
  command->add_option("--seconds", arguments->seconds, "Time each way at least this long")
      ->transform(number(0.001, 3600))
      ->capture_default_str();
  command->add_option("--format", arguments->format, "The output's format")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  command->add_flag("--train", arguments->train,
                    "Time training steps instead: LibTorch's, and those on fused kernels");
  command->add_flag("--steps", arguments->steps, "Show the steps of the plan with their times");
  command->callback([arguments] { run_bench(*arguments); });
}

}  // namespace bsconv_program
