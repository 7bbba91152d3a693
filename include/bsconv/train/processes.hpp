// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <torch/types.h>

#include <bsconv/data/shard.hpp>
#include <bsconv/train/communicator.hpp>
#include <bsconv/train/metrics.hpp>

namespace bsconv::train {

/// The processes that train together: those of a `Communicator`, or this one alone. Every process
/// calls the same functions in the same order.
class Processes {
 public:
  /// This one alone.
  Processes() = default;

  /// Those of `communicator`, which is not null.
  explicit Processes(std::shared_ptr<Communicator> communicator)
      : communicator_(std::move(communicator)) {}

  /// What this process works on.
  data::Shard own_shard() const {
    return communicator_ != nullptr ? communicator_->shard() : data::Shard();
  }

  /// Whether there are no others.
  bool is_alone() const { return communicator_ == nullptr || communicator_->world_size() == 1; }

  /// Adds what the others have to each of `sums`, of which all have equally many. Returns whether
  /// `here` holds in any of them. Waits for all, once.
  bool sum(std::vector<MetricSums>& sums, bool here) const {
    if (communicator_ == nullptr) {
      return here;
    }
    std::vector<double> own;
    for (const auto& one : sums) {
      MetricSums::visit_fields(
          [&](const char*, auto field) { own.push_back(static_cast<double>(one.*field)); });
    }
    own.push_back(here ? 1.0 : 0.0);
    auto all = torch::tensor(own, torch::kDouble);
    communicator_->sum(all);
    const auto* value = all.const_data_ptr<double>();
    for (auto& one : sums) {
      MetricSums::visit_fields([&](const char*, auto field) {
        if constexpr (std::is_integral_v<std::remove_reference_t<decltype(one.*field)>>) {
          one.*field = std::llround(*value);
        } else {
          one.*field = *value;
        }
        ++value;
      });
    }
    return *value > 0;
  }

  /// Whether `here` holds in any of them; waits for all.
  bool any(bool here) const {
    if (communicator_ == nullptr) {
      return here;
    }
    auto votes = torch::full({1}, here ? 1.0 : 0.0, torch::kDouble);
    communicator_->sum(votes);
    return votes.item<double>() > 0;
  }

  /// Whether `values`, whole numbers, are the same in all of them; waits for all.
  bool agree(const std::vector<int64_t>& values) const {
    if (communicator_ == nullptr) {
      return true;
    }
    const auto own = torch::tensor(values, torch::kDouble);
    auto sums = torch::stack({own, own.square()}).flatten();
    communicator_->sum(sums);
    // The mean of squares is the square of the mean only where all are equal.
    const auto count = static_cast<double>(communicator_->world_size());
    const auto rows = sums.view({2, -1});
    return torch::equal(rows[1] * count, rows[0].square());
  }

  /// Waits for all.
  void meet() const { static_cast<void>(any(false)); }

 private:
  std::shared_ptr<Communicator> communicator_;
};

}  // namespace bsconv::train
