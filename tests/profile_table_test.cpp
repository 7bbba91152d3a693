// SPDX-License-Identifier: BSD-3-Clause-Clear
// The texts that are made of a profile, from one written by hand.
#include <gtest/gtest.h>
#include <bsconv/profile/json.hpp>
#include <bsconv/profile/table.hpp>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace profile_table_test {
namespace {

using bsconv::Profile;
using bsconv::ProfileOrder;
using bsconv::ProfileTableOptions;
using Strings = std::vector<std::string>;

bsconv::ModuleCost cost(int64_t parameters, int64_t flops, int64_t bytes, double seconds = 0.0) {
  bsconv::ModuleCost result;
  result.parameters = parameters;
  result.flops = flops;
  result.activation_bytes = bytes;
  result.seconds = seconds;
  return result;
}

bsconv::ProfileRow row(const std::string& path, int64_t depth, const std::string& type,
                       const std::string& info, bool is_leaf, const bsconv::ModuleCost& own,
                       const bsconv::ModuleCost& total) {
  bsconv::ProfileRow result;
  result.path = path;
  result.depth = depth;
  result.type = type;
  result.info = info;
  result.input_shape = {1, 3, 8, 8};
  result.output_shape = {1, 4};
  result.is_leaf = is_leaf;
  result.own = own;
  result.total = total;
  return result;
}

/// A model with `a` (`conv`, `bn` and an addition of its own) and `b`.
Profile sample(bool timed = false) {
  const auto time = [&](double seconds) { return timed ? seconds : 0.0; };
  Profile profile;
  const auto conv = cost(100, 1000000, 1024, time(0.003));
  const auto bn = cost(2000, 64, 4096, time(0.001));
  const auto own = cost(0, 10, 512, time(0.0005));
  const auto a = cost(2100, 1000074, 5632, time(0.0045));
  const auto b = cost(50, 500, 256, time(0.002));
  profile.rows = {
      row("", 0, "Net", "", false, cost(0, 0, 0), cost(2150, 1000574, 5888, time(0.0065))),
      row("a", 1, "Block", "", false, own, a), row("a.conv", 2, "Conv2d", "3x3", true, conv, conv),
      row("a.bn", 2, "BatchNorm2d", "", true, bn, bn), row("b", 1, "Linear", "", true, b, b)};
  profile.peak_activation_bytes = 5120;
  return profile;
}

Strings modules(const std::string& csv) {
  Strings names;
  std::istringstream lines(csv);
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    names.push_back(line.substr(0, line.find(',')));
  }
  return names;
}

TEST(ProfileText, CsvHasPlainNumbers) {
  EXPECT_EQ(to_csv(sample()),
            "Module,Type,Info,In Shape,Out Shape,Params,FLOPs,Activation Bytes\n"
            "a,Block,own operators,1x3x8x8,1x4,0,10,512\n"
            "a.conv,Conv2d,3x3,1x3x8x8,1x4,100,1000000,1024\n"
            "a.bn,BatchNorm2d,,1x3x8x8,1x4,2000,64,4096\n"
            "b,Linear,,1x3x8x8,1x4,50,500,256\n"
            "Total,Net,,1x3x8x8,1x4,2150,1000574,5888\n");
  EXPECT_EQ(to_csv(sample(true), ProfileTableOptions().depth(0)),
            "Module,Type,Info,In Shape,Out Shape,Params,FLOPs,Activation Bytes,Seconds\n"
            "Total,Net,,1x3x8x8,1x4,2150,1000574,5888,0.006500000\n");
  EXPECT_NE(to_csv(sample(true)).find("a,Block,own operators,1x3x8x8,1x4,0,10,512,0.000500000\n"),
            std::string::npos);
}

TEST(ProfileText, CsvQuotesWhatNeedsIt) {
  auto profile = sample();
  profile.rows[4].path = "b,\"c\"";
  profile.rows[4].type = "Pair<int, int>";
  profile.rows[4].info = "two\nlines";
  EXPECT_NE(to_csv(profile).find("\"b,\"\"c\"\"\",\"Pair<int, int>\",\"two\nlines\",1x3x8x8"),
            std::string::npos)
      << to_csv(profile);
}

TEST(ProfileText, DepthSumsUpWhatLiesBelow) {
  EXPECT_EQ(modules(to_csv(sample(), ProfileTableOptions().depth(0))), (Strings{"Total"}));
  EXPECT_EQ(modules(to_csv(sample(), ProfileTableOptions().depth(1))),
            (Strings{"a", "b", "Total"}));
  EXPECT_NE(to_csv(sample(), ProfileTableOptions().depth(1))
                .find("a,Block,,1x3x8x8,1x4,2100,1000074,"
                      "5632\n"),
            std::string::npos);
  EXPECT_EQ(modules(to_csv(sample(), ProfileTableOptions().depth(7))),
            (Strings{"a", "a.conv", "a.bn", "b", "Total"}));
  EXPECT_THROW(to_csv(sample(), ProfileTableOptions().depth(-1)), c10::ValueError);
}

