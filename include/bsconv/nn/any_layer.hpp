// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>
#include <bsconv/nn/tensor_module.hpp>

#include <memory>
#include <optional>
#include <utility>

namespace bsconv {

/// A module of any type that maps one tensor to one tensor.
///
/// What `torch::nn::AnyModule` is for any arguments, without boxing them at each call; it also
/// takes a fraction of the time to compile.
class AnyLayer {
 public:
  /// Holds `module`.
  template <class Impl>
  AnyLayer(const torch::nn::ModuleHolder<Impl>& module)  // NOLINT(google-explicit-constructor)
      : module_(module.ptr()), forward_(&call<Impl>) {}

  /// Holds `module`, as `std::make_shared<Net>()` returns it.
  template <detail::TensorModule Impl>
  AnyLayer(std::shared_ptr<Impl> module)  // NOLINT(google-explicit-constructor)
      : module_(std::move(module)), forward_(&call<Impl>) {
    TORCH_CHECK_VALUE(module_ != nullptr, "AnyLayer: the pointer to the module is null");
  }

  /// Holds `module`.
  AnyLayer(torch::nn::AnyModule module)  // NOLINT(google-explicit-constructor)
      : module_(module.ptr()), any_(std::move(module)) {}

  /// Maps `input` to the module's output.
  torch::Tensor forward(const torch::Tensor& input) {
    return forward_ != nullptr ? forward_(*module_, input) : any_.forward(input);
  }

  /// The module.
  const std::shared_ptr<torch::nn::Module>& ptr() const { return module_; }

  /// The same with a deep copy of the module, on `device` if it is given.
  AnyLayer clone(const std::optional<torch::Device>& device = std::nullopt) const {
    AnyLayer copy = *this;
    if (forward_ != nullptr) {
      copy.module_ = module_->clone(device);
    } else {
      copy.any_ = any_.clone(device);
      copy.module_ = copy.any_.ptr();
    }
    return copy;
  }

 private:
  template <class Impl>
  static torch::Tensor call(torch::nn::Module& module, const torch::Tensor& input) {
    return static_cast<Impl&>(module).forward(input);
  }

  std::shared_ptr<torch::nn::Module> module_;
  torch::Tensor (*forward_)(torch::nn::Module&, const torch::Tensor&) = nullptr;
  torch::nn::AnyModule any_;
};

}  // namespace bsconv
