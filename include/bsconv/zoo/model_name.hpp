// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <torch/types.h>
#include <bsconv/util/text.hpp>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bsconv {

/// The architecture families of the model zoo.
enum class ModelFamily {
  resnet,
  preresnet,
  wrn,
  mobilenetv1,
  mobilenetv2,
  mobilenetv3_small,
  mobilenetv3_large
};

/// How a model of the zoo uses blueprint separable convolutions.
enum class ModelVariant {
  /// The plain architecture.
  baseline,
  /// BSConv-U in place of the convolutions, suffix `_bsconvu`.
  bsconvu,
  /// BSConv-S in place of the convolutions, suffix `_bsconvs_pXdY`.
  bsconvs,
};

/// A positive fraction as model names write it: `w3d4` is 3/4, `w1` is 1.
struct NameFraction {
  /// The number before the `d`.
  int64_t numerator = 1;
  /// The number behind the `d`, 1 if there is none.
  int64_t denominator = 1;

  /// The quotient.
  double value() const { return static_cast<double>(numerator) / static_cast<double>(denominator); }
};

/// What a model name says, as `parse_model_name` reads it.
struct ModelName {
  /// The whole name, in lower case.
  std::string text;
  /// The architecture.
  ModelFamily family = ModelFamily::resnet;
  /// Whether it is the variant for 32x32 images (CIFAR) rather than for 224x224 (ImageNet).
  bool cifar = false;
  /// The nominal number of layers; 0 for MobileNets.
  int64_t depth = 0;
  /// The width multiplier of WRNs and MobileNets, 1 for the others.
  NameFraction width;
  /// The use of blueprint separable convolutions.
  ModelVariant variant = ModelVariant::baseline;
  /// The relative width of the BSConv-S bottlenecks; only with `ModelVariant::bsconvs`.
  NameFraction p;

  /// Height and width of the images that the model is made for.
  int64_t input_size() const { return cifar ? 32 : 224; }
};

namespace detail {

/// The depths that `family` comes in.
inline std::vector<int64_t> valid_depths(ModelFamily family, bool cifar) {
  if (family == ModelFamily::wrn) {
    return {16, 28, 40};
  }
  return cifar ? std::vector<int64_t>{20, 56, 110, 302, 602}
               : std::vector<int64_t>{10, 18, 26, 34, 68, 102};
}

/// The entries of the families' part of a name; the longer ones first where one begins another.
struct FamilyPrefix {
  const char* text;
  ModelFamily family;
};
inline constexpr std::array<FamilyPrefix, 7> family_prefixes = {{
    {"preresnet", ModelFamily::preresnet},
    {"resnet", ModelFamily::resnet},
    {"wrn", ModelFamily::wrn},
    {"mobilenetv1_", ModelFamily::mobilenetv1},
    {"mobilenetv2_", ModelFamily::mobilenetv2},
    {"mobilenetv3_small_", ModelFamily::mobilenetv3_small},
    {"mobilenetv3_large_", ModelFamily::mobilenetv3_large},
}};

/// Reads a model name from left to right; errors name the part that is wrong.
class ModelNameParser {
 public:
  explicit ModelNameParser(const std::string& text) {
    name_.text = lower(text);
    rest_ = name_.text;
  }

  /// The parsed name, or nothing with `error()` set.
  std::optional<ModelName> parse() {
    return family() && geometry() && variant() ? std::optional(name_) : std::nullopt;
  }

  /// What is wrong and what would be valid there.
  const std::string& error() const { return error_; }

 private:
  bool family() {
    name_.cifar = take("cifar_");
    for (const auto& prefix : family_prefixes) {
      if (take(prefix.text)) {
        name_.family = prefix.family;
        family_ = prefix.text;
        if (prefix.family == ModelFamily::wrn && !name_.cifar) {
          return fail("'wrn'",
                      "wide ResNets exist for CIFAR only: cifar_wrn16_K, cifar_wrn28_K, "
                      "cifar_wrn40_K");
        }
        return true;
      }
    }
    return fail(quote(rest_),
                "expected an architecture: [cifar_]resnetN, [cifar_]preresnetN, cifar_wrnN_K, "
                "[cifar_]mobilenetv1_wX, [cifar_]mobilenetv2_wX, [cifar_]mobilenetv3_small_wX or "
                "[cifar_]mobilenetv3_large_wX");
  }

