// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/container/any.h>
#include <torch/types.h>
#include <bsconv/nn/any_layer.hpp>
#include <bsconv/nn/call_observer.hpp>
#include <bsconv/nn/fused_run.hpp>
#include <bsconv/nn/layer.hpp>
#include <bsconv/nn/mode_of_children.hpp>
#include <bsconv/nn/output_layout.hpp>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

namespace bsconv {

/// A module whose children may be exchanged for modules of other types.
///
/// The replacers look for this interface; derive from it where a module of yours can take
/// replacements that its members' types don't allow for.
class ChildHost {
 public:
  /// Deriving modules are destroyed through their own type.
  virtual ~ChildHost() = default;

  /// Whether `replace_child` takes `name`.
  virtual bool holds_child(const std::string& name) const = 0;

  /// Puts `module` (one tensor to one tensor) in the place of the child `name`, in the registry
  /// and in `forward`. Throws if there is no such child.
  virtual void replace_child(const std::string& name, const torch::nn::AnyModule& module) = 0;
};

/// What `Composite` has that does not depend on the deriving class.
class CompositeBase : public LayerImpl, public ChildHost {
 public:
  using LayerImpl::LayerImpl;

  /// Whether `name` was given to `add`.
  bool holds_child(const std::string& name) const override {
    return std::any_of(slots_.begin(), slots_.end(),
                       [&name](const Slot& slot) { return slot.name == name; });
  }

  /// Puts `module` in the place of the child `name`; throws if there is none.
  void replace_child(const std::string& name, const torch::nn::AnyModule& module) override {
    for (auto& slot : slots_) {
      if (slot.name == name) {
        slot.layer = module;
        replace_module(name, slot.layer.ptr());
        return;
      }
    }
    TORCH_CHECK(false, this->name(), " has no child '", name, "'");
  }

 protected:
  /// A handle of a child; empty unless it came from `add`.
  class Child {
   public:
    Child() = default;
    /// Whether there is a child behind it.
    explicit operator bool() const { return index_ != absent; }

   private:
    friend CompositeBase;
    static constexpr std::size_t absent = static_cast<std::size_t>(-1);
    explicit Child(std::size_t index) : index_(index) {}
    std::size_t index_ = absent;
  };

  /// Registers `layer` (any holder, a `shared_ptr`, or an `AnyModule`) as the child `name`.
  Child add(const std::string& name, AnyLayer layer) {
    register_module(name, layer.ptr());
    slots_.push_back({name, std::move(layer)});
    return Child(slots_.size() - 1);
  }

  /// Runs `child` on `input`.
  torch::Tensor call(const Child& child, const torch::Tensor& input) {
    return call_slot(child.index_, input);
  }

  /// Runs all children in turn, each on the last one's output. In training mode some of them, and
  /// some of a `Chain` among them, may run as one on fused kernels, see `fused_training_enabled`;
  /// then images `[N, C, H, W]` come out with channels last in memory.
  torch::Tensor call_all(torch::Tensor input) {
    return call_slots(0, slots_.size(), std::move(input));
  }

  /// The same for `first`, `last` and all that was added between them.
  torch::Tensor call_all(const Child& first, const Child& last, torch::Tensor input) {
    return call_slots(first.index_, last.index_ + 1, std::move(input));
  }

  /// The module behind `child`.
  const std::shared_ptr<torch::nn::Module>& module(const Child& child) const {
    return slots_.at(child.index_).layer.ptr();
  }

  /// Whether `forward` is `call_all` and no more, so that what has this module for a child may run
  /// its children instead.
  virtual bool runs_in_turn() const { return false; }

  /// Replaces each child by a deep copy of it, on `device` if it is given. Throws if the module has
  /// anything else, which it would share with the one that it is a copy of.
  void clone_children(const std::optional<torch::Device>& device) {
    TORCH_CHECK(parameters(/*recurse=*/false).empty() && buffers(/*recurse=*/false).empty() &&
                    children().size() == slots_.size(),
                "clone: ", this->name(),
                " has a parameter, a buffer or a child that no add() made; put it into a module "
                "that can be cloned, and add() that");
    for (auto& slot : slots_) {
      slot.layer = slot.layer.clone(device);
      replace_module(slot.name, slot.layer.ptr());
    }
  }

 private:
  struct Slot {
    std::string name;
    AnyLayer layer;
  };

  torch::Tensor call_slot(std::size_t index, const torch::Tensor& input) {
    auto& layer = slots_.at(index).layer;
    const detail::CallScope scope(*layer.ptr());
    return layer.forward(input);
  }

