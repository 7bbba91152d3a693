// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <bsconv/util/text.hpp>

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <sstream>
#include <string>
#include <vector>

namespace bsconv {

/// One step of an optimized model.
struct InferenceStep {
  /// What it does, such as "convolution 1x1 -> depthwise 3x3 + relu".
  std::string description;
  /// The shape of its result in the planned run.
  std::vector<int64_t> shape;
  /// Its multiply-adds for the whole batch; 0 for what has none or LibTorch runs.
  int64_t multiply_adds = 0;
  /// The least seconds it took for one image on one thread, if it was timed.
  double seconds = 0.0;
  /// Why LibTorch runs it; empty for a step of ours.
  std::string reason;
};

/// What `optimize` made of a model for one shape of input.
struct InferenceReport {
  /// The shape of the input.
  std::vector<int64_t> input;
  /// The kernels: "avx512", "avx2", "baseline" or "neon", or a GPU and the type of its numbers.
  std::string kernels;
  /// The steps in order.
  std::vector<InferenceStep> steps;
  /// Why the whole model runs through LibTorch; empty if it doesn't.
  std::string eager;
  /// Bytes of memory for the activations of one image.
  std::size_t arena_bytes = 0;

  /// The steps that LibTorch runs.
  std::size_t fallbacks() const {
    std::size_t count = 0;
    for (const auto& step : steps) {
      count += step.reason.empty() ? 0 : 1;
    }
    return count;
  }

  /// Multiply-adds of our steps.
  int64_t multiply_adds() const {
    int64_t sum = 0;
    for (const auto& step : steps) {
      sum += step.multiply_adds;
    }
    return sum;
  }

  /// The report as text: a line a step, and what runs through LibTorch with the reason.
  std::string to_string() const {
    std::ostringstream text;
    text << "Input " << shape_text(input) << ", kernels " << kernels << '\n';
    if (!eager.empty()) {
      text << "Runs through LibTorch: " << eager << '\n';
      return text.str();
    }
    for (const auto& step : steps) {
      text << "  " << step.description << " -> " << shape_text(step.shape);
      if (step.multiply_adds != 0) {
        text << ", " << detail::with_unit(static_cast<double>(step.multiply_adds))
             << " multiply-adds";
      }
      if (step.seconds > 0.0) {
        const int64_t images = input.empty() ? 1 : input[0];
        text << ", " << detail::fixed(step.seconds * 1e6, 1) << " us an image, "
             << detail::fixed(static_cast<double>(step.multiply_adds) /
                                  static_cast<double>(images) / step.seconds * 1e-9,
                              1)
             << " G/s";
      }
      if (!step.reason.empty()) {
        text << ", through LibTorch: " << step.reason;
      }
      text << '\n';
    }
    text << steps.size() << " steps, " << fallbacks() << " through LibTorch; "
         << detail::with_unit(static_cast<double>(multiply_adds())) << " multiply-adds; "
         << detail::with_unit(static_cast<double>(arena_bytes)) << "B of activations an image\n";
    return text.str();
  }

 private:
  static std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) {
      text += (i == 0 ? "" : ", ");
      text += std::to_string(shape[i]);
    }
    text += "]";
    return text;
  }
};

/// Prints the report.
inline std::ostream& operator<<(std::ostream& stream, const InferenceReport& report) {
  return stream << report.to_string();
}

}  // namespace bsconv
