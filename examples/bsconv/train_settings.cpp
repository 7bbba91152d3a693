// SPDX-License-Identifier: BSD-3-Clause-Clear
#include "train_settings.hpp"

#include <bsconv/data/auto_augment.hpp>
#include <bsconv/data/erase.hpp>
#include <bsconv/train/settings.hpp>
#include <bsconv/util/text.hpp>
#include <bsconv/version.hpp>
#include <bsconv/zoo.hpp>

#include <algorithm>
#include <filesystem>
#include <ostream>
#include <system_error>
#include <type_traits>
#include <utility>

#include "checks.hpp"
#include "common.hpp"
#include "data_sets.hpp"
#include "processes.hpp"

namespace bsconv_program {
namespace {

using bsconv::train::Checkpoint;
using bsconv::train::GivenSetting;

/// The key of a settings file that says which version wrote it; it is not a setting.
constexpr const char* version_key = "bsconv_version";

/// Calls `visit(name, value, description)` for the program's own settings that checkpoints
/// keep: what is done to the data set's images, and batch statistics.
template <class Settings, class Visitor>
void visit_kept_settings(Settings& settings, Visitor&& visit) {
  visit("broken_images", settings.broken_images,
        "stop or skip: what an image that cannot be read does to the run");
  visit("augment", settings.augment, "none, trivial or rand: TrivialAugment, RandAugment");
  visit("random_erasing", settings.random_erasing, "Probability of random erasing");
  visit("mixup", settings.mixup, "alpha of mixup; 0: none");
  visit("cutmix", settings.cutmix, "alpha of CutMix; 0: none; with mixup, one of both a batch");
  visit("image_size", settings.image_size,
        "Side of the square images, in training and later; 0: the architecture's own");
  visit("sync_batch_norm", settings.sync_batch_norm,
        "With several processes, batch statistics over all of them");
  visit(
      "teacher", settings.teacher,
      "Trained model to learn from as well: none, one that comes with the library, a checkpoint or "
      "a run's folder");
  visit(
      "weights", settings.weights,
      "Weights to start from: none, a trained model that comes with the library, a safetensors or "
      "PyTorch file, or a run's folder for its best checkpoint; a classifier of other classes "
      "starts "
      "anew");
}

/// The same for those that belong to the machine: checkpoints travel without them.
template <class Settings, class Visitor>
void visit_machine_settings(Settings& settings, Visitor&& visit) {
  visit("data_root", settings.data_root, "Directory of the data set's files");
  visit("workers", settings.workers, "Threads that make batches ahead");
  visit("device", settings.device,
        "cpu, cuda or cuda:N; cuda gives each of several processes a GPU of its own");
}

/// Calls `visit(name, value, description)` for the program's own settings.
template <class Settings, class Visitor>
void visit_program_settings(Settings& settings, Visitor&& visit) {
  visit("architecture", settings.architecture, "Name of a model; see 'bsconv models'");
  visit("dataset", settings.dataset, "digits (embedded), cifar10, cifar100, dogs, image_folder");
  visit_machine_settings(settings, visit);
  visit_kept_settings(settings, visit);
}

/// Throws unless `value` is one of `known`.
void check_one_of(const char* name, const std::string& value,
                  const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), value) == known.end()) {
    throw UsageError(std::string(name) + ": '" + value + "' is unknown; valid are " +
                     bsconv::detail::join(known, ", ") + "; the nearest is '" +
                     bsconv::detail::nearest(value, known) + "'");
  }
}

void check_program_settings(const TrainSettings& settings) {
  check_one_of("dataset", settings.dataset, dataset_names());
  check_one_of("broken_images", settings.broken_images, {"stop", "skip"});
  check_one_of("augment", settings.augment, {"none", "trivial", "rand"});
  const auto in_range = [](const char* name, double value, double most) {
    if (!(value >= 0 && value <= most)) {
      throw UsageError(std::string(name) + " must lie in 0.." +
                       bsconv::train::detail::value_text(most) + ", got " +
                       bsconv::train::detail::value_text(value));
    }
  };
  in_range("random_erasing", settings.random_erasing, 1);
  in_range("mixup", settings.mixup, 1000);
  in_range("cutmix", settings.cutmix, 1000);
  in_range("image_size", static_cast<double>(settings.image_size), max_image_size);
}

std::string text_of(const std::string& value) { return value; }
template <class Value>
std::string text_of(const Value& value) {
  return bsconv::train::detail::value_text(value);
}

