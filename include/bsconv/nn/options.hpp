// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/nn/options/batchnorm.h>
#include <torch/nn/options/conv.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <string>
#include <utility>
#include <variant>

namespace bsconv {

namespace detail {

/// Requires every entry of `values` to be at least `lowest`.
inline void check_at_least(const char* type, const char* name,
                           const torch::ExpandingArray<2>& values, int64_t lowest) {
  for (const int64_t value : *values) {
    TORCH_CHECK_VALUE(value >= lowest, type, ": ", name, " must be at least ", lowest, ", got ",
                      values);
  }
}

}  // namespace detail

/// What `BSConvUOptions` and `BSConvSOptions` share: the geometry of the convolution that is
/// replaced, as `torch::nn::Conv2dOptions` describes it, and the optional batch normalization.
///
/// Every setter returns the derived options, so calls chain.
template <class Derived>
class BSConvOptions {
 public:
  /// Options for `in_channels` -> `out_channels` with a `kernel_size` (one number or two).
  BSConvOptions(int64_t in_channels, int64_t out_channels, torch::ExpandingArray<2> kernel_size)
      : conv_(in_channels, out_channels, kernel_size) {}

  /// Takes over the geometry of a plain convolution.
  ///
  /// Throws `c10::ValueError` if `conv` is grouped: a blueprint separable convolution stands for
  /// an ungrouped one.
  explicit BSConvOptions(const torch::nn::Conv2dOptions& conv) : conv_(conv) {
    TORCH_CHECK_VALUE(conv_.groups() == 1,
                      "BSConv: groups must be 1 (the pointwise part mixes all channels), got ",
                      conv_.groups());
  }

  /// The number of input channels.
  int64_t in_channels() const { return conv_.in_channels(); }

  /// The number of output channels.
  int64_t out_channels() const { return conv_.out_channels(); }

  /// The size of the depthwise kernel, height and width.
  const torch::ExpandingArray<2>& kernel_size() const { return conv_.kernel_size(); }

  /// The stride of the depthwise part. Default: 1
  Derived& stride(const torch::ExpandingArray<2>& stride) {
    conv_.stride(stride);
    return self();
  }
  /// The stride of the depthwise part.
  const torch::ExpandingArray<2>& stride() const { return conv_.stride(); }

  /// The padding of the depthwise part: one number, two, `torch::kSame` or `torch::kValid`.
  /// Default: 0
  Derived& padding(const torch::nn::Conv2dOptions::padding_t& padding) {
    conv_.padding(padding);
    return self();
  }
  /// Padding given as `{height, width}`.
  Derived& padding(std::initializer_list<int64_t> padding) {
    return this->padding(torch::IntArrayRef(padding));
  }
  /// The padding of the depthwise part.
  const torch::nn::Conv2dOptions::padding_t& padding() const { return conv_.padding(); }

  /// The dilation of the depthwise part. Default: 1
  Derived& dilation(const torch::ExpandingArray<2>& dilation) {
    conv_.dilation(dilation);
    return self();
  }
  /// The dilation of the depthwise part.
  const torch::ExpandingArray<2>& dilation() const { return conv_.dilation(); }

  /// Whether the depthwise part has a bias. Default: true
  Derived& bias(bool bias) {
    conv_.bias(bias);
    return self();
  }
  /// Whether the depthwise part has a bias.
  bool bias() const { return conv_.bias(); }

  /// How the depthwise part pads: `torch::kZeros`, `torch::kReflect`, `torch::kReplicate` or
  /// `torch::kCircular`. Default: `torch::kZeros`
  Derived& padding_mode(const torch::nn::detail::conv_padding_mode_t& padding_mode) {
    conv_.padding_mode(padding_mode);
    return self();
  }
  /// How the depthwise part pads.
  const torch::nn::detail::conv_padding_mode_t& padding_mode() const {
    return conv_.padding_mode();
  }

  /// Whether a batch normalization follows each pointwise part. Default: false
  Derived& with_bn(bool with_bn) {
    with_bn_ = with_bn;
    return self();
  }
  /// Whether a batch normalization follows each pointwise part.
  bool with_bn() const { return with_bn_; }

  /// Options of these batch normalizations; `num_features` is set by the module.
  Derived& bn_options(const torch::nn::BatchNormOptions& options) {
    bn_options_ = options;
    return self();
  }
  /// Options of the batch normalizations.
  const torch::nn::BatchNormOptions& bn_options() const { return bn_options_; }

 protected:
  /// Throws `c10::ValueError` naming `type` if a size is out of range.
  void check(const char* type) const {
    TORCH_CHECK_VALUE(in_channels() > 0, type, ": in_channels must be at least 1, got ",
                      in_channels());
    TORCH_CHECK_VALUE(out_channels() > 0, type, ": out_channels must be at least 1, got ",
                      out_channels());
    detail::check_at_least(type, "kernel_size", kernel_size(), 1);
    detail::check_at_least(type, "stride", stride(), 1);
    detail::check_at_least(type, "dilation", dilation(), 1);
    if (const auto* numbers = std::get_if<torch::ExpandingArray<2>>(&padding())) {
      detail::check_at_least(type, "padding", *numbers, 0);
    }
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }

  torch::nn::Conv2dOptions conv_;
  bool with_bn_ = false;
  torch::nn::BatchNormOptions bn_options_{1};
};

/// Options for `BSConvU`.
///
/// Example:
/// ```
/// BSConvU layer(BSConvUOptions(16, 32, 3).stride(2).padding(1).with_bn(true));
/// ```
class BSConvUOptions : public BSConvOptions<BSConvUOptions> {
 public:
  using BSConvOptions::BSConvOptions;

