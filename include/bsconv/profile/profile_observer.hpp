// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <c10/core/StorageImpl.h>
#include <c10/util/intrusive_ptr.h>
#include <torch/cuda.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/types.h>
#include <bsconv/capture/operator_capture.hpp>
#include <bsconv/nn/call_observer.hpp>
#include <bsconv/nn/graft.hpp>
#include <bsconv/nn/walk.hpp>
#include <bsconv/profile/cost.hpp>
#include <bsconv/profile/profile.hpp>
#include <bsconv/util/text.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

/// \file
/// Which module each operator of a forward pass belongs to.

namespace bsconv::detail {

/// `torch::nn::Conv2dImpl` to `Conv2d`.
inline std::string short_type(const torch::nn::Module& module) {
  std::string name = module.name();
  if (const auto colons = name.rfind("::"); colons != std::string::npos) {
    name = name.substr(colons + 2);
  }
  if (name.size() > 4 && name.compare(name.size() - 4, 4, "Impl") == 0) {
    name.resize(name.size() - 4);
  }
  return name;
}

/// The kind of a convolution as the table shows it.
inline std::string convolution_info(const torch::nn::Module& module) {
  const auto* conv = dynamic_cast<const torch::nn::Conv2dImpl*>(&module);
  if (conv == nullptr) {
    return {};
  }
  const auto& options = conv->options;
  const auto& size = *options.kernel_size();
  std::string text = std::to_string(size[0]) + "x" + std::to_string(size[1]);
  if (grafted_substitute(module) != nullptr) {
    return text + " replaced";
  }
  if (options.groups() == 1) {
    return size[0] == 1 && size[1] == 1 ? text + " PW" : text;
  }
  if (options.groups() == options.in_channels()) {
    return text + " DW";
  }
  return text + " G" + std::to_string(options.groups());
}

/// Assigns the operators of forward passes to the modules of a model.
///
/// An operator belongs to the module whose parameter or buffer it reads; else to the module that
/// is running, which blocks of this library report; else, in models that report nothing, to the
/// next module of the operator's name (`torch::relu` to a `ReLU`), or to the module around the
/// last layer that ran.
class ProfileObserver : public OperatorObserver, public CallObserver {
 public:
  ProfileObserver(const torch::nn::Module& model, const ProfileOptions& options)
      : costs_(options.convention()) {
    profile.convention = options.convention();
    add_module(model, "", 0, none);
    for (std::size_t i = 0; i < profile.rows.size(); ++i) {
      for (std::size_t at = i; at != none; at = parents_[at]) {
        add(profile.rows[at].total, profile.rows[i].own);
      }
    }
    constexpr double infinity = std::numeric_limits<double>::infinity();
    times_.assign(profile.rows.size(), {infinity, infinity});
  }

  /// A forward pass begins; only the first is counted, later ones are timed.
  void begin(bool timed) {
    timed_ = timed;
    cursor_ = 0;
    caller_ = none;
    running_.clear();
    used_.assign(profile.rows.size(), false);
    for (const auto& view : views_) {
      owners_.erase(view.unsafeGetTensorImpl());
    }
    views_.clear();
    pass_times_.assign(profile.rows.size(), {0.0, 0.0});
  }

  /// A forward pass has ended.
  void end() {
    for (std::size_t i = 0; timed_ && i < times_.size(); ++i) {
      times_[i].own = std::min(times_[i].own, pass_times_[i].own);
      times_[i].total = std::min(times_[i].total, pass_times_[i].total);
      profile.rows[i].own.seconds = times_[i].own;
      profile.rows[i].total.seconds = times_[i].total;
    }
  }

  bool looks_inside(const c10::OperatorHandle& op,
                    const std::vector<c10::IValue>& inputs) override {
    for (const auto& input : inputs) {
      if (input.isTensor() && grafted_weight(input.toTensor()) != nullptr) {
        return true;
      }
    }
    return !costs_.knows(op) &&
           op.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd);
  }

  // Work on a GPU goes on behind the thread that asked for it.
  void settle(const std::vector<c10::IValue>& inputs) override {
    for (const auto& input : inputs) {
      if (timed_ && input.isTensor() && input.toTensor().is_cuda()) {
        torch::cuda::synchronize(input.toTensor().get_device());
        return;
      }
    }
  }

