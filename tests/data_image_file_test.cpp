// SPDX-License-Identifier: BSD-3-Clause-Clear
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <bsconv/data/image_file.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "test_files.hpp"

// Tests are compiled several files at a time.
namespace data_image_file_test {
namespace {

using bsconv::data::decode_image;
using bsconv::data::read_image;
using bsconv::data::resize_image;
using bsconv_test::error_of;
using bsconv_test::TemporaryDirectory;
using bsconv_test::write_file;
using testing::HasSubstr;

std::vector<uint8_t> bytes_of(std::string_view text) { return {text.begin(), text.end()}; }

/// Encodes with libpng's simplified interface.
std::vector<uint8_t> encode_png(uint32_t format, uint32_t width, uint32_t height,
                                const std::vector<uint8_t>& pixels,
                                const std::vector<uint8_t>& palette = {}) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = width;
  image.height = height;
  image.format = format;
  image.colormap_entries = static_cast<uint32_t>(palette.size() / 3);
  const void* colors = palette.empty() ? nullptr : palette.data();
  png_alloc_size_t size = 0;
  TORCH_CHECK(png_image_write_to_memory(&image, nullptr, &size, 0, pixels.data(), 0, colors) != 0);
  std::vector<uint8_t> bytes(size);
  TORCH_CHECK(png_image_write_to_memory(&image, bytes.data(), &size, 0, pixels.data(), 0, colors) !=
              0);
  return bytes;
}

/// Encodes 16 x 16 pixels of one color, given in the file's own color space.
std::vector<uint8_t> encode_jpeg(J_COLOR_SPACE space, const std::vector<uint8_t>& color,
                                 bool adobe = true) {
  jpeg_compress_struct info{};
  jpeg_error_mgr error{};
  info.err = jpeg_std_error(&error);
  jpeg_create_compress(&info);
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &buffer, &size);
  info.image_width = 16;
  info.image_height = 16;
  info.input_components = static_cast<int>(color.size());
  info.in_color_space = space;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, 100, TRUE);
  info.write_Adobe_marker = adobe ? TRUE : FALSE;
  jpeg_start_compress(&info, TRUE);
  std::vector<uint8_t> row;
  for (int i = 0; i < 16; ++i) {
    row.insert(row.end(), color.begin(), color.end());
  }
  for (int i = 0; i < 16; ++i) {
    uint8_t* line = row.data();
    jpeg_write_scanlines(&info, &line, 1);
  }
  jpeg_finish_compress(&info);
  std::vector<uint8_t> bytes(buffer, buffer + size);
  jpeg_destroy_compress(&info);
  std::free(buffer);
  return bytes;
}

/// The color of pixel (y, x) of [3, H, W].
std::vector<int> color_at(const torch::Tensor& image, int64_t y, int64_t x) {
  std::vector<int> color;
  for (int64_t channel = 0; channel < 3; ++channel) {
    color.push_back(image[channel][y][x].item<int>());
  }
  return color;
}

void expect_near(const torch::Tensor& image, const std::vector<int>& color) {
  const auto found = color_at(image, 7, 9);
  for (std::size_t channel = 0; channel < 3; ++channel) {
    EXPECT_NEAR(found[channel], color[channel], 3) << "channel " << channel;
  }
}

