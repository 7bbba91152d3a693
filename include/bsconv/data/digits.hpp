// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ops/upsample_bilinear2d.h>
#include <torch/types.h>

#include <bsconv/data/dataset.hpp>
#include <bsconv/data/digits_data.hpp>

namespace bsconv::data {

namespace detail {

inline constexpr int64_t digits_count = 1797;
inline constexpr int64_t digits_pixels = 64;

/// The raw set: values 0..16, uint8 [1797, 1, 8, 8], and labels, int64 [1797].
inline std::pair<torch::Tensor, torch::Tensor> decode_digits() {
  std::string text;
  for (const std::string_view piece : digits_text) {
    text += piece;
  }
  auto images = torch::zeros({digits_count, 1, 8, 8}, torch::kByte);
  auto labels = torch::empty({digits_count}, torch::kLong);
  auto* image = images.data_ptr<uint8_t>();
  auto* label = labels.data_ptr<int64_t>();
  std::size_t next = 0;
  for (int64_t record = 0; record < digits_count; ++record) {
    label[record] = text.at(next++) - '0';
    for (int64_t pixel = 0; pixel < digits_pixels;) {
      const char symbol = text.at(next++);
      if (symbol >= 'a') {
        pixel += symbol - 'a' + 1;
      } else {
        image[record * digits_pixels + pixel++] = static_cast<uint8_t>(symbol - 'A');
      }
    }
  }
  TORCH_INTERNAL_ASSERT(next == text.size(), "digits_data.hpp is damaged");
  return {images, labels};
}

inline ImageDataset make_digits(Split split) {
  const auto [values, labels] = decode_digits();
  const auto index = torch::arange(digits_count);
  const auto is_test = index.remainder(5).eq(4);
  const auto chosen = (split == Split::test ? is_test : is_test.logical_not()).nonzero().squeeze(1);
  const auto scaled = at::upsample_bilinear2d(
      values.index_select(0, chosen).to(torch::kFloat) * (255.0 / 16.0), {32, 32},
      /*align_corners=*/false);
  return {scaled.round().clamp(0, 255).to(torch::kByte).expand({-1, 3, -1, -1}),
          labels.index_select(0, chosen),
          {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}};
}

}  // namespace detail

/// The embedded data set: 1,797 handwritten digits, as gray images [N, 3, 32, 32] of 10 classes.
///
/// The originals are 8 x 8 pixels with values 0..16; they are scaled bilinearly to 32 x 32 and
/// 0..255, with three equal channels. Every fifth record, 359 in all, is a test image, the other
/// 1,438 are for training. Decoded at first use; later calls share the memory.
/// Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
/// Learning Repository, 1998, CC BY 4.0.
inline const ImageDataset& digits(Split split) {
  if (split == Split::train) {
    static const ImageDataset train = detail::make_digits(Split::train);
    return train;
  }
  static const ImageDataset test = detail::make_digits(Split::test);
  return test;
}

}  // namespace bsconv::data
