// SPDX-License-Identifier: BSD-3-Clause-Clear
// Plots: positions, ticks, gaps, escaping.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/util/svg.hpp>

#include <cmath>
#include <string>

#include "test_files.hpp"

namespace util_svg_test {
namespace {

using bsconv::svg::Plot;
using bsconv_test::count;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

TEST(Svg, TicksAreRoundNumbers) {
  EXPECT_THAT(bsconv::svg::detail::ticks(0.0, 100.0), ElementsAre(0, 20, 40, 60, 80, 100));
  EXPECT_THAT(bsconv::svg::detail::ticks(-3.0, 7.0), ElementsAre(-2, 0, 2, 4, 6));
  EXPECT_EQ(bsconv::svg::detail::number(bsconv::svg::detail::ticks(0.0, 0.3, 3)[3]), "0.3");
}

TEST(Svg, PutsValuesWhereTheAxesSay) {
  Plot plot;
  plot.points("", {0.0, 10.0}, {0.0, 1.0}).x_range(0.0, 10.0).y_range(0.0, 1.0).size(158, 138);
  // The axes take 44 to 144 of the width and 14 to 114 of the height.
  const auto svg = plot.to_string();
  EXPECT_THAT(svg, HasSubstr("<circle cx=\"44\" cy=\"114\""));
  EXPECT_THAT(svg, HasSubstr("<circle cx=\"144\" cy=\"14\""));
  Plot bars;
  bars.bars("", {0.0, 5.0, 10.0}, {0.5, 0.0}).y_range(0.0, 1.0).size(158, 138);
  EXPECT_THAT(bars.to_string(), HasSubstr("<rect x=\"45\" y=\"64\" width=\"48\" height=\"50\""));
  EXPECT_THAT(bars.to_string(), HasSubstr("<title>0 to 5: 0.5</title>"));
}

TEST(Svg, LinesHaveGapsAndNamesAreEscaped) {
  Plot plot("loss < 1 & \"more\"", "epoch", "loss");
  plot.line("train", {1, 2, 3, 4, 5}, {5, 4, std::nan(""), 2, 1}).line("", {1, 5}, {2, 2});
  const auto svg = plot.to_string();
  EXPECT_THAT(svg, HasSubstr("loss &lt; 1 &amp; &quot;more&quot;"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_EQ(count(svg, "<path"), 2U);
  EXPECT_EQ(count(svg.substr(svg.find("<path"), svg.find("/>", svg.find("<path"))), " M"), 1U);
  EXPECT_EQ(count(svg, ">train</text>"), 1U);
}

TEST(Svg, OneValueOrNoneStillHasAxes) {
  for (const auto& svg :
       {Plot().line("", {}, {}).to_string(), Plot().line("", {3}, {7}).to_string(),
        Plot().bars("", {0, 1}, {0}).to_string(),
        Plot().line("", {1, 2}, {0.3, 0.1 + 0.2}).to_string(),
        Plot().line("", {1, 2}, {0, 1}).y_range(0.3, 0.1 + 0.2).to_string()}) {
    EXPECT_THAT(svg, HasSubstr("</svg>"));
    EXPECT_THAT(svg, Not(HasSubstr("nan")));
    EXPECT_THAT(svg, Not(HasSubstr("inf")));
  }
}

TEST(Svg, GridsHoldAllPlots) {
  const std::vector<Plot> plots(5, Plot().size(200, 100));
  const auto svg = bsconv::svg::grid(plots, 2);
  EXPECT_THAT(svg, HasSubstr("width=\"400\" height=\"300\""));
  EXPECT_THAT(svg, HasSubstr("x=\"200\" y=\"100\""));
  EXPECT_EQ(count(svg, "<svg"), 6U);
}

TEST(Svg, RefusesWhatDoesNotFit) {
  EXPECT_THROW(Plot().line("a", {1, 2}, {1}), c10::ValueError);
  EXPECT_THROW(Plot().bars("a", {1, 2}, {1, 2}), c10::ValueError);
  EXPECT_THROW(Plot().x_range(1, 1), c10::ValueError);
  EXPECT_THROW(Plot().y_range(0, INFINITY), c10::ValueError);
  EXPECT_THROW(Plot().size(10, 10), c10::ValueError);
  EXPECT_THROW(bsconv::svg::grid({}, 0), c10::ValueError);
}

}  // namespace
}  // namespace util_svg_test
