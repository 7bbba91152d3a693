// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <torch/types.h>

namespace bsconv::data {

/// Which part of a data set.
enum class Split {
  /// The images a model learns from.
  train,
  /// The images it is judged by.
  test,
};

/// "train" or "test".
inline const char* to_string(Split split) { return split == Split::train ? "train" : "test"; }

/// Labeled images of one size, held in memory on the CPU.
class ImageDataset {
 public:
  /// Takes `images`, uint8 [N, C, H, W], `labels`, int64 [N] from 0 to the number of classes - 1,
  /// and the classes' names in the order of the labels. Throws `c10::Error` if they do not fit
  /// together, naming the first bad record.
  ImageDataset(torch::Tensor images, torch::Tensor labels, std::vector<std::string> class_names)
      : images_(std::move(images)),
        labels_(std::move(labels)),
        class_names_(std::move(class_names)) {
    TORCH_CHECK(images_.defined() && images_.dim() == 4 && images_.scalar_type() == torch::kByte &&
                    images_.device().is_cpu(),
                "images must be a uint8 CPU tensor [N, C, H, W], got ", describe(images_));
    TORCH_CHECK(labels_.defined() && labels_.dim() == 1 && labels_.scalar_type() == torch::kLong &&
                    labels_.device().is_cpu(),
                "labels must be an int64 CPU tensor [N], got ", describe(labels_));
    TORCH_CHECK(images_.size(0) == labels_.size(0), "there are ", images_.size(0), " images but ",
                labels_.size(0), " labels");
    TORCH_CHECK(!class_names_.empty(), "a data set needs at least one class name");
    images_ = images_.contiguous();
    labels_ = labels_.contiguous();
    const int64_t* label = labels_.const_data_ptr<int64_t>();
    for (int64_t record = 0; record < size(); ++record) {
      TORCH_CHECK(label[record] >= 0 && label[record] < num_classes(), "record ", record,
                  " has label ", label[record], "; valid labels are 0 to ", num_classes() - 1);
    }
  }

  /// All images, uint8 [N, C, H, W].
  const torch::Tensor& images() const noexcept { return images_; }
  /// All labels, int64 [N].
  const torch::Tensor& labels() const noexcept { return labels_; }
  /// The classes' names, in the order of the labels.
  const std::vector<std::string>& class_names() const noexcept { return class_names_; }
  /// How many images there are.
  int64_t size() const { return images_.size(0); }
  /// How many classes there are.
  int64_t num_classes() const noexcept { return static_cast<int64_t>(class_names_.size()); }

  /// Copies of the records `indices` (int64 [M]), in that order.
  ImageDataset subset(const torch::Tensor& indices) const {
    return {images_.index_select(0, indices), labels_.index_select(0, indices), class_names_};
  }

 private:
  static std::string describe(const torch::Tensor& tensor) {
    return tensor.defined() ? tensor.toString() + " " + c10::str(tensor.sizes())
                            : std::string("an undefined tensor");
  }

  torch::Tensor images_;
  torch::Tensor labels_;
  std::vector<std::string> class_names_;
};

}  // namespace bsconv::data