  /// Appends the children from `index` to `end` to `layers`, with children of their own in place of
  /// those that run them in turn.
  void add_layers(std::size_t index, std::size_t end, std::vector<AnyLayer*>& layers) {
    for (; index < end; ++index) {
      auto& layer = slots_.at(index).layer;
      auto* child = dynamic_cast<CompositeBase*>(layer.ptr().get());
      if (child != nullptr && child->runs_in_turn()) {
        child->add_layers(0, child->slots_.size(), layers);
      } else {
        layers.push_back(&layer);
      }
    }
  }

  torch::Tensor call_slots(std::size_t index, std::size_t end, torch::Tensor input) {
    if (!is_training() || !fused_training_enabled() || CallObserver::current() != nullptr) {
      for (; index < end; ++index) {
        input = call_slot(index, input);
      }
      return input;
    }
    std::vector<AnyLayer*> layers;
    add_layers(index, end, layers);
    for (std::size_t i = 0; i < layers.size();) {
      const auto at = [&](std::size_t ahead) {
        return i + ahead < layers.size() ? layers[i + ahead]->ptr().get() : nullptr;
      };
      if (auto run = detail::fused_run(at, input)) {
        input = std::move(run->output);
        i += run->modules;
      } else {
        input = layers[i++]->forward(input);
      }
    }
    return input;
  }

  std::vector<Slot> slots_;
};

/// A layer made of type-erased children, the base of the blocks of the model zoo.
///
/// Children are added in the constructor with `add`, which registers them and returns a handle
/// for `call`. They can be exchanged, and `clone()` copies whatever is there then, neither of
/// which holds for typed members. `Derived` is the deriving class.
///
/// Example:
/// ```
/// struct BlockImpl : bsconv::Composite<BlockImpl> {
///   Child conv = add("conv", torch::nn::Conv2d(3, 8, 3));
///   Child relu = add("relu", torch::nn::ReLU());
///   torch::Tensor forward(const torch::Tensor& x) override { return call(relu, call(conv, x)); }
/// };
/// ```
template <class Derived>
class Composite : public CompositeBase {
 public:
  using CompositeBase::CompositeBase;

  /// A deep copy, with whatever children are there now, on `device` if it is given.
  std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device = std::nullopt) const override {
    auto copy = std::make_shared<Derived>(static_cast<const Derived&>(*this));
    static_cast<Composite&>(*copy).clone_children(device);
    return copy;
  }

 private:
  // A typed parent that is cloned rebuilds this module and then hands it the original.
  void clone_(torch::nn::Module& other, const std::optional<torch::Device>& device) override {
    const auto copy = std::dynamic_pointer_cast<Derived>(other.clone(device));
    TORCH_CHECK(copy != nullptr, "clone: ", other.name(), " can't be cloned into ", this->name());
    static_cast<Derived&>(*this) = *copy;
  }
};

/// Named layers that run in turn: a `torch::nn::Sequential` with a tensor `forward`, so that it
/// fits where one layer is expected, another `Chain` or a `Sequential` included.
///
/// In training mode the fused kernels run its BSConv layers together with the batch normalization
/// and activation behind each (see `fused_training_enabled`), which in a `Sequential` they can't.
class ChainImpl : public Composite<ChainImpl>, public ModeOfChildren {
 public:
  using Composite::Composite;

  /// Appends `layer` (any holder, or an `AnyModule`) under `name`; returns the chain.
  ChainImpl& push_back(const std::string& name, AnyLayer layer) {
    add(name, std::move(layer));
    return *this;
  }

  /// Runs all layers in turn. The result lies in memory as LibTorch's operators leave it.
  torch::Tensor forward(const torch::Tensor& input) override {
    auto output = call_all(input);
    if (!detail::has_channels_last(output) || detail::has_channels_last(input)) {
      return output;
    }
    const auto own = parameters();
    const bool stays = std::any_of(own.begin(), own.end(), detail::has_channels_last);
    return stays ? output : output.contiguous();
  }

  /// Prints the type and its options, without children.
  void pretty_print(std::ostream& stream) const override { stream << "bsconv::Chain"; }

 protected:
  // A deriving class may have a forward of its own.
  bool runs_in_turn() const override { return typeid(*this) == typeid(ChainImpl); }
};

/// A `ModuleHolder` for `ChainImpl`.
TORCH_MODULE(Chain);

}  // namespace bsconv
