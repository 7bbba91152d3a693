// SPDX-License-Identifier: BSD-3-Clause-Clear
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

#include <bsconv/pretrained/model_card.hpp>
#include <bsconv/util/file_digest.hpp>
#include <bsconv/util/text.hpp>
#include <bsconv/weights/safetensors.hpp>
#include <bsconv/weights/state_dict.hpp>

namespace bsconv {

/// A folder of trained models: for each a card, `NAME.json`, and the file of weights that it names.
class ModelStore {
 public:
  /// Reads all cards of `directory`; those that can't be read, or name another model than their
  /// file does, are `unreadable`. Throws `c10::Error` if there is no such directory.
  explicit ModelStore(std::filesystem::path directory) : directory_(std::move(directory)) {
    std::error_code error;
    std::filesystem::directory_iterator entries(directory_, error);
    TORCH_CHECK(!error, "trained models: '", directory_.native(),
                "' cannot be read: ", error.message());
    for (const auto& entry : entries) {
      if (entry.path().extension() == ".json") {
        const auto name = entry.path().stem().native();
        try {
          auto card = read_model_card(entry.path());
          TORCH_CHECK(card.name == name, "model card '", entry.path().native(),
                      "', key 'name': must be the file's, '", name, "', got '", card.name, "'");
          cards_.push_back(std::move(card));
        } catch (const c10::Error& problem) {
          unreadable_.emplace(name, problem.what_without_backtrace());
        }
      }
    }
    std::sort(cards_.begin(), cards_.end(),
              [](const ModelCard& a, const ModelCard& b) { return a.name < b.name; });
  }

  /// The folder that comes with the library: the one that the environment variable BSCONV_MODELS
  /// names, otherwise the first that exists of `../share/bsconv/models` beside the running program
  /// and the one that the CMake component `pretrained` knows. Throws `c10::Error` with all of these
  /// if there is none.
  static ModelStore find() {
    std::vector<std::filesystem::path> places;
    // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing here changes the environment.
    if (const char* chosen = std::getenv("BSCONV_MODELS"); chosen != nullptr && *chosen != '\0') {
      return ModelStore(chosen);
    }
    std::error_code error;
    const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
    if (!error) {
      places.push_back(program.parent_path().parent_path() / "share/bsconv/models");
    }
#ifdef BSCONV_MODELS_DIR
    places.emplace_back(BSCONV_MODELS_DIR);
#endif
    std::string looked;
    for (const auto& place : places) {
      if (std::filesystem::is_directory(place, error)) {
        return ModelStore(place);
      }
      looked += ", '" + place.native() + "'";
    }
    TORCH_CHECK(false,
                "trained models: there is no folder of them; looked at BSCONV_MODELS in the "
                "environment",
                looked);
  }

  /// The cards, by name.
  const std::vector<ModelCard>& cards() const noexcept { return cards_; }

  /// Why the files that end as cards do and can't be read as such can't be, by name.
  const std::map<std::string, std::string>& unreadable() const noexcept { return unreadable_; }

  /// The folder.
  const std::filesystem::path& directory() const noexcept { return directory_; }

  /// The card called `name`, or the first of those of the architecture `name`. Throws
  /// `c10::ValueError` with the nearest name if there is none, and `c10::Error` with the reason if
  /// it can't be read.
  const ModelCard& card(const std::string& name) const {
    const auto key = detail::lower(name);
    const ModelCard* first = nullptr;
    std::vector<std::string> names;
    for (const auto& card : cards_) {
      if (detail::lower(card.name) == key) {
        return card;
      }
      if (first == nullptr && detail::lower(card.architecture) == key) {
        first = &card;
      }
      names.push_back(card.name);
    }
    for (const auto& [file, reason] : unreadable_) {
      const auto stem = detail::lower(file);
      const bool is_meant = stem == key || stem.rfind(key + ".", 0) == 0;
      // Another model would take the place of one whose card is damaged.
      TORCH_CHECK(!is_meant || (first != nullptr && file >= first->name), reason);
    }
    if (first != nullptr) {
      return *first;
    }
    TORCH_CHECK_VALUE(!names.empty(), "trained models: there are none in '", directory_.native(),
                      "'");
    TORCH_CHECK_VALUE(false, "trained models: there is none called '", name, "' in '",
                      directory_.native(), "'; the nearest is '", detail::nearest(key, names), "'");
  }

  /// The file of the weights that `card` names. Throws `c10::Error` if it can't be read or its
  /// SHA-256 sum is not the card's.
  std::filesystem::path checked_path(const ModelCard& card) const {
    auto path = directory_ / card.weights;
    const auto sum = sha256_of_file(path);
    TORCH_CHECK(sum == card.sha256, "trained model '", card.name, "': '", path.native(),
                "' has the SHA-256 sum ", sum, ", its card says ", card.sha256,
                "; it is damaged or another file");
    return path;
  }

  /// The weights that `card` names. Throws as `checked_path`.
  weights::StateDict load_weights(const ModelCard& card) const {
    return weights::load_safetensors(checked_path(card)).tensors;
  }

 private:
  std::filesystem::path directory_;
  std::vector<ModelCard> cards_;
  std::map<std::string, std::string> unreadable_;
};

}  // namespace bsconv