/// "--learning-rate" for "learning_rate".
std::string flag_name(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return "--" + name;
}

std::vector<std::string> known_names() {
  auto names = bsconv::train::setting_names();
  const TrainSettings settings;
  visit_program_settings(
      settings, [&](const char* name, const auto&, const char*) { names.emplace_back(name); });
  return names;
}

void apply(TrainSettings& settings, const GivenSetting& given) {
  try {
    bool own = false;
    visit_program_settings(settings, [&](const char* name, auto& value, const char*) {
      if (given.name == name) {
        own = true;
        if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string>) {
          value = given.text;
        } else {
          bsconv::train::detail::parse_value(given.text, value);
        }
      }
    });
    if (!own) {
      bsconv::train::set_setting(settings.options, given.name, given.text);
    }
  } catch (const c10::Error& error) {
    // A flag says the name already.
    const std::string prefix = given.name + ": ";
    std::string reason = error.what_without_backtrace();
    if (reason.rfind(prefix, 0) == 0) {
      reason.erase(0, prefix.size());
    }
    const bool flag = given.origin.rfind("--", 0) == 0;
    throw UsageError(given.origin + ": " + (flag ? "" : prefix) + reason);
  }
}

/// The settings of the file at `path`, without the version that wrote it.
std::vector<GivenSetting> read_settings(const std::filesystem::path& path) {
  auto names = known_names();
  names.emplace_back(version_key);
  std::vector<GivenSetting> given;
  try {
    given = bsconv::train::read_settings_file(path, names);
  } catch (const c10::Error& error) {
    throw UsageError(error.what_without_backtrace());
  }
  const auto version = [](const GivenSetting& setting) { return setting.name == version_key; };
  given.erase(std::remove_if(given.begin(), given.end(), version), given.end());
  return given;
}

/// Makes the paths in `settings` absolute, so that the run goes on from any directory. What names
/// no file is the name of a trained model, or is missed later.
void make_paths_absolute(TrainSettings& settings) {
  for (auto* text : {&settings.data_root, &settings.teacher, &settings.weights}) {
    std::error_code error;
    if (!text->empty() && *text != "none" && std::filesystem::exists(*text, error)) {
      *text = std::filesystem::absolute(*text).native();
    }
  }
}

/// Takes the machine's settings from the folder of the run that goes on, if it is one.
void apply_machine_settings(TrainSettings& settings, const std::filesystem::path& run_folder) {
  const auto path = run_folder / settings_file_name;
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return;
  }
  for (const auto& given : read_settings(path)) {
    visit_machine_settings(settings, [&](const char* name, const auto&, const char*) {
      if (given.name == name) {
        apply(settings, given);
      }
    });
  }
}

}  // namespace

void add_train_flags(CLI::App& command, TrainFlags& flags) {
  const auto add = [&](const char* name, const auto& value, const char* description) {
    const auto flag = flag_name(name);
    const auto remember = [&flags, name, flag](const std::string& text) {
      flags.settings.push_back({name, text, flag});
    };
    std::string help = description;
    if (const auto text = text_of(value); !text.empty()) {
      help += "; default: " + text;
    }
    using Value = std::decay_t<decltype(value)>;
    if constexpr (std::is_same_v<Value, bool>) {
      command.add_flag_function(
          flag + ",!--no-" + flag.substr(2),
          [remember](int64_t count) { remember(count > 0 ? "true" : "false"); }, help);
    } else if constexpr (std::is_same_v<Value, std::vector<int64_t>>) {
      command
          .add_option_function<std::vector<std::string>>(
              flag,
              [remember](const std::vector<std::string>& texts) {
                remember(bsconv::detail::join(texts, ","));
              },
              help)
          ->delimiter(',');
    } else {
      auto* option = command.add_option_function<std::string>(flag, remember, help);
      option->type_name(std::is_floating_point_v<Value> ? "FLOAT"
                        : std::is_integral_v<Value>     ? "INT"
                                                        : "TEXT");
      if (std::string(name) == "dataset") {
        option->check(CLI::IsMember(dataset_names()));
      }
    }
  };
  const TrainSettings defaults;
  visit_program_settings(defaults, add);
  bsconv::train::visit_settings(defaults.options, add);
  command.add_option("--config", flags.config,
                     "TOML file of settings, named as the flags with _ for -, or the folder of a "
                     "run for its own; flags win over it");
  command.add_option("--out", flags.out,
                     "Folder for checkpoints, metrics and logs; default: a new one in runs/");
  auto* resume =
      command.add_option("--resume", flags.resume,
                         "Run folder or checkpoint to go on from, with its settings where no flag "
                         "says otherwise; a folder also knows data root, workers and device");
  command.get_option("--weights")->excludes(resume);
  command.add_flag("--dry-run", flags.dry_run,
                   "Only print the model's profile, sizes, steps and the expected time");
  command
      .add_option("--process-timeout", flags.processes.timeout,
                  "How long to wait for other processes, in seconds (those that torchrun starts)")
      ->transform(whole_number(1, 1'000'000))
      ->capture_default_str();
  command
      .add_option("--process-backend", flags.processes.backend,
                  "How processes talk; auto is NCCL between GPUs, where this program has it, and "
                  "Gloo elsewhere")
      ->check(CLI::IsMember(process_backends()))
      ->capture_default_str();
}

