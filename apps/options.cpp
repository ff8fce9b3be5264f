#include "apps/options.h"

#include <cmath>
#include <cstdlib>

#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/threads.h"

namespace halfstep {

namespace {

constexpr size_t kWidth = 80, kHelpColumn = 28;
constexpr int kMaxThreads = 1024;

/// Breaks `text` at spaces so that lines that start at column `indent` end before kWidth; line breaks stay.
std::string wrap(const std::string& text, size_t indent) {
  std::string result, line;
  const auto flush = [&] {
    if (!result.empty()) result += '\n' + std::string(indent, ' ');
    result += line;
    line.clear();
  };
  for (const std::string& paragraph : CLI::detail::split(text, '\n')) {
    for (const std::string& word : CLI::detail::split(paragraph, ' ')) {
      if (!line.empty() && indent + line.size() + 1 + word.size() >= kWidth) flush();
      line += (line.empty() ? "" : " ") + word;
    }
    flush();
  }
  return result;
}

/// A name at the left with its help at the right, below it where the name is long.
std::string entry(const std::string& name, const std::string& help) {
  const std::string left = "  " + name;
  const std::string gap = left.size() < kHelpColumn - 1 ? std::string(kHelpColumn - left.size(), ' ')
                                                        : '\n' + std::string(kHelpColumn, ' ');
  return left + (help.empty() ? "" : gap + wrap(help, kHelpColumn)) + '\n';
}

/// The number of image channels times what the prediction needs, where both can be told.
void fill_output_channels(Json& model, const Config& base) {
  if (model.contains("out_channels")) return;
  const Json prediction = model.value("prediction", Json(std::string(name_of(base.model.prediction))));
  const Json channels = model.value("in_channels", Json(base.model.unet.in_channels));
  if (prediction.is_string() && channels.is_number_integer())
    model["out_channels"] =
        output_channels(prediction_by_name(prediction.get<std::string>()), channels.get<int64_t>());
}

}  // namespace

namespace {
std::string typed;
}

void set_command_line(int argc, char** argv) {
  typed = "halfstep";
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    constexpr const char* kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
    if (argument.empty() || argument.find_first_not_of(kPlain) != std::string::npos)
      argument = "'" + CLI::detail::find_and_replace(argument, "'", "'\\''") + "'";
    typed += " " + argument;
  }
}

const std::string& command_line() { return typed; }

std::string program_version() { return "halfstep " HALFSTEP_VERSION; }

// --- general -----------------------------------------------------------------------------------------------

void GeneralFlags::add_to(CLI::App& app) {
  app.add_option("--device", device, "cpu, cuda, or auto: a GPU if there is one (default auto)")
      ->type_name("NAME")
      ->group("General");
  app.add_option("--threads", threads, "CPU threads (default: $HALFSTEP_THREADS, or all CPUs)")
      ->type_name("N")
      ->check(whole_number(1, kMaxThreads))
      ->group("General");
  app.add_flag("--json", json, "print the result as JSON on stdout")->group("General");
}

Device& GeneralFlags::apply() const {
  if (threads > 0) set_num_threads(threads);
  return device_by_name(device);
}

void DataFlag::add_to(CLI::App& app) {
  app.add_option(
         "--data", folder,
         "folder with IDX files, plain or .gz: train-images-idx3-ubyte and train-labels-idx1-ubyte (default: "
         "Fashion-MNIST of Debian's package dataset-fashion-mnist)")
      ->type_name("DIR");
}

Dataset DataFlag::load() const {
  return load_dataset(folder.empty() ? default_dataset_folder() : folder, Split::train);
}

CLI::Validator whole_number(int64_t low, int64_t high) {
  const std::string expected = high == INT64_MAX ? fmt::format("a whole number, at least {}", low)
                                                 : fmt::format("a whole number, {} to {}", low, high);
  return CLI::Validator(
      [=](const std::string& text) {
        int64_t value = 0;
        const bool ok = CLI::detail::lexical_cast(text, value) && value >= low && value <= high;
        return ok ? std::string() : fmt::format("expected {}, got '{}'", expected, text);
      },
      "", "");
}

