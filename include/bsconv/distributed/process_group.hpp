// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>
#include <torch/types.h>

// LibTorch has Gloo inside, but declares it only to those who have Gloo's headers and say so.
#if !defined(USE_C10D_GLOO)
#define USE_C10D_GLOO
#define BSCONV_DEFINED_GLOO
#endif
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>
#if defined(BSCONV_DEFINED_GLOO)
#undef USE_C10D_GLOO
#undef BSCONV_DEFINED_GLOO
#endif

#include <bsconv/distributed/rendezvous.hpp>
#include <bsconv/distributed/sync_batch_norm.hpp>
#include <bsconv/train/communicator.hpp>

// This header needs Gloo's headers, so it is not part of <bsconv/train.hpp>.

namespace bsconv::distributed {

/// The processes that train one model together: a TCP store to find each other, Gloo to talk, and
/// the reducer of `DistributedDataParallel`, which averages gradients while the backward pass still
/// runs.
///
///     auto group = std::make_shared<ProcessGroup>(*rendezvous_of_environment());
///     trainer.communicator(group);
///
/// Gloo sends what lies on a GPU by way of the CPU; `use_nccl` of distributed/nccl.hpp sends it
/// directly.
///
/// Every process makes one, and uses it from one thread. If a process is lost, the others get a
/// `c10::Error` that says so, at once or when the time-out is over.
class ProcessGroup : public train::Communicator {
 public:
  /// Makes a way of c10d to talk, from what the processes share, for one of them.
  using MakeBackend = std::function<c10::intrusive_ptr<c10d::Backend>(
      const c10::intrusive_ptr<c10d::Store>& store, const Rendezvous& rendezvous)>;

  /// Waits until all processes are there. With `sync_batch_norm`, batch normalizations in training
  /// mode take their statistics over all processes. Throws `c10::Error` if the others don't come
  /// within the time-out.
  explicit ProcessGroup(const Rendezvous& rendezvous, bool sync_batch_norm = false)
      : rendezvous_(rendezvous), sync_batch_norm_(sync_batch_norm) {
    rendezvous.check();
    const auto& r = rendezvous_;
    try {
      c10d::TCPStoreOptions store_options;
      store_options.port = static_cast<std::uint16_t>(r.master_port());
      store_options.isServer = r.rank() == 0;
      store_options.numWorkers = static_cast<std::size_t>(r.world_size());
      store_options.timeout = r.timeout();
      store_ = c10::make_intrusive<c10d::TCPStore>(r.master_address(), store_options);
      const auto options = c10d::ProcessGroupGloo::Options::create(r.timeout());
      options->devices.push_back(
          r.interface().empty() ? c10d::ProcessGroupGloo::createDefaultDevice()
                                : c10d::ProcessGroupGloo::createDeviceForInterface(r.interface()));
      const auto backend = c10::make_intrusive<c10d::ProcessGroupGloo>(
          store_, static_cast<int>(r.rank()), static_cast<int>(r.world_size()), options);
      group_ = c10::make_intrusive<c10d::ProcessGroup>(store_, static_cast<int>(r.rank()),
                                                       static_cast<int>(r.world_size()));
      for (const auto device : {c10::DeviceType::CPU, c10::DeviceType::CUDA}) {
        group_->setBackend(device, c10d::ProcessGroup::BackendType::GLOO, backend);
      }
      group_->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
    } catch (const std::exception& error) {
      TORCH_CHECK(false, "process ", r.rank(), " of ", r.world_size(),
                  " cannot meet the others at ", r.master_address(), ":", r.master_port(),
                  " within ", r.timeout().count(), " s: ", first_line(error));
    }
  }

  /// From now on tensors on CUDA devices are sent by what `make` makes, of the given type, instead
  /// of by Gloo. Comes before `average_gradients`, on every process.
  void cuda_backend(c10d::ProcessGroup::BackendType type, const MakeBackend& make) {
    TORCH_CHECK(reducer_ == nullptr, "cuda_backend must come before average_gradients");
    group_->setBackend(c10::DeviceType::CUDA, type, make(store_, rendezvous_));
  }

  int64_t rank() const override { return rendezvous_.rank(); }

  int64_t world_size() const override { return rendezvous_.world_size(); }

  void sum(torch::Tensor& tensor) override {
    TORCH_CHECK(tensor.scalar_type() == torch::kDouble && tensor.is_contiguous(),
                "sums of processes need a contiguous float64 tensor, got ",
                tensor.is_contiguous() ? "" : "a strided one of ", tensor.scalar_type());
    together("sum", [&] {
      std::vector<at::Tensor> tensors{tensor};
      group_->allreduce(tensors)->wait();
    });
  }

