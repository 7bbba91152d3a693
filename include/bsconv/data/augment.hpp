// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <ostream>

#include <torch/types.h>

#include <bsconv/data/image_size.hpp>
#include <bsconv/data/transform.hpp>
#include <bsconv/data/windows.hpp>

namespace bsconv::data {

namespace detail {

/// Cuts windows out of the images of any dtype on any device.
inline torch::Tensor cut_windows(const torch::Tensor& images, const Windows& windows,
                                 int64_t padding) {
  if (images.is_cpu() && images.scalar_type() == torch::kByte) {
    return copy_windows<uint8_t>(images.contiguous(), windows);
  }
  const int64_t count = images.size(0);
  const auto device = images.device();
  const auto on_device = torch::TensorOptions(torch::kLong).device(device);
  const auto rows = windows.top.view({count, 1}) + padding + torch::arange(windows.size.height);
  const auto columns = windows.left.view({count, 1}) + padding + torch::arange(windows.size.width);
  const auto padded = torch::constant_pad_nd(images, {padding, padding, padding, padding});
  return padded.index({torch::arange(count, on_device).view({-1, 1, 1, 1}),
                       torch::arange(images.size(1), on_device).view({1, -1, 1, 1}),
                       rows.to(device).view({count, 1, -1, 1}),
                       columns.to(device).view({count, 1, 1, -1})});
}

}  // namespace detail

/// Cuts a window of another size, or after padding with zeros, out of each image at a place drawn
/// for each image, as torchvision's `RandomCrop` does.
class RandomCrop : public Transform {
 public:
  /// Windows of `size` after `padding` pixels of zero on every side; a size of 0 stands for the
  /// image's own.
  explicit RandomCrop(ImageSize size = 0, int64_t padding = 0) : size_(size), padding_(padding) {
    TORCH_CHECK(padding >= 0, "padding must not be negative, got ", padding);
    if (size != ImageSize(0)) {
      size.check("the size of a crop");
    }
  }

  /// Draws the places for `count` images of `height` x `width`. Throws if a padded image is smaller
  /// than the window.
  detail::Windows draw(int64_t count, int64_t height, int64_t width,
                       torch::Generator& generator) const {
    detail::Windows windows;
    windows.size = size_ == ImageSize(0) ? ImageSize(height, width) : size_;
    const int64_t rows = height + 2 * padding_ - windows.size.height;
    const int64_t columns = width + 2 * padding_ - windows.size.width;
    TORCH_CHECK(rows >= 0 && columns >= 0, "cannot cut ", windows.size.height, " x ",
                windows.size.width, " pixels out of images of ", height, " x ", width,
                " with a padding of ", padding_);
    windows.top = torch::randint(0, rows + 1, {count}, generator, torch::kLong).sub_(padding_);
    windows.left = torch::randint(0, columns + 1, {count}, generator, torch::kLong).sub_(padding_);
    return windows;
  }

  /// Any dtype and device.
  torch::Tensor apply(const torch::Tensor& images, torch::Generator& generator) const override {
    detail::check_batch(images, generator);
    const auto windows = draw(images.size(0), images.size(2), images.size(3), generator);
    if (padding_ == 0 && windows.size == ImageSize(images.size(2), images.size(3))) {
      return images;
    }
    return detail::cut_windows(images, windows, padding_);
  }

  void pretty_print(std::ostream& stream) const override {
    stream << "RandomCrop(";
    if (size_ != ImageSize(0)) {
      stream << "size=" << size_ << ", ";
    }
    stream << "padding=" << padding_ << ')';
  }

 private:
  ImageSize size_;
  int64_t padding_;
};

/// Mirrors each image left to right with a probability, as torchvision's `RandomHorizontalFlip`.
class RandomHorizontalFlip : public Transform {
 public:
  /// `probability` lies in 0..1.
  explicit RandomHorizontalFlip(double probability = 0.5) : probability_(probability) {
    detail::check_probability(probability);
  }

  /// Draws which of `count` images are mirrored, bool [N].
  torch::Tensor draw(int64_t count, torch::Generator& generator) const {
    return torch::rand({count}, generator, torch::kDouble).lt(probability_);
  }

  /// Any dtype and device.
  torch::Tensor apply(const torch::Tensor& images, torch::Generator& generator) const override {
    detail::check_batch(images, generator);
    const auto mirrored = draw(images.size(0), generator).view({-1, 1, 1, 1}).to(images.device());
    return torch::where(mirrored, images.flip({3}), images);
  }

  void pretty_print(std::ostream& stream) const override {
    stream << "RandomHorizontalFlip(p=" << probability_ << ')';
  }

 private:
  double probability_;
};

/// The reference's augmentation of CIFAR: a random crop after padding, then, if `flip`, a
/// horizontal flip of every other image on average.
inline Augmentation crop_and_flip(int64_t padding = 4, bool flip = true) {
  Augmentation result = RandomCrop(0, padding);
  return flip ? result.then(RandomHorizontalFlip()) : result;
}

}  // namespace bsconv::data
