// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/capture/operator_capture.hpp>
#include <bsconv/infer/graph.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace bsconv::infer {

namespace detail {

/// Knows which tensors of a running model are values of its graph and which belong to the model.
class ValueTracker {
 public:
  /// What has been written down so far.
  Graph graph;

  /// The value that `tensor` is, or none.
  std::optional<std::size_t> find(const torch::Tensor& tensor) const {
    const auto found = ids_.find(tensor.unsafeGetTensorImpl());
    if (found != ids_.end()) {
      return found->second;
    }
    // LibTorch's factory functions hand their results on as other objects.
    const auto sharing = tensor.has_storage()
                             ? storages_.find(tensor.storage().unsafeGetStorageImpl())
                             : storages_.end();
    if (sharing == storages_.end()) {
      return std::nullopt;
    }
    for (const auto* other : sharing->second) {
      if (other->sizes() == tensor.sizes() && other->strides() == tensor.strides() &&
          other->storage_offset() == tensor.storage_offset() && other->dtype() == tensor.dtype()) {
        return ids_.at(other);
      }
    }
    throw NotCapturable("a view of a result was made out of sight");
  }

 protected:
  ValueTracker() = default;

  // Tensors stay alive while recording, so that no address is used twice.
  std::size_t remember(const torch::Tensor& tensor) {
    kept_.push_back(tensor);
    const std::size_t id = graph.add_value(tensor);
    ids_[tensor.unsafeGetTensorImpl()] = id;
    if (tensor.has_storage()) {
      storages_[tensor.storage().unsafeGetStorageImpl()].insert(tensor.unsafeGetTensorImpl());
    }
    return id;
  }

  void make(Node& node, const torch::Tensor& output) {
    node.outputs.push_back(remember(output));
    graph.values[node.outputs.back()].producer = graph.nodes.size();
  }

  template <class Visit>
  static void for_each_tensor(const c10::IValue& argument, Visit&& visit) {
    if (argument.isTensor() && argument.toTensor().defined()) {
      visit(argument.toTensor(), int64_t{-1});
    } else if (argument.isTensorList()) {
      int64_t at = 0;
      for (const torch::Tensor& tensor : argument.toTensorVector()) {
        visit(tensor, at++);
      }
    } else if (argument.isOptionalTensorList()) {
      int64_t at = 0;
      for (const std::optional<torch::Tensor>& tensor : argument.toOptionalTensorVector()) {
        if (tensor.has_value() && tensor->defined()) {
          visit(*tensor, at);
        }
        ++at;
      }
    }
  }

  bool reads_value(const OperatorCall& call) const {
    bool reads = false;
    for (const auto& input : call.inputs) {
      for_each_tensor(input, [&](const torch::Tensor& tensor, int64_t) {
        reads = reads || find(tensor).has_value();
      });
    }
    return reads;
  }

  // The parameters, buffers and other tensors that are the same in every run, on the CPU.
  torch::Tensor constant(const c10::IValue& argument, Node& node) {
    if (!argument.isTensor() || !argument.toTensor().defined()) {
      return {};
    }
    const auto& tensor = argument.toTensor();
    watch(tensor);
    // What the model computes anew from its parameters, or keeps in memory of its own, may be at
    // any address; views of parameters, such as a transposed weight, are where they are.
    static std::atomic<int64_t> computed{0};
    const bool is_view = !is_foreign(tensor) && (!is_derived(tensor) || watches_data_of(tensor));
    node.origin.push_back(
        is_view ? static_cast<int64_t>(reinterpret_cast<std::intptr_t>(tensor.const_data_ptr()))
                : -1 - computed++);
    const auto strides = tensor.strides();
    node.origin.insert(node.origin.end(), strides.begin(), strides.end());
    return tensor.detach().cpu();
  }

  // Whether its memory is not LibTorch's: others may come to lie there.
  static bool is_foreign(const torch::Tensor& tensor) {
    return tensor.has_storage() && tensor.storage().data_ptr().get_context() == nullptr;
  }

