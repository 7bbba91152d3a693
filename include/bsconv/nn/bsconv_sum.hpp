// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>
#include <bsconv/nn/bsconv_s.hpp>
#include <bsconv/nn/bsconv_u.hpp>
#include <bsconv/nn/composite.hpp>
#include <bsconv/nn/mode_of_children.hpp>
#include <bsconv/nn/options.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

namespace bsconv {

/// A sum of `BSConvU` or of `BSConvS` layers over the same input, which stands for one `Conv2d`.
///
/// A `BSConvU` has one blueprint a filter, so that each filter is a matrix `in x (height * width)`
/// of rank one; a sum of R has rank R, and is every convolution there is once R reaches
/// `min(in, height * width)`. Input `[N, in_channels, H, W]`, output `[N, out_channels, H', W']`.
///
/// The terms are the children `term1`, `term2`, … (`term1.pw.weight`, `term1.dw.weight`, …); the
/// first has the bias.
class BSConvSumImpl : public Composite<BSConvSumImpl>, public ModeOfChildren {
 public:
  /// A sum of `terms` layers `BSConvU`, at least 1. Throws `c10::ValueError` if an option is out of
  /// range.
  BSConvSumImpl(const BSConvUOptions& options, int64_t terms) {
    add_terms<BSConvU>(options, terms);
  }

  /// A sum of `terms` layers `BSConvS`, each with a basis of its own.
  BSConvSumImpl(const BSConvSOptions& options, int64_t terms) {
    add_terms<BSConvS>(options, terms);
  }

  torch::Tensor forward(const torch::Tensor& input) override {
    auto sum = call(terms_.front(), input);
    for (std::size_t index = 1; index < terms_.size(); ++index) {
      sum = sum + call(terms_[index], input);
    }
    return sum;
  }

  /// Prints the type and the number of terms, without children.
  void pretty_print(std::ostream& stream) const override {
    stream << "bsconv::BSConvSum(terms=" << terms_.size() << ", ";
    module(terms_.front())->pretty_print(stream);
    stream << ')';
  }

  /// The number of terms.
  int64_t terms() const { return static_cast<int64_t>(terms_.size()); }

  /// A term, counted from 0.
  const std::shared_ptr<torch::nn::Module>& term(int64_t index) const {
    return module(terms_.at(static_cast<std::size_t>(index)));
  }

 private:
  template <class Term, class Options>
  void add_terms(Options options, int64_t terms) {
    TORCH_CHECK_VALUE(terms > 0, "BSConvSum: terms must be at least 1, got ", terms);
    for (int64_t index = 1; index <= terms; ++index) {
      terms_.push_back(add("term" + std::to_string(index), Term(options)));
      options.bias(false);
    }
  }

  std::vector<Child> terms_;
};

/// A `ModuleHolder` for `BSConvSumImpl`.
TORCH_MODULE(BSConvSum);

}  // namespace bsconv
