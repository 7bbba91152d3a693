// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/options/batchnorm.h>
#include <bsconv/nn/bsconv_s.hpp>
#include <bsconv/nn/bsconv_sum.hpp>
#include <bsconv/nn/bsconv_u.hpp>
#include <bsconv/nn/graft.hpp>
#include <bsconv/nn/options.hpp>
#include <bsconv/replace/calibration.hpp>
#include <bsconv/util/text.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace bsconv {

/// Where the weights of new layers come from.
enum class Initialization {
  /// LibTorch's default initialization, as in the Python package.
  random,
  /// The closest that the layer can come to the old weights, see `initialize_from`.
  svd,
  /// The closest that the layer's outputs can come to the old ones on sample inputs, see
  /// `Calibration`: layer by layer, in the order in which they run, by alternating least squares
  /// from the inputs that the replaced layers before give and the outputs of the original model.
  data,
};

/// Which convolutions a replacement takes, and how it goes about it. `Derived` are
/// `BSConvUReplacementOptions` or `BSConvSReplacementOptions`; setters chain.
template <class Derived>
class ReplacementOptions {
 public:
  /// A kernel's height and width.
  using KernelSize = std::array<int64_t, 2>;

  /// Only convolutions with one of these kernel sizes; none means any size. Default: 3x3 and 5x5
  Derived& kernel_sizes(std::vector<KernelSize> kernel_sizes) {
    kernel_sizes_ = std::move(kernel_sizes);
    return self();
  }
  /// The accepted kernel sizes.
  const std::vector<KernelSize>& kernel_sizes() const { return kernel_sizes_; }

  /// Only convolutions with one of these numbers of groups; none means any number. The
  /// replacement always mixes all channels. Default: 1
  Derived& groups(std::vector<int64_t> groups) {
    groups_ = std::move(groups);
    return self();
  }
  /// The accepted numbers of groups.
  const std::vector<int64_t>& groups() const { return groups_; }

  /// Only modules whose path matches one of these shell patterns (`stage1.*`); none means all.
  Derived& include(std::vector<std::string> patterns) {
    include_ = std::move(patterns);
    return self();
  }
  /// The patterns to include.
  const std::vector<std::string>& include() const { return include_; }

  /// No modules whose path matches one of these shell patterns: `{"conv1"}` keeps a stem.
  Derived& exclude(std::vector<std::string> patterns) {
    exclude_ = std::move(patterns);
    return self();
  }
  /// The patterns to exclude.
  const std::vector<std::string>& exclude() const { return exclude_; }

  /// Only convolutions with at least this many input and output channels. Default: 1
  Derived& min_channels(int64_t min_channels) {
    min_channels_ = min_channels;
    return self();
  }
  /// The least number of channels.
  int64_t min_channels() const { return min_channels_; }

  /// Whether the new layers have batch normalizations after their pointwise parts. Default: false
  Derived& with_bn(bool with_bn) {
    with_bn_ = with_bn;
    return self();
  }
  /// Whether the new layers have batch normalizations.
  bool with_bn() const { return with_bn_; }

  /// Options of these batch normalizations; `num_features` is set by the layer.
  Derived& bn_options(const torch::nn::BatchNormOptions& options) {
    bn_options_ = options;
    return self();
  }
  /// Options of the batch normalizations.
  const torch::nn::BatchNormOptions& bn_options() const { return bn_options_; }

  /// Where the new weights come from. Batch normalizations, the new layers' own and those behind
  /// them, need new statistics afterwards in any case. Default: random
  Derived& initialization(Initialization initialization) {
    initialization_ = initialization;
    return self();
  }
  /// Where the new weights come from.
  Initialization initialization() const { return initialization_; }

  /// The sample inputs for `Initialization::data`. Default: none
  Derived& calibration(Calibration calibration) {
    calibration_ = std::move(calibration);
    return self();
  }
  /// The sample inputs.
  const Calibration& calibration() const { return calibration_; }

  /// How many layers, added up, stand for one convolution (see `BSConvSum`); with one it is a plain
  /// `BSConvU` or `BSConvS`. Never more than are exact. Default: 1
  Derived& terms(int64_t terms) {
    terms_ = terms;
    return self();
  }
  /// How many layers stand for one convolution.
  int64_t terms() const { return terms_; }

