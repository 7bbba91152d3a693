// SPDX-License-Identifier: BSD-3-Clause-Clear
// Makes a trained model of a run: weights, card, the epochs' table, and its line among the results.
#include <bsconv/plot/csv_table.hpp>
#include <bsconv/pretrained.hpp>
#include <bsconv/profile.hpp>
#include <bsconv/train/checkpoint.hpp>
#include <bsconv/train/metrics.hpp>
#include <bsconv/train/settings.hpp>
#include <bsconv/util/file_digest.hpp>
#include <bsconv/util/regular_file.hpp>
#include <bsconv/util/text.hpp>
#include <bsconv/version.hpp>
#include <bsconv/weights.hpp>
#include <bsconv/zoo.hpp>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "commands.hpp"
#include "common.hpp"
#include "train_settings.hpp"

namespace bsconv_program {
namespace {

struct PackageFlags {
  std::filesystem::path checkpoint;
  std::string tag;
  std::filesystem::path out;
  std::filesystem::path results;
  std::string hardware;
  std::string commit;
  bool overwrite = false;
};

/// The name of this machine's processor, or nothing where the system doesn't tell it.
std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) {
      return line.substr(line.find(':') + 2);
    }
  }
  return "";
}

/// `share` in percent, without the digits that binary numbers add.
double percent(double share) { return std::round(share * 1e8) / 1e6; }

/// What the log beside the checkpoint at `path` has behind `title`, the last time; nothing if there
/// is no log.
std::string logged(const std::filesystem::path& path, const std::string& title) {
  auto log = bsconv::detail::open_regular_file(path.parent_path() / "log.txt");
  std::string found;
  for (std::string line; std::getline(log, line);) {
    if (line.rfind(title, 0) == 0) {
      found = line.substr(title.size());
    }
  }
  return found;
}

/// The SHA-256 sum of the file of the teacher's weights, or nothing where it is not found any more.
std::string teacher_sum(const std::string& teacher) {
  try {
    return bsconv::sha256_of_file(find_weight_file(teacher));
  } catch (const c10::Error& problem) {
    std::cerr << "bsconv: warning: the card gets no sum of the teacher's weights: "
              << problem.what_without_backtrace() << '\n';
    return "";
  }
}

/// The card of `checkpoint`, read from `path`.
bsconv::ModelCard make_card(const bsconv::train::Checkpoint& checkpoint,
                            const std::filesystem::path& path, const PackageFlags& flags) {
  const auto& info = checkpoint.info;
  bsconv::ModelCard card;
  card.name = info.architecture + "." + (flags.tag.empty() ? info.dataset : flags.tag);
  card.architecture = info.architecture;
  card.dataset = info.dataset;
  card.class_names = info.class_names;
  card.input_size = image_size(info.architecture, info.settings);
  card.in_channels = info.in_channels;
  card.settings = info.settings;
  bsconv::train::visit_settings(checkpoint.options,
                                [&card](const char* name, const auto& value, const char*) {
                                  card.settings[name] = bsconv::train::detail::value_text(value);
                                });
  if (const auto teacher = card.settings.find("teacher");
      teacher != card.settings.end() && teacher->second != "none") {
    card.teacher_sha256 = teacher_sum(teacher->second);
  }
  // Where files lay on this machine is nobody's business.
  for (const char* name : {"teacher", "weights"}) {
    const auto found = card.settings.find(name);
    if (found != card.settings.end()) {
      const std::filesystem::path file = found->second;
      found->second = (file.has_filename() ? file : file.parent_path()).filename().native();
    }
  }
  // As describe_run of train_command.cpp prints them.
  card.training_images = logged(path, "training       ");
  card.test_images = logged(path, "test           ");
  card.epoch = checkpoint.epoch;
  const auto& test = checkpoint.history.back().test;
  card.top1 = percent(test.accuracy);
  card.top5 = percent(test.accuracy_top5);
  card.hardware = flags.hardware.empty() ? processor_name() : flags.hardware;
  card.version = bsconv::version;
  if (!flags.commit.empty()) {
    card.version += " (" + flags.commit + ")";
  }
  auto model = make_model(info.architecture, info.num_classes(), info.in_channels);
  const auto profile =
      bsconv::profile(model, torch::zeros({1, info.in_channels, card.input_size, card.input_size}));
  card.parameters = profile.parameters();
  card.flops = profile.flops();
  return card;
}

/// Throws unless the training that `checkpoint`, read from `path`, is of is over: after its last
/// epoch, or when its patience ran out.
void check_is_finished(const bsconv::train::Checkpoint& checkpoint,
                       const std::filesystem::path& path) {
  const auto patience = checkpoint.options.patience();
  const auto best = checkpoint.history.back().best_epoch;
  const bool gave_up = patience > 0 && best > 0 && checkpoint.epoch - best >= patience;
  TORCH_CHECK(checkpoint.epoch >= checkpoint.options.epochs() || gave_up, "'", path.native(),
              "' holds epoch ", checkpoint.epoch, " of ", checkpoint.options.epochs(),
              "; package the finished run's last.safetensors");
}