CLI::Validator positive_number() {
  return CLI::Validator(
      [](const std::string& text) {
        double value = 0;
        const bool ok = CLI::detail::lexical_cast(text, value) && std::isfinite(value) && value > 0;
        return ok ? std::string() : fmt::format("expected a number above 0, got '{}'", text);
      },
      "", "");
}

// --- settings ----------------------------------------------------------------------------------------------

template <class T>
void SettingFlags::add(CLI::App& app, const std::string& flag, const char* section, const char* key,
                       const std::string& help) {
  app.add_option_function<T>(
         flag, [this, section, key](const T& value) { given_[section][key] = value; },
         help_with_default(help, section, key))
      ->type_name(std::is_floating_point_v<T> ? "X" : "N")
      ->group("Settings");
}

std::string SettingFlags::help_with_default(const std::string& help, const char* section,
                                            const char* key) const {
  if (!show_defaults_) return help;
  const Json value = to_json(Config())[section][key];
  return fmt::format("{} (default {})", help, value.is_string() ? value.get<std::string>() : value.dump());
}

template <class ByName>
void SettingFlags::add_name(CLI::App& app, const std::string& flag, const char* section, const char* key,
                            ByName by_name, const std::string& help) {
  const auto check = [by_name](const std::string& name) {
    try {
      by_name(name);
      return std::string();
    } catch (const Error& e) {
      return std::string(e.what());
    }
  };
  app.add_option_function<std::string>(
         flag, [this, section, key](const std::string& value) { given_[section][key] = value; },
         help_with_default(help, section, key))
      ->type_name("NAME")
      ->check(CLI::Validator(check, "", ""))
      ->group("Settings");
}

void SettingFlags::add_teacher_flags(CLI::App& app) {
  add_name(app, "--prediction", "model", "prediction", prediction_by_name,
           "what the network predicts: x, eps, v, both");
  add<int64_t>(app, "--num-train-steps", "train", "num_train_steps",
               "times in training: 1/N, 2/N ... 1; 0: continuous time");
}

void SettingFlags::add_train_flags(CLI::App& app, bool show_defaults) {
  show_defaults_ = show_defaults;
  app.add_option("--config", file_, "JSON file with settings; flags override it")->type_name("FILE");
  const char* const train = "train";
  add_name(app, "--loss", train, "loss", loss_weight_by_name,
           "weight of the error: constant, snr, truncated-snr, snr+1");
  add<int64_t>(app, "--max-steps", train, "max_steps", show_defaults ? "updates" : "updates of each halving");
  add<int64_t>(app, "--batch-size", train, "batch_size", "pictures per update");
  add<double>(app, "--learning-rate", train, "learning_rate", "of Adam, before warm-up and anneal");
  add<int64_t>(app, "--warmup-steps", train, "warmup_steps", "updates until the learning rate is reached");
  app.add_flag_function(
         "--anneal,!--no-anneal", [this, train](int64_t on) { given_[train]["anneal"] = on > 0; },
         help_with_default("lower the learning rate to 0, or not", train, "anneal"))
      ->group("Settings");
  add_name(app, "--anneal-shape", train, "anneal_shape", anneal_shape_by_name, "linear or cosine");
  add<double>(app, "--weight-decay", train, "weight_decay", "of AdamW");
  add<double>(app, "--max-grad-norm", train, "max_grad_norm", "gradients are clipped to this norm; 0: never");
  add<double>(app, "--ema-decay", train, "ema_decay",
              "moving average of the weights; 0: none, the weights themselves are used");
  add_name(app, "--ema-warmup", train, "ema_warmup", ema_warmup_by_name,
           "none, ramp: min(decay, (1 + k) / (10 + k)), or power: min(decay, 1 - (1 + k)^-0.75)");
  app.add_flag_function(
         "--flip,!--no-flip", [this, train](int64_t on) { given_[train]["flip"] = on > 0; },
         help_with_default("mirror half of the pictures, or none", train, "flip"))
      ->group("Settings");
  app.add_option_function<int64_t>(
         "--seed", [this, train](int64_t seed) { given_[train]["seed"] = seed; },
         help_with_default("of everything random", train, "seed"))
      ->type_name("S")
      ->check(whole_number(0))
      ->group("Settings");
  add<int64_t>(app, "--micro-batches", train, "micro_batches",
               "equal parts of a batch, one after the other: less memory");
  add<int64_t>(app, "--checkpoint-every", train, "checkpoint_every",
               "updates between two checkpoints; 0: one at the end");
  add<int64_t>(app, "--keep", train, "keep", "newest checkpoints that are kept; 0: all");
  add<int64_t>(app, "--log-every", train, "log_every", "updates between two reports");
  add<int64_t>(app, "--eval-every", train, "eval_every",
               "updates between two evaluations (samples and their distance to the data); 0: none");
  app.add_flag_function(
         "--tensorboard,!--no-tensorboard",
         [this, train](int64_t on) { given_[train]["tensorboard"] = on > 0; },
         help_with_default("write event files for TensorBoard, too, or not", train, "tensorboard"))
      ->group("Settings");
}