  /// Chooses the terms of each layer: the fewest that can have this share, 0 to 1, of the squared
  /// norm of the old weights, but at least `terms`, and no more than have the parameters of the old
  /// convolution. 0 gives every layer `terms`. Default: 0
  Derived& explained_variance(double share) {
    explained_variance_ = share;
    return self();
  }
  /// The share by which the terms are chosen.
  double explained_variance() const { return explained_variance_; }

  /// Replaces the convolutions at these paths and no others, each by so many layers: what
  /// `ReplacementReport::layer_terms` says of an earlier replacement, to make a model that can load
  /// its weights; none of them if there is no path. Goes before `terms` and `explained_variance`.
  /// Default: not used
  Derived& layer_terms(std::map<std::string, int64_t> layer_terms) {
    layer_terms_ = std::move(layer_terms);
    return self();
  }
  /// The terms by path, if they were given.
  const std::optional<std::map<std::string, int64_t>>& layer_terms() const { return layer_terms_; }

  /// Leaves a convolution alone if the new layer can have less than this share, 0 to 1, of the
  /// squared norm of its weights; the report tells. Default: 0
  Derived& min_explained_variance(double share) {
    min_explained_variance_ = share;
    return self();
  }
  /// The least share.
  double min_explained_variance() const { return min_explained_variance_; }

  /// Reports what would be replaced and changes nothing. Default: false
  Derived& dry_run(bool dry_run) {
    dry_run_ = dry_run;
    return self();
  }
  /// Whether nothing is changed.
  bool dry_run() const { return dry_run_; }

  /// Whether these options select `module` at `path`.
  bool selects(const torch::nn::Module& module, const std::string& path) const {
    const auto* conv = dynamic_cast<const torch::nn::Conv2dImpl*>(&module);
    if (conv == nullptr || grafted_substitute(module) != nullptr) {
      return false;
    }
    const auto& options = conv->options;
    const auto any_pattern = [&](const std::vector<std::string>& patterns) {
      return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
        return detail::matches(pattern, path);
      });
    };
    const auto accepts = [](const auto& accepted, const auto& value) {
      return accepted.empty() ||
             std::find(accepted.begin(), accepted.end(), value) != accepted.end();
    };
    return accepts(groups_, options.groups()) && accepts(kernel_sizes_, *options.kernel_size()) &&
           std::min(options.in_channels(), options.out_channels()) >= min_channels_ &&
           (!layer_terms_ || layer_terms_->count(path) != 0) &&
           (include_.empty() || any_pattern(include_)) && !any_pattern(exclude_);
  }

 protected:
  /// Throws `c10::ValueError` naming `function` if an option is out of range.
  void check(const char* function) const {
    for (const auto& size : kernel_sizes_) {
      TORCH_CHECK_VALUE(size[0] > 0 && size[1] > 0, function,
                        ": kernel_sizes must be at least 1, got ", size[0], "x", size[1]);
    }
    for (const int64_t groups : groups_) {
      TORCH_CHECK_VALUE(groups > 0, function, ": groups must be at least 1, got ", groups);
    }
    TORCH_CHECK_VALUE(min_explained_variance_ >= 0.0 && min_explained_variance_ <= 1.0, function,
                      ": min_explained_variance must be 0 to 1, got ", min_explained_variance_);
    TORCH_CHECK_VALUE(explained_variance_ >= 0.0 && explained_variance_ <= 1.0, function,
                      ": explained_variance must be 0 to 1, got ", explained_variance_);
    TORCH_CHECK_VALUE(terms_ > 0, function, ": terms must be at least 1, got ", terms_);
    if (layer_terms_) {
      for (const auto& [path, terms] : *layer_terms_) {
        TORCH_CHECK_VALUE(terms > 0, function, ": the terms of '", path,
                          "' must be at least 1, got ", terms);
      }
    }
    if (initialization_ == Initialization::data) {
      detail::check_calibration(function, calibration_);
    }
    TORCH_CHECK_VALUE(min_channels_ > 0, function, ": min_channels must be at least 1, got ",
                      min_channels_);
  }

  /// Options of the layer that replaces `conv`.
  template <class LayerOptions>
  LayerOptions layer_options(const torch::nn::Conv2dImpl& conv) const {
    const auto& from = conv.options;
    LayerOptions options(from.in_channels(), from.out_channels(), from.kernel_size());
    options.stride(from.stride())
        .padding(from.padding())
        .dilation(from.dilation())
        .bias(conv.bias.defined())
        .padding_mode(from.padding_mode())
        .with_bn(with_bn_)
        .bn_options(bn_options_);
    return options;
  }

  /// The layer of `options`, or the sum of `terms` of them.
  template <class Single, class LayerOptions>
  static torch::nn::AnyModule make_layer(const LayerOptions& options, int64_t terms) {
    return terms == 1 ? torch::nn::AnyModule(Single(options))
                      : torch::nn::AnyModule(BSConvSum(options, terms));
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }

  std::vector<KernelSize> kernel_sizes_ = {{3, 3}, {5, 5}};
  std::vector<int64_t> groups_ = {1};
  std::vector<std::string> include_;
  std::vector<std::string> exclude_;
  int64_t min_channels_ = 1;
  Initialization initialization_ = Initialization::random;
  Calibration calibration_;
  int64_t terms_ = 1;
  double explained_variance_ = 0.0;
  std::optional<std::map<std::string, int64_t>> layer_terms_;
  double min_explained_variance_ = 0.0;
  bool with_bn_ = false;
  torch::nn::BatchNormOptions bn_options_{1};
  bool dry_run_ = false;
};