  void ran(const OperatorCall& call) override {
    const std::size_t owner = find_owner(call);
    if (timed_) {
      pass_times_[owner].own += call.seconds;
      for (std::size_t at = owner; at != none; at = parents_[at]) {
        pass_times_[at].total += call.seconds;
      }
      return;
    }
    ModuleCost cost;
    cost.operators = 1;
    // `torch::nn::Linear` runs as the product and the sum that it consists of.
    const auto& costs = is_linear_[owner] ? complete_ : costs_;
    if (const auto flops = costs(call)) {
      cost.flops = *flops;
    } else {
      ++profile.uncounted[base_name(call.op)];
    }
    cost.activation_bytes = new_bytes(call);
    add(profile.rows[owner].own, cost);
    for (std::size_t at = owner; at != none; at = parents_[at]) {
      add(profile.rows[at].total, cost);
    }
    note_shapes(owner, call);
  }

  void enter(const torch::nn::Module& module) override {
    const auto found = index_.find(&module);
    running_.push_back(found == index_.end() ? current() : found->second);
  }

  void leave(const torch::nn::Module& /*module*/) override {
    caller_ = parents_[running_.back()];
    running_.pop_back();
  }

  /// The result.
  Profile profile;

 private:
  static constexpr std::size_t none = static_cast<std::size_t>(-1);

  struct Times {
    double own;
    double total;
  };

  static void add(ModuleCost& to, const ModuleCost& from) {
    to.parameters += from.parameters;
    to.flops += from.flops;
    to.activation_bytes += from.activation_bytes;
    to.operators += from.operators;
  }

  void add_module(const torch::nn::Module& module, const std::string& path, int64_t depth,
                  std::size_t parent) {
    const std::size_t row = profile.rows.size();
    if (!index_.emplace(&module, row).second) {
      return;
    }
    ProfileRow entry;
    entry.path = path;
    entry.depth = depth;
    entry.type = short_type(module);
    entry.info = convolution_info(module);
    entry.is_leaf = module.children().empty();
    for (const auto& parameter : module.parameters(/*recurse=*/false)) {
      if (owners_.emplace(parameter.unsafeGetTensorImpl(), row).second) {
        entry.own.parameters += parameter.requires_grad() ? parameter.numel() : 0;
      }
    }
    for (const auto& buffer : module.buffers(/*recurse=*/false)) {
      if (buffer.defined()) {
        owners_.emplace(buffer.unsafeGetTensorImpl(), row);
      }
    }
    profile.rows.push_back(std::move(entry));
    parents_.push_back(parent);
    const auto substitute = grafted_substitute(module);
    grafted_.push_back(substitute != nullptr);
    // One that is a child has a row of its own.
    if (substitute != nullptr && !has_child(module, substitute)) {
      index_.emplace(substitute.get(), row);
    }
    std::string name = lower(short_type(module));
    kinds_.push_back(name == "relu6" ? "hardtanh" : name);
    is_linear_.push_back(dynamic_cast<const torch::nn::LinearImpl*>(&module) != nullptr);
    for (const auto& child : module.named_children()) {
      add_module(*child.value(), path.empty() ? child.key() : path + "." + child.key(), depth + 1,
                 row);
    }
  }

  std::size_t current() const { return running_.empty() ? 0 : running_.back(); }

  std::size_t find_owner(const OperatorCall& call) {
    for (const auto& input : call.inputs) {
      if (const std::size_t owner = owner_of(input); owner != none) {
        if (returns_view(call.op)) {
          for (const auto& output : call.outputs) {
            note_views(output, owner);
          }
        }
        caller_ = none;
        return cursor_ = owner;
      }
    }
    if (!running_.empty() && parents_[current()] != none) {
      return cursor_ = current();
    }
    if (const std::size_t leaf = find_leaf(base_name(call.op)); leaf != none) {
      used_[leaf] = true;
      caller_ = none;
      return cursor_ = leaf;
    }
    return caller_ != none ? caller_ : around(cursor_);
  }

  // What an operator such as a split makes of a parameter belongs to its module.
  void note_views(const c10::IValue& output, std::size_t owner) {
    const auto tensors = output.isTensor()       ? std::vector<torch::Tensor>{output.toTensor()}
                         : output.isTensorList() ? output.toTensorVector()
                                                 : std::vector<torch::Tensor>();
    for (const auto& tensor : tensors) {
      views_.push_back(tensor);
      owners_.emplace(tensor.unsafeGetTensorImpl(), owner);
    }
  }

  // The module that a parameter, a buffer or a view of one belongs to.
  std::size_t owner_of(const c10::IValue& value) const {
    if (!value.isTensor() || !value.toTensor().defined()) {
      return none;
    }
    const auto owner = owners_.find(value.toTensor().unsafeGetTensorImpl());
    return owner == owners_.end() ? none : owner->second;
  }