void SettingFlags::set_halving_steps(const std::vector<std::string>& pairs) {
  for (const std::string& pair : pairs) {
    const size_t equals = pair.find('=');
    int64_t num_steps = 0, updates = 0;
    require(equals != std::string::npos && CLI::detail::lexical_cast(pair.substr(0, equals), num_steps) &&
                CLI::detail::lexical_cast(pair.substr(equals + 1), updates) && num_steps >= 1 && updates >= 1,
            "distill", "expected N=K, the updates K of the student of N steps, got '{}'", pair);
    given_["distill"]["max_steps"][std::to_string(num_steps)] = updates;
  }
}

Config read_settings(const std::string& file, const Json& flags, const Config& base) {
  Json json = file.empty() ? Json::object() : parse_json(read_file(file), file);
  if (json.is_object()) {  // for anything else config_from_json has the message
    json.merge_patch(flags);
    Json& model = json["model"];
    if (model.is_null()) model = Json::object();
    if (model.is_object()) fill_output_channels(model, base);
  }
  return config_from_json(json.dump(), file.empty() ? "command line" : file, base);
}

Config for_pictures_of(const Dataset& data, Config base) {
  base.model.unet.height = data.height;
  base.model.unet.width = data.width;
  base.model.unet.in_channels = data.channels;
  base.model.unet.out_channels = output_channels(base.model.prediction, data.channels);
  return base;
}

// --- help --------------------------------------------------------------------------------------------------

std::string HelpFormatter::make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const {
  return CLI::detail::find_and_replace(CLI::Formatter::make_help(app, std::move(name), mode), "\n\n\n",
                                       "\n\n");
}

std::string HelpFormatter::make_description(const CLI::App* app) const {
  return wrap(app->get_description(), 0) + "\n\n";
}

std::string HelpFormatter::make_usage(const CLI::App* app, std::string name) const {
  const std::string full_name =
      app->get_parent() ? app->get_parent()->get_name() + " " + app->get_name() : name;
  std::string usage = "Usage: " + full_name;
  if (!app->get_subcommands({}).empty()) usage += " SUBCOMMAND";
  for (const CLI::Option* option : app->get_options()) {
    if (option->get_positional())
      usage += " " + option->get_name(true, false);
    else if (option->get_required())
      usage += " " + option->get_name() + " " + option->get_type_name();
  }
  return usage + " [OPTIONS]\n";
}

std::string HelpFormatter::make_option(const CLI::Option* option, bool is_positional) const {
  if (is_positional) return entry(option->get_name(true, false), option->get_description());
  std::string name;
  for (const std::string& s : option->get_snames()) name += "-" + s + ", ";
  for (size_t i = 0; i < option->get_lnames().size(); ++i)
    name += (i ? ", --" : "--") + option->get_lnames()[i];
  if (option->get_type_size() > 0) name += " " + option->get_type_name();
  return entry(name, option->get_description());
}

std::string HelpFormatter::make_subcommand(const CLI::App* app) const {
  const std::string description = app->get_description();
  return entry(app->get_name(), description.substr(0, description.find('\n')));
}

std::string example(const std::string& command) { return "Example:\n  " + command; }

std::string format_seconds(double seconds) {
  if (!std::isfinite(seconds)) return "?";
  const auto total = static_cast<int64_t>(std::lround(seconds));
  const int64_t hours = total / 3600, minutes = total / 60 % 60, rest = total % 60;
  return hours ? fmt::format("{}:{:02}:{:02}", hours, minutes, rest) : fmt::format("{}:{:02}", minutes, rest);
}

}  // namespace halfstep
