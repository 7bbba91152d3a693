// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <functional>

#include <torch/types.h>

namespace bsconv::data {

/// Changes a batch of images [N, C, H, W] at random; draws only from the generator, so that equal
/// seeds give equal batches. The generator is the CPU's wherever the images lie.
using Augmentation = std::function<torch::Tensor(const torch::Tensor&, torch::Generator&)>;

namespace detail {

inline void check_batch(const torch::Tensor& images, const torch::Generator& generator) {
  TORCH_CHECK(images.defined() && images.dim() == 4, "images must be a tensor [N, C, H, W], got ",
              images.defined() ? c10::str(images.sizes()) : "an undefined tensor");
  TORCH_CHECK(generator.defined() && generator.device().is_cpu(),
              "augmentation needs a generator of the CPU, got ",
              generator.defined() ? generator.device().str() : "an undefined one");
}

}  // namespace detail

/// Pads each image of `images` [N, C, H, W] with `padding` pixels of zero on every side and cuts
/// an H x W window out of it at a place drawn for each image. Any dtype and device.
inline torch::Tensor random_crop(const torch::Tensor& images, int64_t padding,
                                 torch::Generator& generator) {
  detail::check_batch(images, generator);
  TORCH_CHECK(padding >= 0, "padding must not be negative, got ", padding);
  const int64_t count = images.size(0);
  const auto offsets = torch::randint(0, 2 * padding + 1, {2, count, 1}, generator, torch::kLong);
  if (padding == 0) {
    return images;
  }
  const auto on_cpu = torch::TensorOptions(torch::kLong);
  const auto rows = offsets[0] + torch::arange(images.size(2), on_cpu);
  const auto columns = offsets[1] + torch::arange(images.size(3), on_cpu);
  const auto device = images.device();
  const auto on_device = on_cpu.device(device);
  const auto padded = torch::constant_pad_nd(images, {padding, padding, padding, padding});
  return padded.index({torch::arange(count, on_device).view({-1, 1, 1, 1}),
                       torch::arange(images.size(1), on_device).view({1, -1, 1, 1}),
                       rows.to(device).view({count, 1, -1, 1}),
                       columns.to(device).view({count, 1, 1, -1})});
}

/// Mirrors each image of `images` [N, C, H, W] left to right with the given probability (0 to 1).
/// Any dtype and device.
inline torch::Tensor random_horizontal_flip(const torch::Tensor& images,
                                            torch::Generator& generator, double probability = 0.5) {
  detail::check_batch(images, generator);
  TORCH_CHECK(probability >= 0 && probability <= 1, "probability must lie in 0..1, got ",
              probability);
  const auto drawn = torch::rand({images.size(0)}, generator, torch::kDouble);
  const auto mirrored = drawn.lt(probability).view({-1, 1, 1, 1}).to(images.device());
  return torch::where(mirrored, images.flip({3}), images);
}

/// The reference's augmentation of CIFAR: a random crop after padding, then, if `flip`, a
/// horizontal flip of every other image on average.
inline Augmentation crop_and_flip(int64_t padding = 4, bool flip = true) {
  TORCH_CHECK(padding >= 0, "padding must not be negative, got ", padding);
  return [padding, flip](const torch::Tensor& images, torch::Generator& generator) {
    const auto cropped = random_crop(images, padding, generator);
    return flip ? random_horizontal_flip(cropped, generator) : cropped;
  };
}

}  // namespace bsconv::data