  // The module whose code ran a layer: the one around it, or around what was replaced.
  std::size_t around(std::size_t row) const {
    if (profile.rows[row].is_leaf && parents_[row] != none) {
      row = parents_[row];
    }
    return grafted_[row] && parents_[row] != none ? parents_[row] : row;
  }

  // The leaf of the operator's name that is nearest in the tree and not used in this pass; the
  // next in registration order where several are as near.
  std::size_t find_leaf(std::string name) const {
    name.erase(std::remove(name.begin(), name.end(), '_'), name.end());
    name = name == "relu6" ? "hardtanh" : name;
    std::size_t best = none;
    std::size_t best_common = 0;
    for (std::size_t step = 1; step <= kinds_.size(); ++step) {
      const std::size_t row = (cursor_ + step) % kinds_.size();
      if (kinds_[row] != name || used_[row] || !profile.rows[row].is_leaf) {
        continue;
      }
      const std::size_t common = common_depth(row, cursor_);
      if (best == none || common > best_common) {
        best = row;
        best_common = common;
      }
    }
    return best;
  }

  std::size_t common_depth(std::size_t a, std::size_t b) const {
    while (a != b) {
      (profile.rows[a].depth >= profile.rows[b].depth ? a : b) =
          parents_[profile.rows[a].depth >= profile.rows[b].depth ? a : b];
    }
    return static_cast<std::size_t>(profile.rows[a].depth);
  }

  int64_t new_bytes(const OperatorCall& call) {
    int64_t bytes = 0;
    for (const auto& output : call.outputs) {
      if (!output.isTensor() || !output.toTensor().defined() || !output.toTensor().has_storage()) {
        continue;
      }
      const auto storage = output.toTensor().storage().getWeakStorageImpl();
      const auto* pointer = output.toTensor().storage().unsafeGetStorageImpl();
      if (reads(call, pointer) || !known_.emplace(pointer, storage).second) {
        continue;
      }
      bytes += static_cast<int64_t>(pointer->nbytes());
    }
    int64_t alive = 0;
    for (auto it = known_.begin(); it != known_.end();) {
      if (it->second.expired()) {
        it = known_.erase(it);
      } else {
        alive += static_cast<int64_t>(it->first->nbytes());
        ++it;
      }
    }
    profile.peak_activation_bytes = std::max(profile.peak_activation_bytes, alive);
    return bytes;
  }

  static bool reads(const OperatorCall& call, const c10::StorageImpl* storage) {
    return std::any_of(call.inputs.begin(), call.inputs.end(), [&](const c10::IValue& input) {
      return input.isTensor() && input.toTensor().defined() && input.toTensor().has_storage() &&
             input.toTensor().storage().unsafeGetStorageImpl() == storage;
    });
  }

  void note_shapes(std::size_t owner, const OperatorCall& call) {
    const auto input = std::find_if(call.inputs.begin(), call.inputs.end(), [&](const auto& value) {
      return value.isTensor() && value.toTensor().defined() && owner_of(value) == none;
    });
    if (input == call.inputs.end() || call.outputs.empty() || !call.outputs[0].isTensor()) {
      return;
    }
    for (std::size_t at = owner; at != none; at = parents_[at]) {
      auto& row = profile.rows[at];
      if (row.input_shape.empty()) {
        row.input_shape = input->toTensor().sizes().vec();
      }
      row.output_shape = call.outputs[0].toTensor().sizes().vec();
    }
  }

  CostModel costs_;
  CostModel complete_{Convention::complete};
  std::unordered_map<const torch::nn::Module*, std::size_t> index_;
  std::unordered_map<const c10::TensorImpl*, std::size_t> owners_;
  std::vector<std::size_t> parents_;
  std::vector<bool> grafted_;
  std::vector<torch::Tensor> views_;
  std::vector<std::string> kinds_;
  std::vector<bool> is_linear_;
  std::vector<std::size_t> running_;
  std::vector<bool> used_;
  std::size_t cursor_ = 0;
  // The module that called the one that has reported its end last.
  std::size_t caller_ = none;
  bool timed_ = false;
  std::vector<Times> times_;
  std::vector<Times> pass_times_;
  std::unordered_map<const c10::StorageImpl*, c10::weak_intrusive_ptr<c10::StorageImpl>> known_;
};

}  // namespace bsconv::detail
