// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <ostream>
#include <vector>

#include <torch/types.h>

#include <bsconv/data/image_geometry.hpp>
#include <bsconv/data/image_size.hpp>
#include <bsconv/data/resize.hpp>
#include <bsconv/data/transform.hpp>

namespace bsconv::data {

/// The middle of images [N, C, H, W], of any dtype and device, padded with zeros where they are
/// smaller; torchvision's `center_crop`.
inline torch::Tensor center_crop(const torch::Tensor& images, ImageSize size) {
  detail::check_batch(images);
  size.check("the size of a crop");
  const int64_t top = detail::centered(images.size(2), size.height);
  const int64_t left = detail::centered(images.size(3), size.width);
  // A negative padding cuts off.
  return torch::constant_pad_nd(images, {-left, size.width + left - images.size(3), -top,
                                         size.height + top - images.size(2)})
      .contiguous();
}

/// The regions of `plans`, one an image, of uint8 images [N, C, H, W] scaled to `size`.
inline torch::Tensor resized_crop(const torch::Tensor& images, const std::vector<ImagePlan>& plans,
                                  ImageSize size) {
  detail::check_batch(images);
  size.check("the size of a crop");
  TORCH_CHECK(static_cast<int64_t>(plans.size()) == images.size(0),
              "there must be one region for each of the ", images.size(0), " images, got ",
              plans.size());
  auto result =
      torch::empty({images.size(0), images.size(1), size.height, size.width}, images.options());
  for (int64_t i = 0; i < images.size(0); ++i) {
    const auto& plan = plans[static_cast<std::size_t>(i)];
    const auto region = images.narrow(0, i, 1)
                            .narrow(2, plan.region_top, plan.region.height)
                            .narrow(3, plan.region_left, plan.region.width);
    result.narrow(0, i, 1).copy_(resize_image(region, size.height, size.width));
  }
  return result;
}

/// Moves the pixels of each image: the result's pixel (x, y) is the image's pixel nearest to
/// M (x, y, 1), both measured from the middle of the image; zero outside. `matrices` is [N, 2, 3];
/// images of any dtype and device. It is what torchvision's `affine` and `rotate` do without
/// interpolation.
inline torch::Tensor affine(const torch::Tensor& images, const torch::Tensor& matrices) {
  detail::check_batch(images);
  const int64_t count = images.size(0);
  const int64_t height = images.size(2);
  const int64_t width = images.size(3);
  TORCH_CHECK(matrices.sizes() == torch::IntArrayRef({count, 2, 3}), "matrices must be [", count,
              ", 2, 3], got ", matrices.sizes());
  const auto options = torch::TensorOptions(torch::kFloat).device(images.device());
  const auto matrix = matrices.to(options);
  const auto from_middle = [&](int64_t size) {
    return torch::arange(size, options) + (0.5 - static_cast<double>(size) / 2);
  };
  const auto x = from_middle(width).view({1, 1, -1});
  const auto y = from_middle(height).view({1, -1, 1});
  const auto place = [&](int64_t row, int64_t size) {
    const auto factor = [&](int64_t column) {
      return matrix.select(1, row).select(1, column).view({-1, 1, 1});
    };
    return (factor(0) * x + factor(1) * y + factor(2) + (static_cast<double>(size) / 2 - 0.5))
        .round_();
  };
  const auto columns = place(0, width);
  const auto rows = place(1, height);
  const auto inside = (columns >= 0)
                          .logical_and_(columns < static_cast<double>(width))
                          .logical_and_(rows >= 0)
                          .logical_and_(rows < static_cast<double>(height));
  const auto source = torch::where(inside, rows * static_cast<double>(width) + columns, 0.0)
                          .to(torch::kLong)
                          .view({count, 1, -1})
                          .expand({-1, images.size(1), -1});
  return images.reshape({count, images.size(1), -1})
      .gather(2, source)
      .view_as(images)
      .masked_fill(inside.logical_not().unsqueeze(1), 0);
}

/// Scales images as torchvision's antialiased `Resize`.
class Resize : public Transform {
 public:
  /// A size, or `ResizeRule::shorter_side(256)`.
  explicit Resize(ResizeRule rule) : rule_(rule) {}

  /// uint8 images on any device.
  torch::Tensor apply(const torch::Tensor& images, torch::Generator&) const override {
    detail::check_batch(images);
    const auto size = rule_.of({images.size(2), images.size(3)});
    return resize_image(images, size.height, size.width);
  }
  void pretty_print(std::ostream& stream) const override { stream << "Resize(" << rule_ << ')'; }

 private:
  ResizeRule rule_;
};

/// Cuts out the middle, as torchvision's `CenterCrop`.
class CenterCrop : public Transform {
 public:
  /// Images smaller than `size` are padded with zeros.
  explicit CenterCrop(ImageSize size) : size_(size) { size.check("the size of a crop"); }

  /// Any dtype and device.
  torch::Tensor apply(const torch::Tensor& images, torch::Generator&) const override {
    return center_crop(images, size_);
  }
  void pretty_print(std::ostream& stream) const override {
    stream << "CenterCrop(" << size_ << ')';
  }

 private:
  ImageSize size_;
};

/// A region of random place, area and ratio of each image, scaled to one size, as torchvision's
/// `RandomResizedCrop`. Files are better cropped while they are decoded: `ImageGeometry`.
class RandomResizedCrop : public Transform {
 public:
  /// Images of `size` from regions within `range`.
  explicit RandomResizedCrop(ImageSize size, ResizedCropRange range = {})
      : size_(size), range_(range) {
    size.check("the size of a crop");
    range.check("RandomResizedCrop");
  }

  /// uint8 images on any device.
  torch::Tensor apply(const torch::Tensor& images, torch::Generator& generator) const override {
    detail::check_batch(images, generator);
    const auto seeds = torch::empty({images.size(0)}, torch::kLong).random_(generator);
    std::vector<ImagePlan> plans;
    for (int64_t i = 0; i < images.size(0); ++i) {
      ImageRandom random(static_cast<uint64_t>(seeds.const_data_ptr<int64_t>()[i]));
      plans.push_back(draw_resized_crop({images.size(2), images.size(3)}, range_, random));
    }
    return resized_crop(images, plans, size_);
  }
  void pretty_print(std::ostream& stream) const override {
    stream << "RandomResizedCrop(size=" << size_ << ", scale=" << range_.scale[0] << ".."
           << range_.scale[1] << ", ratio=" << range_.ratio[0] << ".." << range_.ratio[1] << ')';
  }

 private:
  ImageSize size_;
  ResizedCropRange range_;
};

}  // namespace bsconv::data
