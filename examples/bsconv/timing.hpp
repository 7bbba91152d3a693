// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/cuda.h>
#include <torch/types.h>
#include <bsconv/kernels/table.hpp>
#include <bsconv/util/parallel.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace bsconv_program {

/// How long `call` takes, and what it starts on `device`.
inline double seconds_of(const std::function<void()>& call, torch::Device device = torch::kCPU) {
  const auto start = std::chrono::steady_clock::now();
  call();
  if (device.is_cuda()) {
    torch::cuda::synchronize(device.index());
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// One way to run a model, and the least time that it has taken.
struct Candidate {
  std::string name;
  std::function<void()> call;
  double best = std::numeric_limits<double>::infinity();
};

/// Takes turns, so that a slow moment of the machine meets all of them alike.
inline void time_in_turn(std::vector<Candidate>& candidates, double seconds) {
  for (auto& candidate : candidates) {
    candidate.call();
    candidate.call();
  }
  constexpr int turns = 5;
  for (int turn = 0; turn < turns; ++turn) {
    for (auto& candidate : candidates) {
      double spent = 0.0;
      do {
        const double taken = seconds_of(candidate.call);
        candidate.best = std::min(candidate.best, taken);
        spent += taken;
      } while (spent < seconds / turns);
    }
  }
}

/// Multiply-adds a second that the processor's threads can do at most.
inline double measured_peak(const bsconv::kernels::KernelTable& kernels, int threads) {
  // About a millisecond, beside which it costs little to start threads.
  constexpr int64_t rounds = 200'000;
  std::vector<float> sink(static_cast<std::size_t>(threads));
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 50; ++i) {
    best = std::min(best, seconds_of([&] {
                      bsconv::detail::parallel_for(threads, [&](int64_t begin, int64_t end) {
                        for (int64_t t = begin; t < end; ++t) {
                          sink[static_cast<std::size_t>(t)] = kernels.multiply_adds(rounds);
                        }
                      });
                    }));
  }
  return static_cast<double>(rounds * 16 * kernels.width * threads) / best;
}

}  // namespace bsconv_program
