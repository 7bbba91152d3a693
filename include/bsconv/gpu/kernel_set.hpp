// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/gpu/compiler.hpp>
#include <bsconv/gpu/operation.hpp>
#include <bsconv/gpu/runtime.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace bsconv::gpu {

/// The compiled kernels of one shape, by number; a number may have none.
class KernelSet {
 public:
  /// Compiles `kernels` for elements of `dtype`, unless `compiler` has them.
  KernelSet(std::shared_ptr<Compiler> compiler, std::vector<std::pair<KernelText, Grid>> kernels,
            torch::ScalarType dtype)
      : compiler_(std::move(compiler)) {
    for (auto& [text, grid] : kernels) {
      launches_.push_back({std::move(text), grid});
    }
    std::vector<Launch*> existing;
    for (auto& launch : launches_) {
      if (!launch.text.function.empty()) {
        existing.push_back(&launch);
      }
    }
    compiler_->compile(existing, dtype);
  }

  /// Blocks of kernel `number` in x, each of which may leave sums of its own.
  int64_t blocks(std::size_t number) const { return launches_[number].grid.blocks[0]; }

  /// Starts kernel `number`.
  void launch(std::size_t number, const std::vector<const void*>& arguments) const {
    const auto& own = launches_[number];
    compiler_->runtime().launch(own.kernel, own.grid, arguments);
  }

  /// Memory for floats on the device of `beside`.
  static torch::Tensor floats(const torch::Tensor& beside, at::IntArrayRef sizes) {
    return torch::empty(
        sizes,
        beside.options().dtype(torch::kFloat).memory_format(torch::MemoryFormat::Contiguous));
  }

 private:
  std::shared_ptr<Compiler> compiler_;
  std::vector<Launch> launches_;
};

/// What a device has for each shape and type of elements, made when it is first asked for. An
/// `Item` is made of a compiler, a shape and a type.
template <class Item>
class KernelLibrary {
 public:
  /// On the device of `compiler`.
  explicit KernelLibrary(std::shared_ptr<Compiler> compiler) : compiler_(std::move(compiler)) {}

  /// The item for `shape` and elements of `dtype`.
  template <class Shape>
  std::shared_ptr<const Item> get(const Shape& shape, torch::ScalarType dtype) {
    const auto key = shape.key() + element_name(dtype);
    const std::lock_guard lock(mutex_);
    auto& found = items_[key];
    if (found == nullptr) {
      found = std::make_shared<Item>(compiler_, shape, dtype);
    }
    return found;
  }

 private:
  std::shared_ptr<Compiler> compiler_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const Item>> items_;
};

}  // namespace bsconv::gpu
