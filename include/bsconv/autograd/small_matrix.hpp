// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/autograd/statistics.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace bsconv::detail {

/// A matrix of a number or a few for each pair of channels, double. Most are so small that plain
/// loops handle them faster than LibTorch dispatches an operator.
class SmallMatrix {
 public:
  SmallMatrix() = default;
  /// `rows` times `columns` zeros.
  SmallMatrix(int64_t rows, int64_t columns)
      : rows_(rows), columns_(columns), values_(static_cast<std::size_t>(rows * columns)) {}
  /// `values`, a row behind the other.
  SmallMatrix(int64_t rows, int64_t columns, PerChannel values)
      : rows_(rows), columns_(columns), values_(std::move(values)) {}
  /// The weight of a pointwise convolution, `[rows, columns, 1, 1]`, float.
  explicit SmallMatrix(const torch::Tensor& weight) : SmallMatrix(weight.size(0), weight.size(1)) {
    const auto values = weight.contiguous();
    std::copy_n(values.const_data_ptr<float>(), values_.size(), values_.begin());
  }

  /// How many rows.
  int64_t rows() const { return rows_; }
  /// How many columns.
  int64_t columns() const { return columns_; }
  /// An element.
  double& at(int64_t row, int64_t column) { return values_[index(row, column)]; }
  /// An element.
  double at(int64_t row, int64_t column) const { return values_[index(row, column)]; }

  /// Multiplies each row by a number of its own.
  void scale_rows(const PerChannel& factors) {
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t column = 0; column < columns_; ++column) {
        at(row, column) *= factors[row];
      }
    }
  }

  /// Multiplies each column by a number of its own.
  void scale_columns(const PerChannel& factors) {
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t column = 0; column < columns_; ++column) {
        at(row, column) *= factors[column];
      }
    }
  }

  /// The product with a vector `[columns]`.
  PerChannel times(const PerChannel& vector) const {
    PerChannel result(static_cast<std::size_t>(rows_));
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t column = 0; column < columns_; ++column) {
        result[row] += at(row, column) * vector[column];
      }
    }
    return result;
  }

  /// The product with a matrix `[columns, any]`.
  SmallMatrix times(const SmallMatrix& other) const {
    constexpr int64_t small = 16 * 1024;
    SmallMatrix result(rows_, other.columns_);
    if (rows_ * columns_ * other.columns_ > small) {
      auto to = result.tensor();
      torch::mm_out(to, tensor(), other.tensor());
      return result;
    }
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t i = 0; i < columns_; ++i) {
        for (int64_t column = 0; column < other.columns_; ++column) {
          result.at(row, column) += at(row, i) * other.at(i, column);
        }
      }
    }
    return result;
  }

  /// A copy as a tensor `[rows, columns]`, float.
  torch::Tensor floats() const { return float_tensor(values_).view({rows_, columns_}); }

 private:
  std::size_t index(int64_t row, int64_t column) const {
    return static_cast<std::size_t>(row * columns_ + column);
  }

  torch::Tensor tensor() const { return as_tensor(values_).view({rows_, columns_}); }

  int64_t rows_ = 0;
  int64_t columns_ = 0;
  PerChannel values_;
};

/// The scalar product of each row with the same one of the other matrix.
inline PerChannel row_products(const SmallMatrix& a, const SmallMatrix& b) {
  PerChannel result(static_cast<std::size_t>(a.rows()));
  for (int64_t row = 0; row < a.rows(); ++row) {
    for (int64_t column = 0; column < a.columns(); ++column) {
      result[row] += a.at(row, column) * b.at(row, column);
    }
  }
  return result;
}

}  // namespace bsconv::detail