TEST(DataImageFile, ReadsPngOfEveryKind) {
  const auto rgb = decode_image(encode_png(PNG_FORMAT_RGB, 3, 1, {1, 2, 3, 4, 5, 6, 7, 8, 9}), "x");
  EXPECT_EQ(rgb.sizes(), torch::IntArrayRef({3, 1, 3}));
  EXPECT_EQ(rgb.scalar_type(), torch::kByte);
  EXPECT_EQ(color_at(rgb, 0, 2), (std::vector<int>{7, 8, 9}));
  const auto gray = decode_image(encode_png(PNG_FORMAT_GRAY, 1, 2, {10, 200}), "x");
  EXPECT_EQ(gray.sizes(), torch::IntArrayRef({3, 2, 1}));
  EXPECT_EQ(color_at(gray, 1, 0), (std::vector<int>{200, 200, 200}));
  const auto palette =
      decode_image(encode_png(PNG_FORMAT_RGB_COLORMAP, 2, 1, {1, 0}, {9, 8, 7, 30, 20, 10}), "x");
  EXPECT_EQ(color_at(palette, 0, 0), (std::vector<int>{30, 20, 10}));
  EXPECT_EQ(color_at(palette, 0, 1), (std::vector<int>{9, 8, 7}));
  const auto alpha =
      decode_image(encode_png(PNG_FORMAT_RGBA, 2, 1, {50, 60, 70, 255, 50, 60, 70, 0}), "x");
  EXPECT_EQ(color_at(alpha, 0, 0), (std::vector<int>{50, 60, 70}));
  EXPECT_EQ(color_at(alpha, 0, 1), (std::vector<int>{255, 255, 255}));
  // Values below 256 of 65,536 in 16 bits, behind a byte for the fuzzer.
  const auto dark =
      bsconv_test::read_file(std::filesystem::path(BSCONV_TEST_DATA_DIR) / "fuzz/image/png_I16");
  EXPECT_LE(decode_image({dark.begin() + 1, dark.end()}, "x").max().item<int>(), 1);
}

/// `png` with a chunk that says that its values are linear light, and none that says otherwise.
std::vector<uint8_t> with_gamma_one(const std::vector<uint8_t>& image) {
  auto png = bsconv::data::detail::without_color_space(image);
  std::vector<uint8_t> chunk = {0, 0, 0, 4, 'g', 'A', 'M', 'A', 0, 1, 0x86, 0xa0};
  uint32_t crc = 0xffffffffU;
  for (std::size_t i = 4; i < chunk.size(); ++i) {
    crc ^= chunk[i];
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1U) ^ ((crc & 1U) != 0 ? 0xedb88320U : 0U);
    }
  }
  for (unsigned shift = 32; shift > 0; shift -= 8) {
    chunk.push_back(static_cast<uint8_t>(~crc >> (shift - 8)));
  }
  // Behind the signature and IHDR.
  png.insert(png.begin() + 33, chunk.begin(), chunk.end());
  return png;
}

TEST(DataImageFile, TakesValuesAsTheyAreWhateverTheGamma) {
  const auto plain = encode_png(PNG_FORMAT_RGB, 2, 1, {1, 20, 70, 128, 200, 250});
  const auto marked = with_gamma_one(plain);
  EXPECT_TRUE(decode_image(marked, "x").equal(decode_image(plain, "x")));
  EXPECT_EQ(color_at(decode_image(marked, "x"), 0, 1), (std::vector<int>{128, 200, 250}));
}

TEST(DataImageFile, ReadsJpegOfEveryColorSpace) {
  expect_near(decode_image(encode_jpeg(JCS_RGB, {200, 100, 50}), "x"), {200, 100, 50});
  expect_near(decode_image(encode_jpeg(JCS_GRAYSCALE, {77}), "x"), {77, 77, 77});
  // Adobe's inverted CMYK: 255 is no ink.
  expect_near(decode_image(encode_jpeg(JCS_CMYK, {255, 128, 0, 255}), "x"), {255, 128, 0});
  expect_near(decode_image(encode_jpeg(JCS_CMYK, {255, 255, 255, 100}), "x"), {100, 100, 100});
  // Without Adobe's marker 255 is full ink.
  expect_near(decode_image(encode_jpeg(JCS_CMYK, {0, 127, 255, 0}, false), "x"), {255, 128, 0});
}

TEST(DataImageFile, ReadsBinaryPpmAndPgm) {
  const auto color = decode_image(bytes_of("P6 # a comment\n2 1\n255\nabcdef"), "x");
  EXPECT_EQ(color.sizes(), torch::IntArrayRef({3, 1, 2}));
  EXPECT_EQ(color_at(color, 0, 1), (std::vector<int>{'d', 'e', 'f'}));
  const auto gray = decode_image(bytes_of(std::string("P5 1 2 15\n\x0f\x03", 12)), "x");
  EXPECT_EQ(color_at(gray, 0, 0), (std::vector<int>{255, 255, 255}));
  EXPECT_EQ(color_at(gray, 1, 0), (std::vector<int>{51, 51, 51}));
}

