// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include <c10/util/Exception.h>
#include <nlohmann/json.hpp>

#include <bsconv/util/json_value.hpp>
#include <bsconv/util/regular_file.hpp>
#include <bsconv/weights/atomic_file.hpp>

namespace bsconv {

/// What there is to know about a trained model: a JSON file beside its weights.
struct ModelCard {
  /// The model's name, a dot and what it was trained on and how: "cifar_resnet20_bsconvu.cifar100".
  std::string name;
  /// The name that `create_model` takes.
  std::string architecture;
  /// The data set that it was trained and tested on.
  std::string dataset;
  /// The classes' names in the order of the logits.
  std::vector<std::string> class_names;
  /// Side of the square images `[N, in_channels, side, side]` it was trained on, from 0 to 1.
  int64_t input_size = 0;
  /// Channels of its images.
  int64_t in_channels = 3;
  /// The settings of the training program, the seed among them.
  std::map<std::string, std::string> settings = {};
  /// The epoch, of `settings`' epochs, whose weights these are.
  int64_t epoch = 0;
  /// Accuracy on all test images in percent, as the training printed it.
  double top1 = 0;
  /// Share of test images in percent whose class is among the five highest logits; NaN, in the file
  /// null, if not measured, as with five classes or fewer.
  double top5 = 0;
  /// How many parameters it has.
  int64_t parameters = 0;
  /// Multiply-adds of one image, by the reference's convention (`Convention::reference`).
  int64_t flops = 0;
  /// What it was trained on, in words.
  std::string hardware;
  /// The version of this library it was trained with; a commit between releases.
  std::string version;
  /// The file of its weights, beside the card.
  std::string weights;
  /// The SHA-256 sum of that file.
  std::string sha256;
  /// The SHA-256 sum of the file of its teacher's weights; empty: it had none, or it is not known.
  std::string teacher_sha256 = {};
  /// What was done to the training images, the data set's own augmentation among it, in the words
  /// of the training program; empty: not known.
  std::string training_images = {};
  /// The same for the test images.
  std::string test_images = {};
};

namespace detail {

/// Calls `visit(key, member)` for all that a card's file holds, and `visit_optional` for the texts
/// that it may lack.
template <class Card, class Visitor, class OptionalVisitor>
void visit_card(Card& card, Visitor&& visit, OptionalVisitor&& visit_optional) {
  visit("name", card.name);
  visit("architecture", card.architecture);
  visit("dataset", card.dataset);
  visit("top1", card.top1);
  visit("top5", card.top5);
  visit("parameters", card.parameters);
  visit("flops", card.flops);
  visit("input_size", card.input_size);
  visit("in_channels", card.in_channels);
  visit("epoch", card.epoch);
  visit("hardware", card.hardware);
  visit("version", card.version);
  visit("weights", card.weights);
  visit("sha256", card.sha256);
  visit_optional("teacher_sha256", card.teacher_sha256);
  visit_optional("training_images", card.training_images);
  visit_optional("test_images", card.test_images);
  visit("settings", card.settings);
  visit("class_names", card.class_names);
}

/// The text of a card's file. Throws `c10::Error` with the key of a text that is not UTF-8.
inline std::string card_text(const ModelCard& card) {
  nlohmann::ordered_json json;
  const auto add = [&](const char* key, const auto& member) {
    json[key] = member;
    TORCH_CHECK(bsconv::detail::is_utf8(json[key]), "model card '", card.name, "', key '", key,
                "': a text is not UTF-8");
  };
  visit_card(card, add, [&](const char* key, const std::string& text) {
    if (!text.empty()) {
      add(key, text);
    }
  });
  return json.dump(2) + "\n";
}

}  // namespace detail

/// Reads a card. Throws `c10::Error` with the path, and the key where there is one, if it can't be
/// read, is no JSON, lacks something, or names a file of weights outside its folder.
inline ModelCard read_model_card(const std::filesystem::path& path) {
  auto file = bsconv::detail::open_regular_file(path);
  TORCH_CHECK(file.is_open(), "model card '", path.native(), "' cannot be read");
  ModelCard card;
  const char* where = nullptr;
  const auto refuse = [&](const std::string& why) {
    TORCH_CHECK(false, "model card '", path.native(), "'", where != nullptr ? ", key '" : "",
                where != nullptr ? where : "", where != nullptr ? "'" : "", ": ", why);
  };
  try {
    const auto json = nlohmann::json::parse(file);
    const auto take = [&](const char* key, auto& member) {
      where = key;
      if constexpr (std::is_same_v<std::decay_t<decltype(member)>, double>) {
        if (json.at(key).is_null()) {
          member = std::numeric_limits<double>::quiet_NaN();
          return;
        }
      }
      member = detail::json_value<std::decay_t<decltype(member)>>(json.at(key));
    };
    detail::visit_card(card, take, [&](const char* key, std::string& text) {
      if (json.contains(key)) {
        take(key, text);
      }
    });
  } catch (const c10::Error& problem) {
    refuse(problem.what_without_backtrace());
  } catch (const std::exception& problem) {
    refuse(problem.what());
  }
  const std::filesystem::path weights = card.weights;
  TORCH_CHECK(
      !weights.empty() && weights == weights.filename() && weights != ".." && weights != ".",
      "model card '", path.native(), "': weights must name a file beside it, got '", card.weights,
      "'");
  return card;
}

/// Writes a card, complete or not at all. Throws `c10::Error` with the path and the reason.
inline void write_model_card(const std::filesystem::path& path, const ModelCard& card) {
  weights::write_text_file(path, detail::card_text(card));
}

}  // namespace bsconv