TEST(ProfileText, SortsFromTheLargestAndKeepsTheTotalLast) {
  const auto sorted = [](ProfileOrder order) {
    return modules(to_csv(sample(true), ProfileTableOptions().order(order)));
  };
  EXPECT_EQ(sorted(ProfileOrder::parameters), (Strings{"a.bn", "a.conv", "b", "a", "Total"}));
  EXPECT_EQ(sorted(ProfileOrder::flops), (Strings{"a.conv", "b", "a.bn", "a", "Total"}));
  EXPECT_EQ(sorted(ProfileOrder::memory), (Strings{"a.bn", "a.conv", "a", "b", "Total"}));
  EXPECT_EQ(sorted(ProfileOrder::time), (Strings{"a.conv", "b", "a.bn", "a", "Total"}));
  EXPECT_EQ(sorted(ProfileOrder::tree), (Strings{"a", "a.conv", "a.bn", "b", "Total"}));
}

TEST(ProfileText, TheTableIsAligned) {
  auto profile = sample();
  profile.uncounted = {{"add", 9}, {"sigmoid", 1}};
  const std::string table = to_table(profile);
  Strings lines;
  std::istringstream stream(table);
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(line);
  }
  ASSERT_EQ(lines.size(), 9U) << table;
  EXPECT_EQ(lines[0],
            "Module  Type         Info           In Shape  Out Shape  Params      FLOPs   Memory");
  EXPECT_EQ(lines[1], std::string(lines[0].size(), '-'));
  EXPECT_EQ(lines[3],
            "a.conv  Conv2d       3x3            1x3x8x8   1x4           100  1,000,000  1.0 KiB");
  EXPECT_EQ(lines[6], lines[1]);
  EXPECT_EQ(lines[7],
            "Total   Net                         1x3x8x8   1x4         2,150  1,000,574  5.8 KiB");
  EXPECT_EQ(lines[8], "Counted as 0 FLOPs: add (9x), sigmoid");
  const auto human = to_table(sample(true), ProfileTableOptions().human_readable(true));
  EXPECT_NE(human.find("1.00 M"), std::string::npos) << human;
  EXPECT_NE(human.find("2.15 k"), std::string::npos) << human;
  EXPECT_NE(human.find("Time [ms]"), std::string::npos) << human;
  EXPECT_NE(human.find("6.500\n"), std::string::npos) << human;
}

TEST(ProfileText, MarkdownIsATable) {
  EXPECT_EQ(to_markdown(sample(), ProfileTableOptions().depth(0)),
            "| Module | Type | Info | In Shape | Out Shape | Params | FLOPs | Memory |\n"
            "| --- | --- | --- | --- | --- | ---: | ---: | ---: |\n"
            "| Total | Net |  | 1x3x8x8 | 1x4 | 2,150 | 1,000,574 | 5.8 KiB |\n");
}

TEST(ProfileText, AModelThatIsOneLayerShowsItself) {
  Profile profile;
  profile.rows = {row("", 0, "Conv2d", "1x1 PW", true, cost(8, 16, 32), cost(8, 16, 32))};
  EXPECT_EQ(to_csv(profile),
            "Module,Type,Info,In Shape,Out Shape,Params,FLOPs,Activation Bytes\n"
            "(model),Conv2d,1x1 PW,1x3x8x8,1x4,8,16,32\n"
            "Total,Conv2d,,1x3x8x8,1x4,8,16,32\n");
}

TEST(ProfileJsonText, HoldsEveryNumber) {
  auto profile = sample(true);
  profile.convention = bsconv::Convention::complete;
  profile.uncounted = {{"add", 9}};
  const auto json = nlohmann::json::parse(bsconv::to_json(profile, "a \"net\"\n").dump());
  EXPECT_EQ(json.at("model"), "a \"net\"\n");
  EXPECT_EQ(json.at("params"), 2150);
  EXPECT_EQ(json.at("flops"), 1000574);
  EXPECT_EQ(json.at("activation_bytes"), 5888);
  EXPECT_EQ(json.at("peak_activation_bytes"), 5120);
  EXPECT_EQ(json.at("convention"), "complete");
  EXPECT_EQ(json.at("seconds"), 0.0065);
  EXPECT_EQ(json.at("uncounted"), nlohmann::json({{"add", 9}}));
  ASSERT_EQ(json.at("modules").size(), 5U);
  EXPECT_EQ(json.at("modules")[1], nlohmann::json::parse(R"({
    "name": "a", "type": "Block", "info": "", "in_shape": [1, 3, 8, 8], "out_shape": [1, 4],
    "params": 2100, "flops": 1000074, "own_flops": 10, "activation_bytes": 5632,
    "seconds": 0.0045})"));
  const auto untimed = nlohmann::json::parse(bsconv::to_json(sample(), "net").dump());
  EXPECT_EQ(untimed.at("convention"), "reference");
  EXPECT_FALSE(untimed.contains("seconds"));
  EXPECT_FALSE(untimed.at("modules")[0].contains("seconds"));
  EXPECT_TRUE(untimed.at("uncounted").is_object());
  EXPECT_TRUE(untimed.at("uncounted").empty());
}

}  // namespace
}  // namespace profile_table_test