/// Options for `replace_with_bsconv_u`.
class BSConvUReplacementOptions : public ReplacementOptions<BSConvUReplacementOptions> {
 public:
  /// Throws `c10::ValueError` if an option is out of range.
  void validate() const { check("replace_with_bsconv_u"); }

  /// The channels of the bottleneck: none.
  int64_t mid_channels(const torch::nn::Conv2dImpl&) const { return 0; }

  /// The layer that replaces `conv`: a `BSConvU`, or a `BSConvSum` of several terms.
  torch::nn::AnyModule make(const torch::nn::Conv2dImpl& conv, int64_t terms = 1) const {
    return make_layer<BSConvU>(layer_options<BSConvUOptions>(conv), terms);
  }
};

/// Options for `replace_with_bsconv_s`.
class BSConvSReplacementOptions : public ReplacementOptions<BSConvSReplacementOptions> {
 public:
  /// The width of the bottlenecks relative to the input channels, 0 to 1. Default: 0.25
  BSConvSReplacementOptions& p(double p) {
    p_ = p;
    return *this;
  }
  /// The relative width of the bottlenecks.
  double p() const { return p_; }

  /// The least number of channels in a bottleneck. Default: 4
  BSConvSReplacementOptions& min_mid_channels(int64_t min_mid_channels) {
    min_mid_channels_ = min_mid_channels;
    return *this;
  }
  /// The least number of channels in a bottleneck.
  int64_t min_mid_channels() const { return min_mid_channels_; }

  /// Throws `c10::ValueError` if an option is out of range.
  void validate() const {
    check("replace_with_bsconv_s");
    BSConvSOptions(1, 1, 1).p(p_).min_mid_channels(min_mid_channels_).validate();
  }

  /// The channels of the bottleneck of the layer that replaces `conv`.
  int64_t mid_channels(const torch::nn::Conv2dImpl& conv) const {
    return subspace_options(conv).mid_channels();
  }

  /// The layer that replaces `conv`: a `BSConvS`, or a `BSConvSum` of several terms.
  torch::nn::AnyModule make(const torch::nn::Conv2dImpl& conv, int64_t terms = 1) const {
    return make_layer<BSConvS>(subspace_options(conv), terms);
  }

 private:
  BSConvSOptions subspace_options(const torch::nn::Conv2dImpl& conv) const {
    return layer_options<BSConvSOptions>(conv).p(p_).min_mid_channels(min_mid_channels_);
  }

  double p_ = 0.25;
  int64_t min_mid_channels_ = 4;
};

}  // namespace bsconv
