// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/TensorImpl.h>
#include <c10/macros/Export.h>
#include <torch/library.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/modules/conv.h>
#include <torch/types.h>
#include <bsconv/nn/call_observer.hpp>
#include <bsconv/nn/mode_of_children.hpp>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

/// \file
/// Replaces what a `torch::nn::Conv2d` computes without replacing the object.
///
/// `Conv2dImpl::forward` is not virtual and users hold convolutions in typed members, so another
/// module can't take a `Conv2d`'s place. Its `weight` is a plain tensor, though, and operators
/// dispatch on their arguments: a weight of our own tensor type makes `aten::conv2d` call the
/// substitute. Python's tensor subclasses work the same way.

namespace bsconv {

namespace detail {

/// The dispatch key of grafted weights. It lies above autograd, autocast and the tracer, so these
/// see the substitute's own operators. PyTorch documents it for tests of out-of-tree backends and
/// registers nothing on it; this constant is the only place that chooses it.
inline constexpr c10::DispatchKey graft_key = c10::DispatchKey::TESTING_ONLY_GenericWrapper;

/// Lets us reach the parameters that a module has registered.
struct ParameterAccess : torch::nn::Module {
  static torch::OrderedDict<std::string, torch::Tensor>& of(torch::nn::Module& module) {
    return module.*(&ParameterAccess::parameters_);
  }
  static const torch::OrderedDict<std::string, torch::Tensor>& of(const torch::nn::Module& module) {
    return module.*(&ParameterAccess::parameters_);
  }
};

/// The first of `module.parameters()`, undefined if there are none, without a list of all.
inline torch::Tensor first_parameter(const torch::nn::Module& module) {
  for (const auto& item : ParameterAccess::of(module)) {
    if (item.value().defined()) {
      return item.value();
    }
  }
  for (const auto& child : module.children()) {
    if (auto found = first_parameter(*child); found.defined()) {
      return found;
    }
  }
  return {};
}

/// The weight of a grafted convolution: carries the substitute, has the old weight's sizes, and
/// the substitute's dtype and device, but no data.
class GraftedWeight : public c10::TensorImpl {
 public:
  GraftedWeight(const torch::Tensor& old_weight, torch::nn::AnyModule substitute)
      : c10::TensorImpl(c10::DispatchKeySet(graft_key), old_weight.dtype(), old_weight.device()),
        substitute_(std::move(substitute)),
        module_(substitute_.ptr()) {
    set_sizes_contiguous(old_weight.sizes());
    set_custom_device(true);
  }

  /// What runs in the convolution's place.
  torch::nn::AnyModule& substitute() { return substitute_; }
  /// The same as a module.
  const std::shared_ptr<torch::nn::Module>& module() const { return module_; }
  /// The names of the children that the convolution has for it.
  std::vector<std::string>& adopted() { return adopted_; }

  /// Takes over the dtype that the substitute has been converted to. Threads may run the model
  /// together, also right after a conversion; who asks the weight itself for its dtype must wait
  /// until one of these runs is over.
  void refresh() {
    const auto parameter = first_parameter(*module_);
    if (parameter.defined()) {
      const std::lock_guard lock(refreshing_);
      if (data_type_ != parameter.dtype()) {
        data_type_ = parameter.dtype();
      }
    }
  }

  c10::Device device_custom() const override {
    const auto parameter = first_parameter(*module_);
    return parameter.defined() ? parameter.device() : c10::Device(c10::kCPU);
  }

