// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <ostream>

#include <torch/types.h>

#include <bsconv/data/image_geometry.hpp>
#include <bsconv/data/transform.hpp>

namespace bsconv::data {

/// Sets a rectangle of each image to zero. `boxes`, int64 [N, 4], has first and last row, first and
/// last column, the last ones excluded; an empty box leaves the image as it is. Any dtype and
/// device.
inline torch::Tensor erase(const torch::Tensor& images, const torch::Tensor& boxes) {
  detail::check_batch(images);
  TORCH_CHECK(boxes.sizes() == torch::IntArrayRef({images.size(0), 4}), "boxes must be [",
              images.size(0), ", 4], got ", boxes.sizes());
  const auto box = boxes.to(images.device());
  const auto within = [&](int64_t first, int64_t size) {
    const auto places = torch::arange(size, box.options());
    return (places >= box.narrow(1, first, 1)).logical_and_(places < box.narrow(1, first + 1, 1));
  };
  const auto rows = within(0, images.size(2)).view({-1, 1, images.size(2), 1});
  const auto columns = within(2, images.size(3)).view({-1, 1, 1, images.size(3)});
  return images.masked_fill(rows.logical_and(columns), 0);
}

/// Sets a rectangle of random place, area and ratio of each image to zero with a probability, as
/// torchvision's `RandomErasing`. Source: Zhong et al., "Random Erasing Data Augmentation", AAAI
/// 2020.
class RandomErasing : public Transform {
 public:
  /// `scale` is the smallest and largest share of the image's area, `ratio` of height to width.
  explicit RandomErasing(double probability = 0.5, std::array<double, 2> scale = {0.02, 0.33},
                         std::array<double, 2> ratio = {0.3, 3.3})
      : probability_(probability), range_{scale, ratio} {
    detail::check_probability(probability);
    range_.check("RandomErasing");
  }

  torch::Tensor apply(const torch::Tensor& images, torch::Generator& generator) const override {
    detail::check_batch(images, generator);
    const auto boxes = torch::zeros({images.size(0), 4}, torch::kLong);
    const auto seeds = torch::empty({images.size(0)}, torch::kLong).random_(generator);
    for (int64_t i = 0; i < images.size(0); ++i) {
      ImageRandom random(static_cast<uint64_t>(seeds.const_data_ptr<int64_t>()[i]));
      if (random.uniform() < probability_) {
        draw(images.size(2), images.size(3), random, boxes.data_ptr<int64_t>() + 4 * i);
      }
    }
    return erase(images, boxes);
  }

  void pretty_print(std::ostream& stream) const override {
    stream << "RandomErasing(p=" << probability_ << ", scale=" << range_.scale[0] << ".."
           << range_.scale[1] << ", ratio=" << range_.ratio[0] << ".." << range_.ratio[1] << ')';
  }

 private:
  void draw(int64_t height, int64_t width, ImageRandom& random, int64_t* box) const {
    for (int attempt = 0; attempt < 10; ++attempt) {
      const double area =
          static_cast<double>(height * width) * random.uniform(range_.scale[0], range_.scale[1]);
      const double ratio =
          std::exp(random.uniform(std::log(range_.ratio[0]), std::log(range_.ratio[1])));
      const int64_t rows = std::lrint(std::sqrt(area * ratio));
      const int64_t columns = std::lrint(std::sqrt(area / ratio));
      if (rows < height && columns < width) {
        box[0] = random.below(height - rows + 1);
        box[1] = box[0] + rows;
        box[2] = random.below(width - columns + 1);
        box[3] = box[2] + columns;
        return;
      }
    }
  }

  double probability_;
  ResizedCropRange range_;
};

/// Sets a square around a random pixel of each image to zero; the part that leaves the image is cut
/// off. Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
/// Cutout", arXiv 1708.04552.
class Cutout : public Transform {
 public:
  /// A square of `side` x `side` pixels.
  explicit Cutout(int64_t side) : side_(side) {
    TORCH_CHECK(side > 0, "Cutout: the side must be positive, got ", side);
  }

  torch::Tensor apply(const torch::Tensor& images, torch::Generator& generator) const override {
    detail::check_batch(images, generator);
    const int64_t count = images.size(0);
    const auto draw = [&](int64_t size) {
      return torch::randint(0, size, {count}, generator, torch::kLong).sub_(side_ / 2);
    };
    const auto top = draw(images.size(2));
    const auto left = draw(images.size(3));
    return erase(images, torch::stack({top, top + side_, left, left + side_}, 1));
  }

  void pretty_print(std::ostream& stream) const override {
    stream << "Cutout(side=" << side_ << ')';
  }

 private:
  int64_t side_;
};

}  // namespace bsconv::data