  void broadcast(const std::vector<torch::Tensor>& tensors) override {
    const torch::NoGradGuard no_grad;
    if (!tensors.empty()) {
      together("broadcast", [&] { c10d::broadcast_coalesced(group_, tensors, bucket); });
    }
  }

  void average_gradients(const weights::StateDict& parameters) override {
    std::unordered_map<std::size_t, std::string> names;
    auto tensors = parameters.values();
    for (const auto& key : parameters.keys()) {
      names.emplace(names.size(), key);
    }
    std::string difference;
    try {
      c10d::verify_params_across_processes(group_, tensors, std::nullopt);
    } catch (const std::exception& error) {
      // Process 0 sees none: it is the one that the others compare themselves with.
      difference = first_line(error);
    }
    auto differences = torch::full({1}, difference.empty() ? 0.0 : 1.0, torch::kDouble);
    sum(differences);
    TORCH_CHECK(differences.item<double>() == 0, "process ", rank(), " of ", world_size(),
                ": the processes' models differ",
                difference.empty() ? std::string() : ": " + difference);
    parameters_ = parameters;
    all_used_ = false;
    auto buckets =
        std::get<0>(c10d::compute_bucket_assignment_by_size(tensors, {first_bucket, bucket}));
    reducer_ = std::make_unique<c10d::Reducer>(
        tensors, std::vector(buckets.rbegin(), buckets.rend()), group_,
        std::vector<bool>(tensors.size(), false), static_cast<int64_t>(bucket),
        /*find_unused_parameters=*/false, /*gradient_as_bucket_view=*/false, std::move(names),
        static_cast<int64_t>(first_bucket), /*skip_all_reduce_unused_params=*/false,
        /*use_python_reducer=*/false, std::vector<int64_t>());
  }

  void backward(const torch::Tensor& loss, bool average) override {
    TORCH_CHECK(reducer_ != nullptr, "average_gradients must come before backward");
    constexpr auto what = "the backward pass";
    if (average) {
      together(what, [&] {
        reducer_->rebuild_buckets();
        reducer_->prepare_for_backward({loss});
      });
    }
    try {
      loss.backward();
    } catch (const std::exception& error) {
      if (is_of_communication(error)) {
        blame_others(what, error);
      }
      throw;
    }
    if (average && !all_used_) {
      check_all_used();
      all_used_ = true;
    }
  }

  torch::Tensor run(const train::ForwardFunction& forward, const torch::Tensor& images) override {
    if (!sync_batch_norm_) {
      return forward(images);
    }
    SyncBatchNorm sync(*this);
    const OperatorCapture scope(sync);
    return forward(images);
  }

 private:
  // PyTorch's own sizes: a small first bucket, so that the first sum starts early.
  static constexpr std::size_t first_bucket = std::size_t{1} << 20U;
  static constexpr std::size_t bucket = std::size_t{25} << 20U;

  static std::string first_line(const std::exception& error) {
    const std::string text = error.what();
    return text.substr(0, text.find('\n'));
  }

  // The reducer would wait for the gradients of the others until the next step, and fail there.
  void check_all_used() const {
    for (const auto& parameter : parameters_) {
      TORCH_CHECK(parameter.value().grad().defined(), "process ", rank(), " of ", world_size(),
                  ": the loss does not depend on the parameter '", parameter.key(),
                  "', whose gradients were to be averaged; leave it out of the model, or set its "
                  "requires_grad to false");
    }
  }

  /// Which process this is, to begin a message with.
  std::string here() const { return c10::str("process ", rank(), " of ", world_size(), ": "); }

  // The reducer sends in the middle of the backward pass, whose errors may be the model's own.
  // Those of c10d and NCCL tell by their type, those of Gloo by the path of its source.
  bool is_of_communication(const std::exception& error) const {
    const auto text = first_line(error);
    // What `together` threw in there says all.
    return !text.starts_with(here()) &&
           (dynamic_cast<const c10::DistError*>(&error) != nullptr ||
            text.find("gloo") != std::string::npos || text.find("NCCL") != std::string::npos);
  }

  void blame_others(const char* what, const std::exception& error) const {
    TORCH_CHECK(false, here(), what,
                " failed, most likely because another process has ended or does not answer: ",
                first_line(error));
  }

  template <class Action>
  void together(const char* what, Action&& action) const {
    try {
      action();
    } catch (const std::exception& error) {
      blame_others(what, error);
    }
  }

  Rendezvous rendezvous_;
  bool sync_batch_norm_;
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<c10d::ProcessGroup> group_;
  std::unique_ptr<c10d::Reducer> reducer_;
  weights::StateDict parameters_;
  bool all_used_ = false;
};

}  // namespace bsconv::distributed