  // LibTorch's factory functions hand their results on as other objects in the same memory.
  bool is_derived(const torch::Tensor& tensor) const {
    return derived_.count(tensor.unsafeGetTensorImpl()) != 0 ||
           (tensor.has_storage() &&
            fresh_storages_.count(tensor.storage().unsafeGetStorageImpl()) != 0);
  }

  bool watches_data_of(const torch::Tensor& tensor) const {
    return tensor.has_storage() &&
           watched_storages_.count(tensor.storage().unsafeGetStorageImpl()) != 0;
  }

  // Remembers a tensor of the model, so that a change of it is noticed. What is computed from
  // those tensors changes with them.
  void watch(const torch::Tensor& tensor) {
    if (is_derived(tensor) || !watched_.insert(tensor.unsafeGetTensorImpl()).second) {
      return;
    }
    graph.constants.push_back(tensor);
    if (tensor.has_storage()) {
      watched_storages_.insert(tensor.storage().unsafeGetStorageImpl());
    }
  }

  // Remembers what the model has computed from its own tensors alone.
  void derive(const torch::Tensor& tensor) {
    kept_.push_back(tensor);
    derived_.insert(tensor.unsafeGetTensorImpl());
    if (tensor.has_storage() && !watches_data_of(tensor)) {
      fresh_storages_.insert(tensor.storage().unsafeGetStorageImpl());
    }
  }

  bool is_constant(const c10::IValue& argument) const {
    return argument.isNone() ||
           (argument.isTensor() && (!argument.toTensor().defined() || !find(argument.toTensor())));
  }

  // Of an operator that reads a value: it may change one that has no views.
  void check_writes(const OperatorCall& call) const {
    for_each_written(call, [&](std::size_t index, const torch::Tensor& tensor) {
      if (!find(tensor)) {
        throw NotCapturable(call.op.schema().name() + " changes a tensor of the model");
      }
      if (!call.inputs[index].isTensor()) {
        throw NotCapturable(call.op.schema().name() + " changes a list of tensors");
      }
      const auto& sharing = storages_.at(tensor.storage().unsafeGetStorageImpl());
      if (index != 0 || sharing.size() > 1 || sharing.count(tensor.unsafeGetTensorImpl()) == 0) {
        throw NotCapturable(call.op.schema().name() + " changes a tensor that has views");
      }
    });
  }

  // Of one that reads none: it may change what the model has made in this run.
  void check_writes_to_own(const OperatorCall& call) const {
    for_each_written(call, [&](std::size_t, const torch::Tensor& tensor) {
      if (!is_derived(tensor) || watches_data_of(tensor)) {
        throw NotCapturable(call.op.schema().name() + " changes a tensor of the model");
      }
    });
  }

 private:
  template <class Visit>
  static void for_each_written(const OperatorCall& call, Visit&& visit) {
    const auto& arguments = call.op.schema().arguments();
    for (std::size_t i = 0; i < arguments.size() && i < call.inputs.size(); ++i) {
      const auto* alias = arguments[i].alias_info();
      if (alias != nullptr && alias->isWrite()) {
        for_each_tensor(call.inputs[i],
                        [&](const torch::Tensor& tensor, int64_t) { visit(i, tensor); });
      }
    }
  }

  std::vector<torch::Tensor> kept_;
  std::unordered_map<const c10::TensorImpl*, std::size_t> ids_;
  std::unordered_map<const c10::StorageImpl*, std::unordered_set<const c10::TensorImpl*>> storages_;
  std::unordered_set<const c10::TensorImpl*> watched_;
  std::unordered_set<const c10::StorageImpl*> watched_storages_;
  std::unordered_set<const c10::TensorImpl*> derived_;
  /// Memory that came into being in this run.
  std::unordered_set<const c10::StorageImpl*> fresh_storages_;
};

}  // namespace detail

}  // namespace bsconv::infer
