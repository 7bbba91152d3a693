// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>

#include <c10/util/Exception.h>
#include <torch/arg.h>

namespace bsconv::distributed {

/// How the processes that train together find each other.
struct Rendezvous {
  /// This process's number, from 0. Default: 0.
  TORCH_ARG(int64_t, rank) = 0;
  /// How many processes there are. Default: 1.
  TORCH_ARG(int64_t, world_size) = 1;
  /// This process's number on its machine, from 0: which GPU it takes. Default: 0.
  TORCH_ARG(int64_t, local_rank) = 0;
  /// The machine of process 0. Default: this one.
  TORCH_ARG(std::string, master_address) = "127.0.0.1";
  /// A free TCP port there. Default: 29500.
  TORCH_ARG(int64_t, master_port) = 29500;
  /// The network interface to use, such as "eth0"; empty: the one of this machine's name. Default:
  /// the environment's GLOO_SOCKET_IFNAME.
  TORCH_ARG(std::string, interface) = {};
  /// How long a process waits for the others, at the start and in each step. Default: 10 minutes.
  TORCH_ARG(std::chrono::seconds, timeout) = std::chrono::minutes(10);

 public:
  /// Throws `c10::ValueError` that names what is out of its range.
  void check() const {
    TORCH_CHECK_VALUE(world_size_ > 0, "world_size must be positive, got ", world_size_);
    TORCH_CHECK_VALUE(rank_ >= 0 && rank_ < world_size_, "rank must be 0 to ", world_size_ - 1,
                      ", got ", rank_);
    TORCH_CHECK_VALUE(local_rank_ >= 0, "local_rank must not be negative, got ", local_rank_);
    TORCH_CHECK_VALUE(!master_address_.empty(), "master_address must not be empty");
    TORCH_CHECK_VALUE(master_port_ > 0 && master_port_ < 65536,
                      "master_port must be 1 to 65535, got ", master_port_);
    TORCH_CHECK_VALUE(timeout_.count() > 0, "the time-out must be positive, got ", timeout_.count(),
                      " s");
  }
};

namespace detail {

/// The value of the environment's `name`, if it is set and not empty.
inline std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? std::nullopt : std::optional<std::string>(value);
}

/// The number in the environment's `name`.
inline std::optional<int64_t> number_variable(const char* name) {
  const auto text = variable(name);
  if (!text) {
    return std::nullopt;
  }
  char* end = nullptr;
  const long long value = std::strtoll(text->c_str(), &end, 10);
  TORCH_CHECK_VALUE(end != text->c_str() && *end == '\0', "the environment's ", name, " is '",
                    *text, "', not a number");
  return value;
}

}  // namespace detail

/// What `torchrun`, or any launcher that sets the same variables, tells this process: RANK,
/// WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, and GLOO_SOCKET_IFNAME. None if neither
/// RANK nor WORLD_SIZE is set. Throws `c10::ValueError` that names a variable that is missing or
/// wrong.
inline std::optional<Rendezvous> rendezvous_of_environment() {
  const auto rank = detail::number_variable("RANK");
  const auto world_size = detail::number_variable("WORLD_SIZE");
  if (!rank && !world_size) {
    return std::nullopt;
  }
  TORCH_CHECK_VALUE(rank && world_size, "the environment has ", rank ? "RANK" : "WORLD_SIZE",
                    " but no ", rank ? "WORLD_SIZE" : "RANK",
                    "; several processes need both, as torchrun sets them");
  const auto address = detail::variable("MASTER_ADDR");
  const auto port = detail::number_variable("MASTER_PORT");
  TORCH_CHECK_VALUE(*world_size == 1 || (address && port), "the environment has no ",
                    address ? "MASTER_PORT" : "MASTER_ADDR",
                    "; several processes need both, as torchrun sets them");
  Rendezvous result;
  result.rank(*rank).world_size(*world_size);
  result.local_rank(detail::number_variable("LOCAL_RANK").value_or(0));
  result.master_address(address.value_or(result.master_address()));
  result.master_port(port.value_or(result.master_port()));
  result.interface(detail::variable("GLOO_SOCKET_IFNAME").value_or(""));
  result.check();
  return result;
}

}  // namespace bsconv::distributed