TrainSettings make_settings(const TrainFlags& flags, const std::optional<Checkpoint>& checkpoint) {
  TrainSettings settings;
  if (checkpoint) {
    settings.options = checkpoint->options;
    settings.architecture = checkpoint->info.architecture;
    settings.dataset = checkpoint->info.dataset;
    for (const auto& [name, text] : checkpoint->info.settings) {
      apply(settings, {name, text, "the checkpoint"});
    }
    apply_machine_settings(settings, flags.resume);
  }
  const auto started_from = settings.weights;
  auto given = flags.config.empty() ? std::vector<GivenSetting>()
                                    : read_settings(in_directory(flags.config, settings_file_name));
  given.insert(given.end(), flags.settings.begin(), flags.settings.end());
  for (const auto& setting : given) {
    apply(settings, setting);
  }
  if (checkpoint) {
    // What a run has started from does not change.
    settings.weights = started_from;
  } else if (settings.weights != "none" &&
             std::none_of(given.begin(), given.end(), [](const GivenSetting& setting) {
               return setting.name == "architecture";
             })) {
    const auto metadata = load_model_weights(settings.weights).metadata;
    const auto known = metadata.find("architecture");
    settings.architecture = known == metadata.end() ? settings.architecture : known->second;
  }
  if (const auto name = bsconv::try_parse_model_name(settings.architecture)) {
    settings.architecture = name->text;
  }
  check_program_settings(settings);
  make_paths_absolute(settings);
  settings.options.workers(settings.workers);
  settings.options.device(parse_device(device_of_process(settings.device)));
  try {
    settings.options.check();
  } catch (const c10::Error& error) {
    throw UsageError(error.what_without_backtrace());
  }
  return settings;
}

std::map<std::string, std::string> kept_settings(const TrainSettings& settings) {
  std::map<std::string, std::string> kept;
  visit_kept_settings(settings, [&kept](const char* name, const auto& value, const char*) {
    kept[name] = text_of(value);
  });
  return kept;
}

bsconv::data::Augmentation augmentation_of(const TrainSettings& settings) {
  bsconv::data::Augmentation result;
  if (settings.augment == "trivial") {
    result.then(bsconv::data::TrivialAugmentWide());
  } else if (settings.augment == "rand") {
    result.then(bsconv::data::RandAugment());
  }
  if (settings.random_erasing > 0) {
    result.then(bsconv::data::RandomErasing(settings.random_erasing));
  }
  return result;
}

bsconv::data::Mixing mixing_of(const TrainSettings& settings) {
  std::vector<bsconv::data::Mixing> choices;
  if (settings.mixup > 0) {
    choices.push_back(bsconv::data::mixup(settings.mixup));
  }
  if (settings.cutmix > 0) {
    choices.push_back(bsconv::data::cutmix(settings.cutmix));
  }
  if (choices.size() < 2) {
    return choices.empty() ? bsconv::data::Mixing() : choices.front();
  }
  return bsconv::data::choose_mixing(std::move(choices));
}

void write_settings(std::ostream& out, const TrainSettings& settings) {
  using bsconv::train::write_setting;
  write_setting(out, version_key, std::string(bsconv::version));
  visit_program_settings(settings, [&out](const char* name, const auto& value, const char*) {
    write_setting(out, name, value);
  });
  bsconv::train::write_settings(out, settings.options);
}

}  // namespace bsconv_program
