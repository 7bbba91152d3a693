// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace bsconv::kernels {

/// Floats on a cache line's boundary, filled with zeros.
class AlignedFloats {
 public:
  AlignedFloats() = default;
  /// `count` zeros.
  explicit AlignedFloats(std::size_t count) : size_(count) {
    constexpr std::size_t line = 64;
    const std::size_t bytes = (count * sizeof(float) + line - 1) / line * line;
    auto* memory = static_cast<float*>(std::aligned_alloc(line, std::max(bytes, line)));
    if (memory == nullptr) {
      throw std::bad_alloc();
    }
    std::fill(memory, memory + bytes / sizeof(float), 0.0F);
    memory_.reset(memory);
  }

  /// The first.
  float* data() const { return memory_.get(); }
  /// How many there are.
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  std::unique_ptr<float[], Free> memory_;
  std::size_t size_ = 0;
};

}  // namespace bsconv::kernels
