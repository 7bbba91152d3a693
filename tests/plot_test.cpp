// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <bsconv/data/image_file.hpp>
#include <bsconv/plot.hpp>

#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace plot_test {
namespace {

using bsconv::plot::CsvTable;
using bsconv::plot::Figure;
using bsconv::plot::linear_axis;
using bsconv::plot::log_axis;
using bsconv_test::error_of;
using bsconv_test::TemporaryDirectory;
using bsconv_test::write_file;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(PlotAxis, MarksRoundNumbers) {
  EXPECT_THAT(linear_axis(0.3, 9.1, 5).ticks, ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(linear_axis(-1, 1, 4).ticks, ElementsAre(-1, -0.5, 0, 0.5, 1));
  EXPECT_THAT(linear_axis(3, 3, 4).ticks, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(log_axis(1, 8).ticks, ElementsAre(1, 2, 5));
  EXPECT_THAT(log_axis(6.2, 8.1).ticks, ElementsAre(6, 7, 8, 9));
  EXPECT_DOUBLE_EQ(log_axis(1, 100).position(10), 0.5);
  EXPECT_EQ(bsconv::plot::tick_text(0.30000000000000004), "0.3");
  EXPECT_EQ(bsconv::plot::tick_text(-1e-17), "0");
}

TEST(PlotAxis, HoldsWhatItIsMadeFor) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> exponent(-12, 12);
  for (int i = 0; i < 2000; ++i) {
    const double low = (i % 2 == 0 ? 1 : -1) * std::pow(10, exponent(random));
    const double high = low + std::pow(10, exponent(random));
    const auto axis = linear_axis(low, high);
    EXPECT_LE(axis.low, low + 1e-6 * (high - low));
    EXPECT_GE(axis.high, high - 1e-6 * (high - low));
    EXPECT_LE(axis.ticks.size(), 12U) << low << " " << high;
    const auto logarithmic = log_axis(std::abs(low), std::abs(low) * (1 + i));
    EXPECT_GT(logarithmic.position(std::abs(low)), 0);
    EXPECT_LT(logarithmic.position(std::abs(low) * (1 + i)), 1);
    EXPECT_GE(logarithmic.ticks.size(), 2U);
  }
}

TEST(PlotCsv, ReadsQuotedAndEmptyCells) {
  const TemporaryDirectory directory;
  const auto path = directory / "a.csv";
  write_file(path, "name,value\r\n\"a, \"\"b\"\"\",1.5\r\nc,\n");
  const auto table = CsvTable::read(path);
  EXPECT_THAT(table.texts("name"), ElementsAre("a, \"b\"", "c"));
  EXPECT_EQ(table.numbers("value")[0], 1.5);
  EXPECT_TRUE(std::isnan(table.numbers("value")[1]));
  EXPECT_FALSE(table.has("other"));
  EXPECT_THAT(error_of([&] { table.numbers("name"); }),
              HasSubstr("a.csv', row 1, name: 'a, \"b\"' is not a number"));
  EXPECT_THAT(error_of([&] { table.texts("valeu"); }),
              HasSubstr("has no column 'valeu'; the nearest is 'value'"));
  write_file(path, "a,b\n1\n");
  EXPECT_THAT(error_of([&] { CsvTable::read(path); }), HasSubstr("row 1: 1 cells under 2 names"));
  write_file(path, "\xef\xbb\xbfname\na\n");
  EXPECT_THAT(CsvTable::read(path).texts("name"), ElementsAre("a"));
  ASSERT_EQ(::mkfifo((directory / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { CsvTable::read(directory / "pipe"); }), HasSubstr("pipe'"));
  write_file(path, "");
  EXPECT_THAT(error_of([&] { CsvTable::read(path); }), HasSubstr("is empty"));
  EXPECT_THAT(error_of([] { CsvTable::read("/no/such.csv"); }),
              HasSubstr("cannot read '/no/such.csv'"));
}

TEST(PlotCurves, AreThoseOfTheRuns) {
  const TemporaryDirectory directory;
  write_file(directory / "one/metrics.csv",
             "epoch,train_loss,train_top1,test_loss,test_top1\n1,2,0.25,3,0.5\n2,1,0.75,,\n");
  write_file(directory / "two.csv", "epoch,train_loss,train_top1,test_loss,test_top1\n1,2,1,1,1\n");
  const auto figure = bsconv::plot::training_curves({directory / "one", directory / "two.csv"});
  ASSERT_EQ(figure.panels.size(), 2U);
  const auto& accuracy = figure.panels[0].series;
  ASSERT_EQ(accuracy.size(), 4U);
  EXPECT_EQ(accuracy[0].label, "one, train");
  EXPECT_TRUE(accuracy[0].dashed);
  EXPECT_THAT(accuracy[0].points, ElementsAre(std::pair(1.0, 25.0), std::pair(2.0, 75.0)));
  EXPECT_EQ(accuracy[1].points[0].second, 50);
  EXPECT_TRUE(std::isnan(accuracy[1].points[1].second));
  EXPECT_EQ(accuracy[3].label, "two, test");
  EXPECT_EQ(accuracy[3].color, 1U);
  EXPECT_THAT(figure.panels[1].series[0].points,
              ElementsAre(std::pair(1.0, 2.0), std::pair(2.0, 1.0)));
  EXPECT_THAT(error_of([&] { bsconv::plot::training_curves({directory.path()}); }),
              HasSubstr("metrics.csv'"));
}

TEST(PlotCurves, AreCalledByAsMuchAsTellsThemApart) {
  const TemporaryDirectory directory;
  for (const char* run : {"x/seed1", "x/seed2", "y/seed1"}) {
    write_file(directory / run / "metrics.csv",
               "epoch,train_loss,train_top1,test_loss,test_top1\n1,2,1,1,1\n");
  }
  const auto labels = [&directory](const std::vector<std::string>& runs) {
    std::vector<std::filesystem::path> paths;
    for (const auto& run : runs) {
      paths.push_back(directory / run);
    }
    const auto figure = bsconv::plot::training_curves(paths);
    std::vector<std::string> found;
    for (const auto& series : figure.panels[0].series) {
      found.push_back(series.label);
    }
    return found;
  };
  EXPECT_THAT(labels({"x/seed1"}), ElementsAre("seed1, train", "seed1, test"));
  EXPECT_THAT(labels({"x/seed1", "x/seed2"}),
              ElementsAre("seed1, train", "seed1, test", "seed2, train", "seed2, test"));
  EXPECT_THAT(labels({"x/seed1", "y/seed1", "x/seed2"}),
              ElementsAre("x/seed1, train", "x/seed1, test", "y/seed1, train", "y/seed1, test",
                          "seed2, train", "seed2, test"));
  EXPECT_EQ(labels({"x/seed1", "x/seed1"}).size(), 4U);
}

TEST(PlotCurves, OfTheSameColorHaveOtherSigns) {
  const TemporaryDirectory directory;
  const auto run = directory / "metrics.csv";
  write_file(run, "epoch,train_loss,train_top1,test_loss,test_top1\n1,2,1,1,1\n");
  const auto figure = bsconv::plot::training_curves(std::vector<std::filesystem::path>(50, run));
  std::set<std::pair<std::size_t, bsconv::plot::Marker>> looks;
  for (std::size_t i = 0; i < 40; ++i) {
    const auto& series = figure.panels[0].series[2 * i];
    looks.emplace(series.color % bsconv::plot::color_count, series.marker);
  }
  EXPECT_EQ(looks.size(), 40U);
}

TEST(PlotCsvTable, IsChangedAndWritten) {
  const TemporaryDirectory directory;
  const auto path = directory / "a.csv";
  write_file(path, "a,b\n1,\"x, \"\"y\"\"\"\n2,z\n");
  auto table = bsconv::plot::CsvTable::read(path);
  table.set(1, "b", "w\n");
  table.set(0, "c", "3");
  write_file(path, table.to_text());
  const auto again = bsconv::plot::CsvTable::read(path);
  EXPECT_THAT(again.texts("b"), ElementsAre("x, \"y\"", "w\n"));
  EXPECT_THAT(again.texts("c"), ElementsAre("3", ""));
  EXPECT_THAT(again.texts("a"), ElementsAre("1", "2"));
  EXPECT_THAT(error_of([&] { table.set(2, "a", ""); }), HasSubstr("has 2 rows, none 2"));
}

TEST(PlotResults, HaveARingWhereThereIsAnAccuracyOfOurs) {
  const TemporaryDirectory directory;
  write_file(directory / "a.csv",
             "table,model,accuracy_top1,params_M,flops_M,our_top1\n"
             "t,cifar_resnet20,68.5,0.27,41,\n"
             "t,cifar_resnet20_bsconvu,64.4,0.05,8,64.5\n");
  const auto figure = bsconv::plot::accuracy_by_cost(directory / "a.csv");
  for (const auto& panel : figure.panels) {
    ASSERT_EQ(panel.series.size(), 3U);
    const auto& rings = panel.series[2];
    EXPECT_EQ(panel.series[0].label, "baseline");
    EXPECT_EQ(panel.series[1].label, "BSConv-U, published");
    EXPECT_EQ(rings.label, "BSConv-U, ours");
    EXPECT_EQ(rings.color, panel.series[1].color);
    EXPECT_EQ(rings.marker, bsconv::plot::Marker::ring);
    EXPECT_FALSE(rings.line);
  }
  EXPECT_THAT(figure.panels[0].series[2].points, ElementsAre(std::pair(0.05, 64.5)));
  EXPECT_THAT(figure.panels[1].series[2].points, ElementsAre(std::pair(8.0, 64.5)));
}

TEST(PlotResults, LieAtExactCostsWhereThereAreAny) {
  const TemporaryDirectory directory;
  write_file(directory / "a.csv",
             "table,model,accuracy_top1,params_M,flops_M,params,flops,our_top1\n"
             "t,a,60,0.03,5.66,33105,5662052,61\nt,b,62,0.04,7.26,,7255396,\n");
  const auto figure = bsconv::plot::accuracy_by_cost(directory / "a.csv");
  EXPECT_THAT(figure.panels[0].series.at(0).points,
              ElementsAre(std::pair(0.033105, 60.0), std::pair(0.04, 62.0)));
  EXPECT_THAT(figure.panels[1].series.at(0).points,
              ElementsAre(std::pair(5.662052, 60.0), std::pair(7.255396, 62.0)));
  EXPECT_THAT(figure.panels[0].series.at(1).points, ElementsAre(std::pair(0.033105, 61.0)));
  EXPECT_THAT(figure.panels[1].series.at(1).points, ElementsAre(std::pair(5.662052, 61.0)));
}

TEST(PlotResults, LeaveOutWhatHasNoCost) {
  const TemporaryDirectory directory;
  write_file(directory / "a.csv",
             "table,model,accuracy_top1,params_M,flops_M\n"
             "t,a,60,5,50\nt,b,61,,20\nt,c,62,3,\nt,d,,4,40\nt,e,63,2,10\n");
  const auto figure = bsconv::plot::accuracy_by_cost(directory / "a.csv");
  EXPECT_THAT(figure.panels[0].series.at(0).points,
              ElementsAre(std::pair(2.0, 63.0), std::pair(3.0, 62.0), std::pair(5.0, 60.0)));
  EXPECT_THAT(figure.panels[1].series.at(0).points,
              ElementsAre(std::pair(10.0, 63.0), std::pair(20.0, 61.0), std::pair(50.0, 60.0)));
}

TEST(PlotResults, HaveASeriesAKindOfConvolution) {
  const std::string results = BSCONV_MODELS_DIR "/results.csv";
  const auto figure = bsconv::plot::accuracy_by_cost(results, "CIFAR100 - WideResNets (WRN-28)");
  EXPECT_EQ(figure.title, "CIFAR100 - WideResNets (WRN-28)");
  ASSERT_EQ(figure.panels.size(), 2U);
  auto series = figure.panels[0].series;
  // Those of ours grow in number.
  std::erase_if(series, [](const auto& one) { return one.marker == bsconv::plot::Marker::ring; });
  ASSERT_EQ(series.size(), 3U);
  EXPECT_EQ(series[0].label, "baseline");
  EXPECT_EQ(series[1].label, "BSConv-U, published");
  EXPECT_EQ(series[2].label, "BSConv-S (p=1/4), published");
  EXPECT_EQ(series[0].points.size(), 8U);
  for (std::size_t i = 1; i < series[0].points.size(); ++i) {
    EXPECT_LT(series[0].points[i - 1].first, series[0].points[i].first);
  }
  EXPECT_EQ(
      bsconv::plot::accuracy_by_cost(results, "CIFAR10 - MobileNetV*").panels[0].series.size(), 8U);
  EXPECT_THAT(error_of([&] { bsconv::plot::accuracy_by_cost(results, "none"); }),
              HasSubstr("matches 'none'; there are CIFAR10 - "));
  EXPECT_THAT(error_of([&] { bsconv::plot::accuracy_by_cost(results); }),
              HasSubstr("series, more than the 12 one can tell apart"));
}

/// How many of the pixels of uint8 [3, H, W] have a color, give or take what smoothing makes of it.
int64_t count_pixels(const torch::Tensor& image, const bsconv::plot::Color& color) {
  const auto wanted = torch::tensor({color.red, color.green, color.blue}).mul(255).view({3, 1, 1});
  return image.to(torch::kDouble).sub(wanted).abs().amax(0).le(8).sum().item<int64_t>();
}

TEST(PlotSave, DrawsEachSeriesInItsColor) {
  Figure figure;
  figure.title = "A <title> & more";
  figure.panels.resize(1);
  auto& panel = figure.panels[0];
  panel.x_label = "x";
  for (std::size_t i = 0; i < 5; ++i) {
    bsconv::plot::Series series;
    series.label = "series";
    series.label += std::to_string(i);
    series.color = i;
    series.marker = static_cast<bsconv::plot::Marker>(i + 1);
    const auto y = static_cast<double>(i);
    series.points = {{1, y}, {2, std::numeric_limits<double>::quiet_NaN()}, {3, y + 1}};
    panel.series.push_back(series);
  }
  const TemporaryDirectory directory;
  bsconv::plot::save_figure(directory / "a.png", figure);
  const auto image = bsconv::data::read_image(directory / "a.png");
  EXPECT_EQ(image.size(0), 3);
  EXPECT_EQ(image.size(2), 2 * (460 + 28));
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_GT(count_pixels(image, bsconv::plot::series_color(i)), 300) << i;
  }
  EXPECT_EQ(count_pixels(image, bsconv::plot::series_color(5)), 0);
  EXPECT_GT(count_pixels(image, {1, 1, 1}), image.numel() / 3 / 2);

  bsconv::plot::save_figure(directory / "a.svg", figure);
  const auto svg = bsconv_test::read_file(directory / "a.svg");
  EXPECT_THAT(svg, HasSubstr("<svg "));
  EXPECT_LT(svg.find("<svg "), svg.find(">\n<title>A &lt;title&gt; &amp; more</title>"));
  EXPECT_THAT(svg, HasSubstr(">\n<title>A &lt;title&gt; &amp; more</title>"));
  EXPECT_THAT(svg, HasSubstr("</svg>"));
  EXPECT_THAT(error_of([&] { bsconv::plot::save_figure(directory / "a.pdf", figure); }),
              HasSubstr("valid endings are .svg and .png"));
  EXPECT_THAT(error_of([&] { bsconv::plot::save_figure("/no/such/a.png", figure); }),
              HasSubstr("cannot write '/no/such/a.png'"));
  EXPECT_THAT(error_of([] { bsconv::plot::to_svg({}); }), HasSubstr("a figure needs a panel"));
}

TEST(PlotSave, DrawsEmptyAndSinglePoints) {
  Figure figure;
  figure.panels.resize(2);
  figure.panels[1].log_x = true;
  figure.panels[0].series.push_back({"one", {{1, 5}}, 0, false, bsconv::plot::Marker::none});
  figure.panels[1].series.push_back({"zero", {{0, 5}}, 1, false, bsconv::plot::Marker::none});
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  figure.panels[0].series.push_back(
      {"seldom", {{1, nan}, {2, nan}, {3, 2}, {4, nan}}, 2, false, bsconv::plot::Marker::none});
  const TemporaryDirectory directory;
  bsconv::plot::save_figure(directory / "a.png", figure, 1);
  const auto image = bsconv::data::read_image(directory / "a.png");
  EXPECT_GT(count_pixels(image, bsconv::plot::series_color(0)), 10);
  // The legend's line alone, and it and a point.
  const auto pixels = [&image](std::size_t series) {
    return count_pixels(image, bsconv::plot::series_color(series));
  };
  EXPECT_GT(pixels(2), pixels(1) + 4);
}

}  // namespace
}  // namespace plot_test