  bool geometry() {
    if (is_mobilenet()) {
      return take("w") ? fraction("expected a width: wX or wXdY with positive numbers", name_.width)
                       : fail(quote(rest_), "expected a width: wX or wXdY, as in w1 or w3d4");
    }
    const auto depths = valid_depths(name_.family, name_.cifar);
    std::vector<std::string> valid;
    valid.reserve(depths.size());
    for (const int64_t depth : depths) {
      valid.push_back(std::to_string(depth));
    }
    const std::string expected = std::string("expected a depth of ") +
                                 (name_.cifar ? "cifar_" : "") + family_ + ": " + join(valid, ", ");
    const std::string_view at = rest_;
    if (!number(name_.depth) ||
        std::find(depths.begin(), depths.end(), name_.depth) == depths.end()) {
      return fail(quote(at), expected);
    }
    if (name_.family == ModelFamily::wrn) {
      const std::string_view width = rest_;
      if (!take("_") || !number(name_.width.numerator)) {
        return fail(quote(width), "expected a widening factor: _K, as in cifar_wrn28_10");
      }
    }
    return true;
  }

  bool variant() {
    if (rest_.empty()) {
      return true;
    }
    const std::string_view at = rest_;
    if (take("_bsconvu") && rest_.empty()) {
      name_.variant = ModelVariant::bsconvu;
      return !is_mobilenet() || name_.family == ModelFamily::mobilenetv1 ||
             fail(quote(at), "MobileNetV2 and V3 come plain or as _bsconvs_p1d6");
    }
    rest_ = at;
    if (take("_bsconvs_p")) {
      name_.variant = ModelVariant::bsconvs;
      if (name_.family == ModelFamily::mobilenetv1) {
        return fail(quote(at), "MobileNetV1 comes plain or as _bsconvu");
      }
      if (!fraction("expected a bottleneck width: _bsconvs_pXdY with positive numbers", name_.p,
                    true)) {
        return false;
      }
      if (!rest_.empty()) {
        return fail(quote(rest_), "expected the end of the name");
      }
      if (name_.p.numerator > name_.p.denominator) {
        return fail(quote(at), "expected p between 0 and 1: X not above Y");
      }
      return !is_mobilenet() || (name_.p.numerator == 1 && name_.p.denominator == 6) ||
             fail(quote(at), "MobileNetV2 and V3 come plain or as _bsconvs_p1d6");
    }
    return fail(quote(at), is_mobilenet()
                               ? name_.family == ModelFamily::mobilenetv1
                                     ? "expected the end of the name or _bsconvu"
                                     : "expected the end of the name or _bsconvs_p1d6"
                               : "expected the end of the name, _bsconvu or _bsconvs_pXdY");
  }

  bool is_mobilenet() const {
    return name_.family != ModelFamily::resnet && name_.family != ModelFamily::preresnet &&
           name_.family != ModelFamily::wrn;
  }

  bool take(std::string_view prefix) {
    if (rest_.substr(0, prefix.size()) != prefix) {
      return false;
    }
    rest_.remove_prefix(prefix.size());
    return true;
  }

  // Positive, without zeros in front, at most six digits: wider nets fit no machine, and products
  // stay in range.
  bool number(int64_t& value) {
    if (!rest_.empty() && rest_.front() == '0') {
      return false;
    }
    std::size_t digits = 0;
    int64_t read = 0;
    while (digits < rest_.size() && digits < 7 &&
           std::isdigit(static_cast<unsigned char>(rest_[digits])) != 0) {
      read = 10 * read + (rest_[digits] - '0');
      ++digits;
    }
    if (digits == 0 || digits > 6) {
      return false;
    }
    rest_.remove_prefix(digits);
    value = read;
    return true;
  }

  bool fraction(const std::string& expected, NameFraction& value, bool needs_denominator = false) {
    const std::string_view at = rest_;
    if (!number(value.numerator)) {
      return fail(quote(at), expected);
    }
    if (!take("d")) {
      return !needs_denominator || fail(quote(at), expected);
    }
    return number(value.denominator) || fail(quote(at), expected);
  }

  static std::string quote(std::string_view part) {
    if (part.empty()) {
      return "the end of the name";
    }
    std::string quoted(1, '\'');
    return quoted.append(part).append(1, '\'');
  }

  bool fail(const std::string& part, const std::string& expected) {
    error_ = "at " + part + ": " + expected;
    return false;
  }

  ModelName name_;
  std::string_view rest_;
  std::string family_;
  std::string error_;
};

}  // namespace detail

/// Reads a model name of the zoo's grammar; nothing if `text` is not one. Case does not matter.
///
/// `[cifar_](pre)resnetN`, `cifar_wrnN_K`, `[cifar_]mobilenet(v1|v2|v3_small|v3_large)_wX[dY]`,
/// each with `_bsconvu` or `_bsconvs_pXdY` where the family has it.
inline std::optional<ModelName> try_parse_model_name(const std::string& text) {
  return detail::ModelNameParser(text).parse();
}

}  // namespace bsconv
