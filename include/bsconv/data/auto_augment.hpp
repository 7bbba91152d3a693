// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <ostream>

#include <torch/types.h>

#include <bsconv/data/color.hpp>
#include <bsconv/data/geometry.hpp>
#include <bsconv/data/tone.hpp>
#include <bsconv/data/transform.hpp>

namespace bsconv::data {

/// What `TrivialAugmentWide` and `RandAugment` choose from.
enum class AugmentOperation {
  identity,
  shear_x,
  shear_y,
  translate_x,
  translate_y,
  rotate,
  brightness,
  color,
  contrast,
  sharpness,
  posterize,
  solarize,
  autocontrast,
  equalize,
};

/// How many operations there are.
inline constexpr int64_t augment_operation_count = 14;

namespace detail {

/// Matrices of `affine` for images whose operation is one of the five that move pixels.
inline torch::Tensor operation_matrices(AugmentOperation operation, const torch::Tensor& magnitudes,
                                        int64_t height, int64_t width) {
  const auto zero = torch::zeros_like(magnitudes);
  const auto one = torch::ones_like(magnitudes);
  const auto rows = [](std::array<torch::Tensor, 6> entries) {
    return torch::stack(at::TensorList(entries.data(), entries.size()), 1).view({-1, 2, 3});
  };
  switch (operation) {
    case AugmentOperation::shear_x:
      // The upper left corner stays.
      return rows(
          {one, magnitudes, magnitudes * (static_cast<double>(height) / 2), zero, one, zero});
    case AugmentOperation::shear_y:
      return rows(
          {one, zero, zero, magnitudes, one, magnitudes * (static_cast<double>(width) / 2)});
    case AugmentOperation::translate_x:
      return rows({one, zero, -magnitudes.trunc(), zero, one, zero});
    case AugmentOperation::translate_y:
      return rows({one, zero, zero, zero, one, -magnitudes.trunc()});
    default: {
      const auto angle = magnitudes * (std::numbers::pi / 180);
      return rows({angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero});
    }
  }
}

}  // namespace detail

/// Does one operation to uint8 RGB images [N, 3, H, W] with a magnitude for each (`magnitudes`
/// [N]): shears by that tangent, translations by whole pixels, rotations by degrees, colors by that
/// change of a factor of 1, `posterize` to that many bits, `solarize` from that value on; the
/// others have none.
inline torch::Tensor apply_operation(AugmentOperation operation, const torch::Tensor& images,
                                     const torch::Tensor& magnitudes) {
  detail::check_color(images, magnitudes);
  switch (operation) {
    case AugmentOperation::identity:
      return images;
    case AugmentOperation::brightness:
      return adjust_brightness(images, 1 + magnitudes);
    case AugmentOperation::color:
      return adjust_saturation(images, 1 + magnitudes);
    case AugmentOperation::contrast:
      return adjust_contrast(images, 1 + magnitudes);
    case AugmentOperation::sharpness:
      return adjust_sharpness(images, 1 + magnitudes);
    case AugmentOperation::posterize:
      return posterize(images, magnitudes);
    case AugmentOperation::solarize:
      return solarize(images, magnitudes);
    case AugmentOperation::autocontrast:
      return autocontrast(images);
    case AugmentOperation::equalize:
      return equalize(images);
    default:
      return affine(images, detail::operation_matrices(operation, magnitudes, images.size(2),
                                                       images.size(3)));
  }
}

namespace detail {

/// How strong an operation is at its weakest and strongest, and whether a sign is drawn.
struct OperationRange {
  double weakest;
  double strongest;
  bool has_sign;
};

/// Does to image i what `operations[i]` says, at `levels[i]` from 0 to 1 and with the sign
/// `signs[i]`; all [N].
template <typename RangeOf>
torch::Tensor apply_operations(const torch::Tensor& images, const torch::Tensor& operations,
                               const torch::Tensor& levels, const torch::Tensor& signs,
                               const RangeOf& range_of) {
  auto result = images.clone();
  for (int64_t number = 1; number < augment_operation_count; ++number) {
    const auto operation = static_cast<AugmentOperation>(number);
    const auto chosen = (operations == number).nonzero().flatten();
    if (chosen.numel() == 0) {
      continue;
    }
    const OperationRange range = range_of(operation);
    auto magnitudes =
        range.weakest + (range.strongest - range.weakest) * levels.index_select(0, chosen);
    if (operation == AugmentOperation::posterize) {
      magnitudes = magnitudes.round();
    }
    if (range.has_sign) {
      magnitudes = magnitudes * signs.index_select(0, chosen);
    }
    const auto places = chosen.to(images.device());
    result.index_copy_(0, places,
                       apply_operation(operation, images.index_select(0, places), magnitudes));
  }
  return result;
}

/// -1 or 1 for each of `count` images.
inline torch::Tensor draw_signs(int64_t count, torch::Generator& generator) {
  return torch::randint(0, 2, {count}, generator, torch::kLong).to(torch::kDouble) * 2 - 1;
}

}  // namespace detail

/// One operation of random strength to each image, without anything to tune: torchvision's
/// `TrivialAugmentWide` of 31 strengths. Source: Müller and Hutter, "TrivialAugment: Tuning-free
/// Yet State-of-the-Art Data Augmentation", ICCV 2021.
class TrivialAugmentWide : public Transform {
 public:
  /// uint8 RGB images on any device.
  torch::Tensor apply(const torch::Tensor& images, torch::Generator& generator) const override {
    detail::check_batch(images, generator);
    const int64_t count = images.size(0);
    const auto operations =
        torch::randint(0, augment_operation_count, {count}, generator, torch::kLong);
    const auto levels = torch::randint(0, 31, {count}, generator, torch::kLong) / 30.0;
    const auto signs = detail::draw_signs(count, generator);
    return detail::apply_operations(images, operations, levels, signs, range_of);
  }
  void pretty_print(std::ostream& stream) const override { stream << "TrivialAugmentWide()"; }

