// SPDX-License-Identifier: BSD-3-Clause-Clear
// Groups of processes in one process: a thread each.
#pragma once

#include <arpa/inet.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <bsconv/distributed.hpp>

#include <chrono>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace bsconv_test {

/// A TCP port that is free at the moment.
inline int free_port() {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  TORCH_CHECK(::bind(descriptor, reinterpret_cast<sockaddr*>(&address), size) == 0);
  ::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size);
  ::close(descriptor);
  return ntohs(address.sin_port);
}

/// Runs `work` for every process of a group, each in a thread of its own.
template <class Work>
void together(int64_t world_size, bool sync_batch_norm, const Work& work) {
  // LibTorch's flight recorder, one a process, adds groups to a map without a lock.
  ::setenv("TORCH_FR_BUFFER_SIZE", "0", 1);
  const int port = free_port();
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([=, &work] {
      try {
        bsconv::distributed::ProcessGroup group(bsconv::distributed::Rendezvous()
                                                    .rank(rank)
                                                    .world_size(world_size)
                                                    .master_port(port)
                                                    .interface("lo")
                                                    .timeout(std::chrono::seconds(60)),
                                                sync_batch_norm);
        work(group);
      } catch (const std::exception& error) {
        ADD_FAILURE() << "process " << rank << ": " << error.what();
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
}

}  // namespace bsconv_test
