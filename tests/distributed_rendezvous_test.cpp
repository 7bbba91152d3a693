// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/distributed.hpp>

#include <chrono>
#include <optional>

#include "support/environment.hpp"
#include "support/process_group.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace distributed_rendezvous_test {
namespace {

using bsconv::distributed::ProcessGroup;
using bsconv::distributed::Rendezvous;
using bsconv_test::Environment;
using bsconv_test::EnvironmentGuard;
using bsconv_test::error_of;
using bsconv_test::free_port;
using testing::HasSubstr;

TEST(DistributedRendezvous, TheEnvironmentTellsWhoAProcessIs) {
  const auto found_in = [](Environment environment) {
    for (const auto* name : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}) {
      environment.try_emplace(name, std::nullopt);
    }
    const EnvironmentGuard guard(environment);
    return bsconv::distributed::rendezvous_of_environment();
  };
  const auto error = [&](const Environment& environment) {
    return error_of([&] { found_in(environment); });
  };
  EXPECT_FALSE(found_in({}).has_value());
  const auto found = found_in({{"RANK", "1"},
                               {"WORLD_SIZE", "4"},
                               {"LOCAL_RANK", "1"},
                               {"MASTER_ADDR", "host"},
                               {"MASTER_PORT", "1234"}});
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->rank(), 1);
  EXPECT_EQ(found->world_size(), 4);
  EXPECT_EQ(found->local_rank(), 1);
  EXPECT_EQ(found->master_address(), "host");
  EXPECT_EQ(found->master_port(), 1234);
  EXPECT_THAT(error({{"RANK", "1"}}), HasSubstr("has RANK but no WORLD_SIZE"));
  EXPECT_THAT(error({{"WORLD_SIZE", "1"}}), HasSubstr("has WORLD_SIZE but no RANK"));
  EXPECT_THAT(error({{"RANK", "x"}, {"WORLD_SIZE", "1"}}), HasSubstr("RANK is 'x', not a number"));
  EXPECT_THAT(error({{"RANK", "0"}, {"WORLD_SIZE", "2"}}), HasSubstr("has no MASTER_ADDR"));
  EXPECT_THAT(error({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}}),
              HasSubstr("has no MASTER_PORT"));
  EXPECT_THAT(
      error({{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "1"}}),
      HasSubstr("rank must be 0 to 1, got 2"));
  EXPECT_THAT(
      error({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "70000"}}),
      HasSubstr("master_port must be 1 to 65535, got 70000"));
  EXPECT_THAT(error_of([] {
                ProcessGroup(Rendezvous()
                                 .rank(1)
                                 .world_size(2)
                                 .master_port(free_port())
                                 .timeout(std::chrono::seconds(1)));
              }),
              HasSubstr("process 1 of 2 cannot meet the others at 127.0.0.1:"));
}

}  // namespace
}  // namespace distributed_rendezvous_test