 private:
  static detail::OperationRange range_of(AugmentOperation operation) {
    switch (operation) {
      case AugmentOperation::translate_x:
      case AugmentOperation::translate_y:
        return {0, 32, true};
      case AugmentOperation::rotate:
        return {0, 135, true};
      case AugmentOperation::posterize:
        return {8, 2, false};
      case AugmentOperation::solarize:
        return {255, 0, false};
      default:
        return {0, 0.99, true};
    }
  }
};

/// Several operations of one strength to each image: torchvision's `RandAugment` of 31 strengths.
/// Source: Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search
/// Space", NeurIPS 2020.
class RandAugment : public Transform {
 public:
  /// `operations` one after the other with `magnitude` 0 to 30.
  explicit RandAugment(int64_t operations = 2, int64_t magnitude = 9)
      : operations_(operations), magnitude_(magnitude) {
    TORCH_CHECK(operations >= 0, "RandAugment: the number of operations must not be negative, got ",
                operations);
    TORCH_CHECK(magnitude >= 0 && magnitude <= 30,
                "RandAugment: the magnitude must lie in 0..30, got ", magnitude);
  }

  /// uint8 RGB images on any device.
  torch::Tensor apply(const torch::Tensor& images, torch::Generator& generator) const override {
    detail::check_batch(images, generator);
    const int64_t count = images.size(0);
    const auto height = static_cast<double>(images.size(2));
    const auto width = static_cast<double>(images.size(3));
    const auto levels = torch::full({count}, static_cast<double>(magnitude_) / 30, torch::kDouble);
    torch::Tensor result = images;
    for (int64_t i = 0; i < operations_; ++i) {
      const auto operations =
          torch::randint(0, augment_operation_count, {count}, generator, torch::kLong);
      const auto signs = detail::draw_signs(count, generator);
      result = detail::apply_operations(result, operations, levels, signs,
                                        [&](AugmentOperation operation) -> detail::OperationRange {
                                          switch (operation) {
                                            case AugmentOperation::shear_x:
                                            case AugmentOperation::shear_y:
                                              return {0, 0.3, true};
                                            case AugmentOperation::translate_x:
                                              return {0, 150.0 / 331.0 * width, true};
                                            case AugmentOperation::translate_y:
                                              return {0, 150.0 / 331.0 * height, true};
                                            case AugmentOperation::rotate:
                                              return {0, 30, true};
                                            case AugmentOperation::posterize:
                                              return {8, 4, false};
                                            case AugmentOperation::solarize:
                                              return {255, 0, false};
                                            default:
                                              return {0, 0.9, true};
                                          }
                                        });
    }
    return result;
  }
  void pretty_print(std::ostream& stream) const override {
    stream << "RandAugment(operations=" << operations_ << ", magnitude=" << magnitude_ << ')';
  }

 private:
  int64_t operations_;
  int64_t magnitude_;
};

}  // namespace bsconv::data
