// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

namespace bsconv {

/// A module that maps one tensor to one tensor through a virtual `forward`.
///
/// `torch::nn::Module` has no `forward`, so a model whose concrete type is only known at run time
/// (one created by name, say) can't be called through it. Derive from `LayerImpl` to hand such a
/// model around as `Layer`.
class LayerImpl : public torch::nn::Module {
 public:
  using torch::nn::Module::Module;

  /// Maps `input` to the layer's output. Shapes are the concrete layer's.
  virtual torch::Tensor forward(const torch::Tensor& input) = 0;
};

/// A `ModuleHolder` for any `LayerImpl`: what `create_model` returns.
///
/// Unlike the holder of a concrete module it takes holders and pointers of derived layers.
class Layer : public torch::nn::ModuleHolder<LayerImpl> {
 public:
  /// The module type, as every holder names it.
  using Impl = LayerImpl;

  /// An empty holder.
  Layer(std::nullptr_t) : ModuleHolder(nullptr) {}  // NOLINT(google-explicit-constructor)

  /// A holder of `layer`.
  template <class Derived, class = std::enable_if_t<std::is_base_of_v<LayerImpl, Derived>>>
  Layer(std::shared_ptr<Derived> layer)  // NOLINT(google-explicit-constructor)
      : ModuleHolder(std::shared_ptr<LayerImpl>(std::move(layer))) {}

  /// A holder of what `layer` holds.
  template <class Derived, class = std::enable_if_t<std::is_base_of_v<LayerImpl, Derived>>>
  Layer(const torch::nn::ModuleHolder<Derived>& layer)  // NOLINT(google-explicit-constructor)
      : ModuleHolder(std::shared_ptr<LayerImpl>(layer.ptr())) {}
};

}  // namespace bsconv