 private:
  torch::nn::AnyModule substitute_;
  std::shared_ptr<torch::nn::Module> module_;
  std::vector<std::string> adopted_;
  std::mutex refreshing_;
};

/// The grafted weight behind `tensor`, or null.
inline GraftedWeight* grafted_weight(const torch::Tensor& tensor) {
  if (!tensor.defined() || !tensor.key_set().has(graft_key)) {
    return nullptr;
  }
  return dynamic_cast<GraftedWeight*>(tensor.unsafeGetTensorImpl());
}

/// The kernel of `aten::conv2d` and `aten::conv2d.padding` for grafted weights.
inline void run_substitute(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const std::size_t arguments = op.schema().arguments().size();
  const torch::Tensor input = torch::jit::peek(*stack, 0, arguments).toTensor();
  const torch::Tensor weight = torch::jit::peek(*stack, 1, arguments).toTensor();
  auto* graft = grafted_weight(weight);
  TORCH_CHECK(graft != nullptr, op.schema().name(),
              ": the weight of a replaced Conv2d was used as an input or a bias");
  graft->refresh();
  const CallScope scope(*graft->module());
  torch::Tensor output = graft->substitute().forward(input);
  torch::jit::drop(*stack, arguments);
  torch::jit::push(*stack, std::move(output));
}

/// The kernel of every other operator for grafted weights.
inline void refuse_operator(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  std::string type = "another module";
  const auto name_it = [&](const torch::Tensor& tensor) {
    if (const auto* graft = grafted_weight(tensor)) {
      type = graft->module()->name();
    }
  };
  for (const auto& argument : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (argument.isTensor()) {
      name_it(argument.toTensor());
    } else if (argument.isTensorList()) {
      for (const torch::Tensor& tensor : argument.toTensorVector()) {
        name_it(tensor);
      }
    }
  }
  TORCH_CHECK(false, op.schema().name(), ": the weight of this Conv2d is a stand-in, because the ",
              "layer was replaced by ", type, "; only conv2d may use it. ",
              "Use the layer's parameters() instead.");
}

/// Registers both kernels, once a process.
C10_EXPORT inline void register_graft_kernels() {
  static const auto libraries = [] {
    auto convolutions = std::make_unique<torch::Library>(torch::Library::IMPL, "aten", graft_key,
                                                         __FILE__, __LINE__);
    convolutions->impl("conv2d", torch::CppFunction::makeFromBoxedFunction<&run_substitute>());
    convolutions->impl("conv2d.padding",
                       torch::CppFunction::makeFromBoxedFunction<&run_substitute>());
    auto others =
        std::make_unique<torch::Library>(torch::Library::IMPL, "_", graft_key, __FILE__, __LINE__);
    others->fallback(torch::CppFunction::makeFromBoxedFunction<&refuse_operator>());
    // Never unregistered: a model in a static object may still run when this one would go.
    return std::pair(convolutions.release(), others.release());
  }();
  static_cast<void>(libraries);
}

}  // namespace detail

/// What was grafted onto `module`, or null if it is no grafted `Conv2d`.
inline std::shared_ptr<torch::nn::Module> grafted_substitute(const torch::nn::Module& module) {
  const auto* conv = dynamic_cast<const torch::nn::Conv2dImpl*>(&module);
  const auto* graft = conv == nullptr ? nullptr : detail::grafted_weight(conv->weight);
  return graft == nullptr ? nullptr : graft->module();
}

namespace detail {

/// Registers what the substitute of `conv`, which is grafted, is made of, in the place of what was
/// registered of it before. Children of a class derived from `Conv2d` stay.
inline void adopt(torch::nn::Conv2dImpl& conv) {
  auto& graft = *grafted_weight(conv.weight);
  const auto& substitute = graft.module();
  for (const auto& name : graft.adopted()) {
    conv.unregister_module(name);
  }
  graft.adopted().clear();
  const auto add = [&](const std::string& name, const std::shared_ptr<torch::nn::Module>& child) {
    conv.register_module(name, child);
    graft.adopted().push_back(name);
  };
  const auto own = conv.named_children();
  const auto parts = substitute->named_children();
  const bool hoist = dynamic_cast<const ModeOfChildren*>(substitute.get()) != nullptr &&
                     !parts.is_empty() && substitute->parameters(false).empty() &&
                     substitute->buffers(false).empty() &&
                     std::none_of(parts.begin(), parts.end(),
                                  [&own](const auto& part) { return own.contains(part.key()); });
  if (!hoist) {
    add("replacement", substitute);
    return;
  }
  for (const auto& part : parts) {
    add(part.key(), part.value());
  }
}

}  // namespace detail

/// Makes `conv` compute what `substitute` computes, whoever holds it and however it is called.
///
/// `substitute` maps one tensor to one tensor. The convolution's weight and bias are dropped and
/// the substitute registered in their place as the child `replacement`, so that parameters, state
/// dict, `train()`, `to()`, optimizers made afterwards and serialization see it. Of this library's
/// layers, and of others that are a `ModeOfChildren` and have children but no parameters or buffers
/// of their own, the children are registered instead, unless `conv` has children of such names.
/// What else a class derived from `Conv2d` has registered stays. `conv` pads no more on its own:
/// the substitute gets its raw input.
///
/// Afterwards `conv.weight` stands in for a tensor: only a convolution may use it. `clone()` of a
/// grafted convolution, or of a model that holds one, throws; make a new model, replace its layers
/// and load the state dict instead. Throws if `conv` is grafted already.
inline void graft(torch::nn::Conv2dImpl& conv, const torch::nn::AnyModule& substitute) {
  TORCH_CHECK(detail::grafted_weight(conv.weight) == nullptr,
              "graft: this Conv2d has been replaced already");
  TORCH_CHECK(conv.weight.defined(), "graft: this Conv2d has no weight");
  detail::register_graft_kernels();
  torch::nn::AnyModule held = substitute;
  auto weight = torch::Tensor(c10::make_intrusive<detail::GraftedWeight>(conv.weight, held));

  TORCH_CHECK(!conv.named_children().contains("replacement"),
              "graft: this Conv2d has a child 'replacement' already");
  auto& parameters = detail::ParameterAccess::of(conv);
  for (const char* name : {"weight", "bias"}) {
    if (parameters.contains(name)) {
      parameters.erase(name);
    }
  }
  conv.weight = std::move(weight);
  conv.bias = torch::Tensor();
  detail::adopt(conv);
  conv.options.padding_mode(torch::kZeros);
}

}  // namespace bsconv
