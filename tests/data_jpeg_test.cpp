// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/data/image_file.hpp>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "support/images.hpp"
#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace data_jpeg_test {
namespace {

using bsconv::data::ImageSize;
using bsconv::data::detail::decode_pixels;
using bsconv::data::detail::DecodeRequest;
using bsconv_test::encode_jpeg;
using bsconv_test::encode_png;
using bsconv_test::error_of;
using bsconv_test::JpegSettings;
using bsconv_test::soft_image;
using testing::HasSubstr;

torch::Tensor noise(int64_t height, int64_t width) {
  return torch::randint(0, 256, {3, height, width}, torch::kByte);
}

TEST(DataJpeg, APartIsThatPartOfTheWhole) {
  torch::manual_seed(1);
  std::mt19937 random(2);
  const auto below = [&](int64_t limit) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(limit));
  };
  for (const auto& settings :
       {JpegSettings{90, 1, 1, false}, JpegSettings{90, 2, 1, false}, JpegSettings{90, 2, 2, false},
        JpegSettings{90, 1, 2, false}, JpegSettings{90, 2, 2, true}}) {
    for (int round = 0; round < 60; ++round) {
      const int64_t height = 1 + below(150);
      const int64_t width = 1 + below(150);
      const auto bytes = encode_jpeg(noise(height, width), settings);
      const auto whole = decode_pixels(bytes, "x");
      ASSERT_EQ(whole.sizes(), torch::IntArrayRef({height, width, 3}));
      DecodeRequest request;
      request.region.size = {1 + below(height), 1 + below(width)};
      request.region.top = below(height - request.region.size.height + 1);
      request.region.left = below(width - request.region.size.width + 1);
      const auto part = decode_pixels(bytes, "x", [&](ImageSize size) {
        EXPECT_EQ(size, ImageSize(height, width));
        return request;
      });
      const auto expected =
          whole.slice(0, request.region.top, request.region.top + request.region.size.height)
              .slice(1, request.region.left, request.region.left + request.region.size.width);
      ASSERT_TRUE(part.equal(expected))
          << height << " x " << width << ", " << settings.across << settings.down << ", part of "
          << request.region.size << " at " << request.region.top << ", " << request.region.left;
    }
  }
}

TEST(DataJpeg, IsDecodedSmallerWhereThatIsEnough) {
  const auto image = soft_image(320, 480);
  const auto bytes = encode_jpeg(image);
  const auto decode = [&](ImageSize enough) {
    return decode_pixels(bytes, "x", [&](ImageSize size) {
      return DecodeRequest{{0, 0, size}, enough};
    });
  };
  EXPECT_EQ(decode(0).sizes(), torch::IntArrayRef({320, 480, 3}));
  EXPECT_EQ(decode({161, 240}).sizes(), torch::IntArrayRef({320, 480, 3}));
  EXPECT_EQ(decode({160, 240}).sizes(), torch::IntArrayRef({160, 240, 3}));
  EXPECT_EQ(decode({50, 120}).sizes(), torch::IntArrayRef({80, 120, 3}));
  EXPECT_EQ(decode({1, 1}).sizes(), torch::IntArrayRef({40, 60, 3}));
  const auto expected = bsconv::data::resize_image(image.unsqueeze(0), 80, 120).squeeze(0);
  const auto found = decode({80, 120}).permute({2, 0, 1});
  EXPECT_LE((found.to(torch::kInt) - expected.to(torch::kInt)).abs().max().item<int>(), 4);
}

TEST(DataJpeg, ASmallerPartHasTheRightPlace) {
  const auto image = soft_image(300, 400);
  const auto part = decode_pixels(encode_jpeg(image), "x", [](ImageSize) {
    return DecodeRequest{{80, 120, {120, 200}}, {60, 100}};
  });
  ASSERT_EQ(part.sizes(), torch::IntArrayRef({60, 100, 3}));
  const auto expected =
      bsconv::data::resize_image(image.slice(1, 80, 200).slice(2, 120, 320).unsqueeze(0), 60, 100);
  const auto difference =
      part.permute({2, 0, 1}).to(torch::kFloat) - expected.squeeze(0).to(torch::kFloat);
  EXPECT_LE(difference.abs().mean().item<double>(), 1.5);
}

TEST(DataJpeg, APartOfAPngIsThatPart) {
  const auto image = soft_image(20, 30);
  const auto part = decode_pixels(encode_png(image), "x", [](ImageSize) {
    return DecodeRequest{{3, 5, {7, 11}}, {2, 2}};
  });
  EXPECT_TRUE(part.permute({2, 0, 1}).equal(image.slice(1, 3, 10).slice(2, 5, 16)));
}

TEST(DataJpeg, DamageIsReportedAndNothingLeaks) {
  const auto whole = encode_jpeg(noise(64, 64));
  for (std::size_t size = 2; size < whole.size() - 2; size += 7) {
    const std::vector<uint8_t> cut(whole.begin(),
                                   whole.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THAT(error_of([&] { decode_pixels(cut, "image 'x'"); }),
                HasSubstr(size < 3 ? "image 'x' is neither" : "image 'x' is not a readable JPEG: "))
        << size;
  }
}

TEST(DataJpeg, KeepsTheNameForMessages) {
  auto bytes = encode_jpeg(noise(64, 64));
  bytes.resize(bytes.size() / 2);
  bsconv::data::detail::JpegDecoder decoder(bytes, std::string(100, 'x'));
  const DecodeRequest whole{{0, 0, decoder.size()}, ImageSize(0)};
  EXPECT_THAT(error_of([&] { decoder.decode(whole); }),
              HasSubstr(std::string(100, 'x') + " is not a readable JPEG: "));
}

TEST(DataJpeg, WhatIsHarmlessIsRead) {
  const auto whole = encode_jpeg(noise(24, 16));
  const auto expected = decode_pixels(whole, "x");
  auto version = whole;
  const std::string jfif("JFIF\0", 5);
  const auto marker = std::search(version.begin(), version.end(), jfif.begin(), jfif.end());
  ASSERT_NE(marker, version.end());
  marker[5] = 0;
  EXPECT_TRUE(decode_pixels(version, "x").equal(expected));
  auto zeros = whole;
  zeros.insert(zeros.end() - 2, 12, 0);
  EXPECT_TRUE(decode_pixels(zeros, "x").equal(expected));
}

TEST(DataJpeg, DamageInTheMiddleIsReportedWhereItShows) {
  torch::manual_seed(3);
  const auto whole = encode_jpeg(noise(64, 64));
  std::mt19937 random(4);
  int64_t reported = 0;
  for (int round = 0; round < 300; ++round) {
    auto damaged = whole;
    // Behind the tables, which are some 600 bytes.
    const auto at = 700 + random() % (whole.size() - 702);
    damaged[at] = static_cast<uint8_t>(damaged[at] ^ (1U << random() % 8));
    reported += error_of([&] { decode_pixels(damaged, "x"); }) != "no error" ? 1 : 0;
  }
  // Most wrong bits are other pixels; some end the image too early.
  EXPECT_GT(reported, 10);
}

}  // namespace
}  // namespace data_jpeg_test