TEST(DataImageFile, RefusesDamagedImages) {
  const auto error = [](std::string_view text) {
    return error_of([&] { decode_image(bytes_of(text), "image 'x'"); });
  };
  EXPECT_THAT(error(""), HasSubstr("image 'x' is neither PNG, JPEG nor binary PPM"));
  EXPECT_THAT(error("GIF89a"), HasSubstr("is neither PNG"));
  EXPECT_THAT(error("P6"), HasSubstr("the PPM header ends early or has no number at byte 2"));
  EXPECT_THAT(error("P6 x"), HasSubstr("has no number at byte 3"));
  EXPECT_THAT(error("P6 0 1 255\n"), HasSubstr("is 0 x 1 pixels; from 1 to 268435456 are allowed"));
  EXPECT_THAT(error("P6 99999999999999999999 1 255\n"), HasSubstr("is too large"));
  EXPECT_THAT(error("P6 200000 200000 255\n"), HasSubstr("is 200000 x 200000 pixels"));
  EXPECT_THAT(error("P6 1 1 65535\nabcdef"), HasSubstr("has values up to 65535; 1 to 255"));
  EXPECT_THAT(error("P6 16384 16384 255\nabcde"),
              HasSubstr("is 16384 x 16384 pixels, which 24 bytes cannot tell; is it cut short?"));
  EXPECT_THAT(error("P6 2 1 255\nabcde"), HasSubstr("is cut short: 16 bytes, needs 17"));
  EXPECT_THAT(error("\x89PNG"), HasSubstr("is not a readable PNG: "));
  EXPECT_THAT(error("\xff\xd8\xff"), HasSubstr("is not a readable JPEG: "));
}

TEST(DataImageFile, RefusesImagesCutAtAnyByte) {
  for (const auto& whole : {encode_png(PNG_FORMAT_RGB, 2, 1, {1, 2, 3, 4, 5, 6}),
                            encode_jpeg(JCS_RGB, {200, 100, 50})}) {
    EXPECT_NO_THROW(decode_image(whole, "x"));
    // The end markers (PNG's IEND chunk of 12 bytes, JPEG's 2) carry no pixels.
    const std::size_t tail = whole[0] == 0x89 ? 12 : 2;
    for (std::size_t size = 0; size < whole.size() - tail; ++size) {
      const std::vector<uint8_t> cut(whole.begin(),
                                     whole.begin() + static_cast<std::ptrdiff_t>(size));
      EXPECT_NE(error_of([&] { decode_image(cut, "x"); }), "no error") << size;
    }
  }
}

TEST(DataImageFile, NamesTheFileThatCannotBeRead) {
  const TemporaryDirectory directory;
  EXPECT_THAT(error_of([&] { read_image(directory / "none.png"); }),
              HasSubstr("image '" + (directory / "none.png").native() + "' does not exist"));
  EXPECT_THAT(error_of([&] { read_image(directory.path()); }), HasSubstr("is not a regular file"));
  write_file(directory / "a.ppm", "P5 1 1 255\n!");
  EXPECT_EQ(read_image(directory / "a.ppm")[0][0][0].item<int>(), '!');
}

TEST(DataImageFile, ResizesWithAntialiasing) {
  const auto image = torch::tensor({0, 100, 200, 100}, torch::kByte).view({1, 1, 1, 4});
  EXPECT_TRUE(resize_image(image, 1, 4).equal(image));
  // PIL: Image.fromarray([[0, 100, 200, 100]]).resize((2, 1), Image.BILINEAR)
  EXPECT_TRUE(resize_image(image, 1, 2).flatten().equal(torch::tensor({71, 143}, torch::kByte)))
      << resize_image(image, 1, 2);
  EXPECT_EQ(resize_image(image, 8, 8).sizes(), torch::IntArrayRef({1, 1, 8, 8}));
  EXPECT_THAT(error_of([&] { resize_image(image, 0, 2); }),
              HasSubstr("got [1, 1, 1, 4] and 0 x 2"));
}

}  // namespace
}  // namespace data_image_file_test