/// Throws unless the card's settings are the published recipe, that is the defaults, but for those
/// that make another run of the same recipe.
void check_published_recipe(const bsconv::ModelCard& card) {
  auto published = kept_settings(TrainSettings());
  const bsconv::train::TrainOptions defaults;
  bsconv::train::visit_settings(defaults,
                                [&published](const char* name, const auto& value, const char*) {
                                  published[name] = bsconv::train::detail::value_text(value);
                                });
  const std::set<std::string> neutral = {"seed",           "eval_every",       "channels_last",
                                         "broken_images",  "keep_checkpoints", "checkpoint_steps",
                                         "sync_batch_norm"};
  std::vector<std::string> differences;
  for (const auto& [name, text] : card.settings) {
    const auto found = published.find(name);
    if (neutral.count(name) == 0 && found != published.end() && found->second != text) {
      differences.push_back(c10::str(name, " is ", text, ", not ", found->second));
    }
  }
  TORCH_CHECK(differences.empty(),
              "--results is for trainings by the published recipe; of this one, ",
              bsconv::detail::join(differences, "; "));
}

/// The published results with what was reached beside them.
struct Results {
  /// What their file shall hold.
  std::string text;
  /// How many lines change.
  int64_t lines = 0;
};

/// Enters the card's accuracy in the results at `path`. Throws if it was not reached by the
/// published recipe.
Results enter_result(const std::filesystem::path& path, const bsconv::ModelCard& card) {
  check_published_recipe(card);
  Results results;
  auto table = bsconv::plot::CsvTable::read(path);
  const auto datasets = table.texts("dataset");
  const auto models = table.texts("model");
  for (std::size_t row = 0; row < table.size(); ++row) {
    if (datasets[row] == card.dataset && models[row] == card.architecture) {
      std::ostringstream accuracy;
      accuracy << card.top1;
      table.set(row, "our_top1", accuracy.str());
      table.set(row, "our_model", card.name);
      table.set(row, "our_seed", card.settings.at("seed"));
      table.set(row, "our_epochs", std::to_string(card.epoch));
      table.set(row, "our_hardware", card.hardware);
      table.set(row, "our_version", card.version);
      ++results.lines;
    }
  }
  TORCH_CHECK(results.lines > 0, "'", path.native(), "' has no line of ", card.architecture, " on ",
              card.dataset);
  results.text = table.to_text();
  return results;
}

void package(const PackageFlags& flags) {
  const auto path = in_directory(flags.checkpoint, "last.safetensors");
  const auto checkpoint = bsconv::train::load_checkpoint(path);
  check_is_described(checkpoint.info, path);
  TORCH_CHECK(checkpoint.step == 0 && !checkpoint.history.empty() &&
                  checkpoint.history.back().test.accuracy >= 0,
              "'", path.native(),
              "' was not written after an epoch with a test: nothing tells how good it is");
  check_is_finished(checkpoint, path);
  auto card = make_card(checkpoint, path, flags);
  // What can't be entered or written down is found before the first file.
  const auto results = flags.results.empty() ? Results() : enter_result(flags.results, card);
  (void)bsconv::detail::card_text(card);
  const auto base = flags.out / card.name;
  const auto card_path = std::filesystem::path(base.native() + ".json");
  std::error_code error;
  if (!flags.overwrite && std::filesystem::exists(card_path, error)) {
    throw UsageError("'" + flags.out.native() + "' already has a trained model " + card.name +
                     "; --tag gives this one another name, --overwrite replaces that one");
  }
  card.weights = card.name + ".safetensors";
  // Under another name first: what is there already stays whole until all bytes are written.
  const auto weights = std::filesystem::path(base.native() + ".safetensors");
  const auto written = flags.out / ("." + card.name + ".safetensors");
  bsconv::weights::save_weights(written, checkpoint.inference_model(),
                                {{"architecture", card.architecture}, {"name", card.name}});
  card.sha256 = bsconv::sha256_of_file(written);
  bsconv::train::write_csv(base.native() + ".csv", checkpoint.history);
  // Without its card there is no model, rather than one with the weights of another.
  std::filesystem::remove(card_path);
  std::filesystem::rename(written, weights);
  bsconv::write_model_card(card_path, card);
  std::cout << card.name << ": " << card.top1 << " % on " << card.dataset << " after epoch "
            << card.epoch << ", in '" << flags.out.native() << "'\n";
  if (!flags.results.empty()) {
    bsconv::weights::write_text_file(flags.results, results.text);
    std::cout << results.lines << " lines of '" << flags.results.native() << "' changed\n";
  }
}

}  // namespace

void add_package_command(CLI::App& app) {
  auto* command =
      app.add_subcommand("package", "Make a trained model of a run: weights, card and epochs");
  const auto flags = std::make_shared<PackageFlags>();
  command
      ->add_option("--checkpoint", flags->checkpoint,
                   "Checkpoint, or a run's folder for its last one")
      ->required();
  command->add_option("--out", flags->out, "The folder of trained models")
      ->required()
      ->check(CLI::ExistingDirectory);
  command->add_option("--tag", flags->tag,
                      "What comes behind the model's name and a dot; default: the data set");
  command
      ->add_option("--results", flags->results,
                   "A CSV of published results that the accuracy is entered into; for trainings "
                   "by the published recipe")
      ->check(CLI::ExistingFile);
  command->add_option("--hardware", flags->hardware,
                      "What it was trained on; default: this machine's processor");
  command->add_option("--commit", flags->commit, "The commit it was trained with");
  command->add_flag("--overwrite", flags->overwrite, "Replace a trained model of the same name");
  command->callback([flags] { package(*flags); });
}

}  // namespace bsconv_program