  /// Throws `c10::ValueError` if a size is out of range.
  void validate() const { check("BSConvU"); }
};

/// Options for `BSConvS`.
///
/// Example:
/// ```
/// BSConvS layer(BSConvSOptions(64, 64, 3).padding(1).p(0.25).with_bn(true));
/// ```
class BSConvSOptions : public BSConvOptions<BSConvSOptions> {
 public:
  using BSConvOptions::BSConvOptions;

  /// The width of the bottleneck relative to `in_channels`, 0 to 1. Default: 0.25
  BSConvSOptions& p(double p) {
    p_ = p;
    return *this;
  }
  /// The relative width of the bottleneck.
  double p() const { return p_; }

  /// The least number of channels in the bottleneck (never more than `in_channels`). Default: 4
  BSConvSOptions& min_mid_channels(int64_t min_mid_channels) {
    min_mid_channels_ = min_mid_channels;
    return *this;
  }
  /// The least number of channels in the bottleneck.
  int64_t min_mid_channels() const { return min_mid_channels_; }

  /// The number of channels in the bottleneck:
  /// `min(in_channels, max(min_mid_channels, ceil(p * in_channels)))`.
  int64_t mid_channels() const {
    const auto scaled = static_cast<int64_t>(std::ceil(p_ * static_cast<double>(in_channels())));
    return std::min(in_channels(), std::max(min_mid_channels_, scaled));
  }

  /// Throws `c10::ValueError` if a size or `p` is out of range.
  void validate() const {
    check("BSConvS");
    TORCH_CHECK_VALUE(p_ >= 0.0 && p_ <= 1.0, "BSConvS: p must lie between 0 and 1, got ", p_);
    TORCH_CHECK_VALUE(min_mid_channels_ > 0, "BSConvS: min_mid_channels must be at least 1, got ",
                      min_mid_channels_);
  }

 private:
  double p_ = 0.25;
  int64_t min_mid_channels_ = 4;
};

namespace detail {

/// The padding to give to a `Conv2d`. LibTorch exchanges height and width where `torch::kSame`
/// meets a padding mode other than zeros, so that case is written out in numbers.
template <class Options>
torch::nn::Conv2dOptions::padding_t safe_padding(const Options& options) {
  if (!std::holds_alternative<torch::enumtype::kSame>(options.padding()) ||
      std::holds_alternative<torch::enumtype::kZeros>(options.padding_mode())) {
    return options.padding();
  }
  const int64_t height = (*options.dilation())[0] * ((*options.kernel_size())[0] - 1);
  const int64_t width = (*options.dilation())[1] * ((*options.kernel_size())[1] - 1);
  const bool strided = *options.stride() != *torch::ExpandingArray<2>(1);
  if (height == width || strided) {
    return options.padding();
  }
  TORCH_CHECK_VALUE(height % 2 == 0 && width % 2 == 0,
                    "padding='same' with a padding mode other than zeros needs odd kernel sizes, ",
                    "got ", options.kernel_size());
  return torch::ExpandingArray<2>({height / 2, width / 2});
}

/// Options of the depthwise part.
template <class Options>
torch::nn::Conv2dOptions depthwise_options(const Options& options) {
  return torch::nn::Conv2dOptions(options.out_channels(), options.out_channels(),
                                  options.kernel_size())
      .stride(options.stride())
      .padding(safe_padding(options))
      .dilation(options.dilation())
      .groups(options.out_channels())
      .bias(options.bias())
      .padding_mode(options.padding_mode());
}

/// Options of a 1x1 convolution.
inline torch::nn::Conv2dOptions pointwise_options(int64_t in_channels, int64_t out_channels,
                                                  bool bias = false) {
  return torch::nn::Conv2dOptions(in_channels, out_channels, 1).bias(bias);
}

/// The batch normalization options with their number of features filled in.
template <class Options>
torch::nn::BatchNorm2dOptions batch_norm_options(const Options& options, int64_t num_features) {
  torch::nn::BatchNormOptions result = options.bn_options();
  result.num_features(num_features);
  return result;
}

/// Throws unless `input` is `[N, C, H, W]` or `[C, H, W]` with `in_channels` channels.
inline void check_input(const char* type, const torch::Tensor& input, int64_t in_channels) {
  TORCH_CHECK(input.defined() && (input.dim() == 4 || input.dim() == 3), type,
              ": expected an input of shape [N, ", in_channels, ", H, W], got ",
              input.defined() ? c10::str(input.sizes()) : std::string("an undefined tensor"));
  TORCH_CHECK(input.size(-3) == in_channels, type, ": expected ", in_channels,
              " input channels, got ", input.size(-3), " in a tensor of shape ", input.sizes());
}

/// Writes what `pretty_print` of both module types shares.
template <class Options>
void print_options(std::ostream& stream, const Options& options) {
  stream << options.in_channels() << ", " << options.out_channels()
         << ", kernel_size=" << options.kernel_size() << ", stride=" << options.stride();
  if (std::holds_alternative<torch::enumtype::kSame>(options.padding())) {
    stream << ", padding='same'";
  } else if (std::holds_alternative<torch::enumtype::kValid>(options.padding())) {
    stream << ", padding='valid'";
  } else {
    stream << ", padding=" << std::get<torch::ExpandingArray<2>>(options.padding());
  }
  if (*options.dilation() != *torch::ExpandingArray<2>(1)) {
    stream << ", dilation=" << options.dilation();
  }
  if (!options.bias()) {
    stream << ", bias=false";
  }
  if (!std::holds_alternative<torch::enumtype::kZeros>(options.padding_mode())) {
    stream << ", padding_mode=" << torch::enumtype::get_enum_name(options.padding_mode());
  }
  if (options.with_bn()) {
    stream << ", with_bn=true";
  }
}

}  // namespace detail

}  // namespace bsconv
