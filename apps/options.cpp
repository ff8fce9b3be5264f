#include "apps/options.h"

#include <fmt/ranges.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "tensor/conv_method.h"
#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/nearest.h"
#include "tensor/threads.h"

namespace halfstep {

namespace {

constexpr size_t kWidth = 80, kHelpColumn = 28;
constexpr int kMaxThreads = 1024;

/// Breaks `text` at spaces so that lines that start at column `indent` end before `width`; line breaks stay.
std::string wrap(const std::string& text, size_t indent, size_t width = kWidth) {
  std::string result, line;
  const auto flush = [&] {
    if (!result.empty()) result += '\n' + std::string(indent, ' ');
    result += line;
    line.clear();
  };
  for (const std::string& paragraph : CLI::detail::split(text, '\n')) {
    for (const std::string& word : CLI::detail::split(paragraph, ' ')) {
      if (!line.empty() && indent + line.size() + 1 + word.size() >= width) flush();
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
      ->check(one_of({"auto", "cpu", "cuda", "reference"}))
      ->group("General");
  app.add_option("--threads", threads, "CPU threads (default: $HALFSTEP_THREADS, or all CPUs)")
      ->type_name("N")
      ->check(whole_number(1, kMaxThreads))
      ->group("General");
  app.add_option(
         "--conv", conv,
         "how the CPU computes 3x3 convolutions: direct, winograd (2 to 3 times faster, rounded a little "
         "less finely), or auto: what is faster (default: $HALFSTEP_CONV, or auto)")
      ->type_name("NAME")
      ->check(one_of({"auto", "direct", "winograd"}))
      ->group("General");
  app.add_flag("--stats", stats, "at the end say what the device did: kernels, copies, memory")
      ->group("General");
  app.add_option("--graphs", graphs,
                 "on: a GPU records the kernels of a step and starts them at once; off: one by one, with the "
                 "same results (default on)")
      ->type_name("NAME")
      ->check(one_of({"on", "off"}))
      ->group("General");
  app.add_flag("--debug-sync", debug_sync,
               "wait after every kernel of a GPU, so that a failure is reported where it happened; implies "
               "--graphs off "
               "(default: $HALFSTEP_CUDA_SYNC)")
      ->group("General");
  app.add_flag("--json", json, "print the result as JSON on stdout")->group("General");
}

namespace {
Device* device_with_stats = nullptr;
}

void print_device_statistics() {
  if (!device_with_stats) return;
  const DeviceStatistics s = device_with_stats->statistics();
  fmt::print(
      stderr,
      "{}: {} kernels started, {} graphs; {} copies to the device ({:.3f} MB), {} copies from it ({:.3f} "
      "MB); peak memory {:.1f} MB\n",
      device_with_stats->name(), s.launches, s.graph_launches, s.uploads,
      static_cast<double>(s.uploaded_bytes) / 1e6, s.downloads, static_cast<double>(s.downloaded_bytes) / 1e6,
      static_cast<double>(device_with_stats->allocator.peak_bytes()) / 1e6);
}

Device& GeneralFlags::apply() const {
  if (threads > 0) set_num_threads(threads);
  if (!conv.empty()) set_conv_method(conv_method_by_name(conv, "--conv"));
  // Nobody includes cuda/, which reads the variable at its first launch.
  if (debug_sync) setenv("HALFSTEP_CUDA_SYNC", "1", 1);
  Device& chosen = device_by_name(device);
  chosen.use_graphs(graphs == "on");
  if (stats) device_with_stats = &chosen;
  return chosen;
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

namespace {
CLI::Validator number_above(double low, const char* expected) {
  return CLI::Validator(
      [=](const std::string& text) {
        double value = 0;
        const bool ok = CLI::detail::lexical_cast(text, value) && std::isfinite(value) && value > low;
        return ok ? std::string() : fmt::format("expected {}, got '{}'", expected, text);
      },
      "", "");
}
}  // namespace

CLI::Validator number() { return number_above(-HUGE_VAL, "a number"); }
CLI::Validator positive_number() { return number_above(0, "a number above 0"); }

// A validator has no place for its words but its name.
constexpr const char* kWords = "words:";

CLI::Validator one_of(const std::vector<std::string>& words) {
  return name_for(
      [words](const std::string& text) {
        if (std::find(words.begin(), words.end(), text) == words.end())
          fail("", "expected one of {}, got '{}'", fmt::join(words, ", "), text);
      },
      words);
}

CLI::Validator name_for(std::function<void(const std::string&)> by_name,
                        const std::vector<std::string>& words) {
  return CLI::Validator(
      [by_name = std::move(by_name), words](const std::string& text) {
        try {
          by_name(text);
          return std::string();
        } catch (const Error& e) {
          // The flag says where, so the "[loss] " of the message would say it twice.
          const std::string message = e.what();
          return message.substr(message.find("] ") + 2) + did_you_mean(text, words);
        }
      },
      "", words.empty() ? "" : fmt::format("{}{}", kWords, fmt::join(words, " ")));
}

std::vector<std::string> words_of(CLI::Option& option) {
  std::vector<std::string> words;
  try {
    const std::string name = option.get_validator()->get_name();
    if (name.starts_with(kWords)) words = CLI::detail::split(name.substr(std::string(kWords).size()), ' ');
  } catch (const CLI::OptionNotFound&) {
    // an option without a validator
  }
  return words;
}

// --- settings ----------------------------------------------------------------------------------------------

namespace {

/// The names that settings may have as values, for suggestions and completion; what they mean, by_name says.
const std::map<std::string, std::vector<std::string>>& names_of_settings() {
  static const std::map<std::string, std::vector<std::string>> names{
      {"model.logsnr_input", {"inv_cos", "sigmoid", "linear"}},
      {"model.prediction", {"x", "eps", "v", "both"}},
      {"train.anneal_shape", {"linear", "cosine"}},
      {"train.ema_warmup", {"none", "ramp", "power"}},
      {"train.loss", {"constant", "snr", "truncated-snr", "snr+1"}},
      {"train.precision", {"f32", "bf16"}}};
  return names;
}

std::string key_of(const std::string& name) { return name.substr(name.find('.') + 1); }

/// "; did you mean 'model.channels'?" for "channels", "train.channels", "model.chanels", "chanels"; or
/// nothing.
std::string near_setting(const std::string& name) {
  const std::vector<std::string> names = setting_names();
  std::vector<std::string> keys;
  for (const std::string& full : names) keys.push_back(key_of(full));
  const std::string nearest = nearest_name(key_of(name), keys);
  const std::string with_section =
      names[static_cast<size_t>(std::find(keys.begin(), keys.end(), nearest) - keys.begin())];
  if (key_of(name) == nearest) return fmt::format("; did you mean '{}'?", with_section);
  const std::string hint = did_you_mean(name, names);
  return hint.empty() && is_near(key_of(name), nearest) ? fmt::format("; did you mean '{}'?", with_section)
                                                        : hint;
}

}  // namespace

Setting parse_setting(const std::string& text) {
  constexpr const char* kWhere = "settings";
  const size_t equals = text.find('=');
  require(equals != std::string::npos, kWhere, "expected SECTION.KEY=VALUE, got '{}'", text);
  const std::string name = text.substr(0, equals), value = text.substr(equals + 1);
  const Json known = to_json(Config());
  require(!known.contains(name), kWhere, "expected SECTION.KEY=VALUE, got '{}'", text);
  const size_t dot = std::min(name.find('.'), name.size());
  Setting setting{.section = name.substr(0, dot), .key = key_of(name), .value = {}};
  if (dot == name.size() || !known.contains(setting.section) ||
      !known[setting.section].contains(setting.key)) {
    const std::string hint = near_setting(name);
    fail(kWhere, "unknown setting '{}'{}", name, hint.empty() ? "; train --print-config shows all" : hint);
  }
  const bool is_text = known[setting.section][setting.key].is_string();
  setting.value = Json::parse(value, nullptr, false);
  // A text need not be quoted, whatever it looks like.
  if (setting.value.is_discarded() || (is_text && !setting.value.is_string())) setting.value = value;
  Config scratch;
  Json json;
  json[setting.section][setting.key] = setting.value;
  try {
    read_json(json, text, scratch);
  } catch (const Error& e) {
    const auto it = names_of_settings().find(name);
    const std::string message = e.what();
    if (it == names_of_settings().end()) throw;
    fail(kWhere, "{}{}", message.substr(message.find("] ") + 2), did_you_mean(value, it->second));
  }
  return setting;
}

std::vector<std::string> setting_names() {
  std::vector<std::string> names;
  const Json known = to_json(Config());
  for (const auto& [section, keys] : known.items())
    for (const auto& [key, value] : keys.items()) names.push_back(section + "." + key);
  return names;
}

template <class T>
void SettingFlags::add(CLI::App& app, const std::string& flag, const char* section, const char* key,
                       const std::string& help) {
  app.add_option_function<T>(
         flag,
         [this, flag, section, key](const T& value) {
           given_[flag] = {{section, key, value}};
         },
         help_with_default(help, section, key))
      ->type_name(std::is_floating_point_v<T> ? "X" : "N")
      ->check(std::is_floating_point_v<T> ? number() : whole_number(0))
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
                            ByName by_name, const std::string& help, const std::string& group) {
  app.add_option_function<std::string>(
         flag,
         [this, flag, section, key](const std::string& value) {
           given_[flag] = {{section, key, value}};
         },
         help_with_default(help, section, key))
      ->type_name("NAME")
      ->check(name_for([by_name](const std::string& name) { by_name(name); },
                       names_of_settings().at(fmt::format("{}.{}", section, key))))
      ->group(group);
}

void SettingFlags::add_switch(CLI::App& app, const std::string& name, const char* section, const char* key,
                              const std::string& help) {
  const std::string flag = "--" + name;
  app.add_flag_function(
         flag + ",!--no-" + name,
         [this, flag, section, key](int64_t on) {
           given_[flag] = {{section, key, on > 0}};
         },
         help_with_default(help, section, key))
      ->group("Settings");
}

void SettingFlags::add_config_flags(CLI::App& app, std::map<std::string, std::string> planned) {
  app_ = &app;
  app.add_option("--config", file_, "JSON file with settings; flags override it")->type_name("FILE");
  const auto parse = [planned = std::move(planned)](const std::string& text) {
    Setting setting = parse_setting(text);
    const auto it = planned.find(setting.section + "." + setting.key);
    if (it != planned.end()) fail("settings", "'{}' cannot be set: {}", it->first, it->second);
    return setting;
  };
  app.add_option_function<std::vector<std::string>>(
         "--set",
         [this, parse](const std::vector<std::string>& texts) {
           for (const std::string& text : texts) given_["--set"].push_back(parse(text));
         },
         "any setting of --config, as model.channels=64 or model.channel_multipliers=[1,2,2]; may be "
         "repeated. "
         "The last one on the command line counts, --set or not")
      ->type_name(kSettingForm)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->check(name_for(parse, {}));
}

void SettingFlags::add_teacher_flags(CLI::App& app) {
  add_name(app, "--prediction", "model", "prediction", prediction_by_name,
           "what the network predicts: x, eps, v, both");
  add<int64_t>(app, "--num-train-steps", "train", "num_train_steps",
               "times in training: 1/N, 2/N ... 1; 0: continuous time");
}

void SettingFlags::add_train_flags(CLI::App& app, bool show_defaults) {
  show_defaults_ = show_defaults;
  add_config_flags(app);
  const char* const train = "train";
  add_name(app, "--loss", train, "loss", loss_weight_by_name,
           "weight of the error: constant, snr, truncated-snr, snr+1");
  add<int64_t>(app, "--max-steps", train, "max_steps", show_defaults ? "updates" : "updates of each halving");
  add<int64_t>(app, "--batch-size", train, "batch_size", "pictures per update");
  add<double>(app, "--learning-rate", train, "learning_rate", "of Adam, before warm-up and anneal");
  add<int64_t>(app, "--warmup-steps", train, "warmup_steps", "updates until the learning rate is reached");
  add_switch(app, "anneal", train, "anneal", "lower the learning rate to 0, or not");
  add_name(app, "--anneal-shape", train, "anneal_shape", anneal_shape_by_name, "linear or cosine");
  add<double>(app, "--weight-decay", train, "weight_decay", "of AdamW");
  add<double>(app, "--max-grad-norm", train, "max_grad_norm", "gradients are clipped to this norm; 0: never");
  add<double>(app, "--ema-decay", train, "ema_decay",
              "moving average of the weights; 0: none, the weights themselves are used");
  add_name(app, "--ema-warmup", train, "ema_warmup", ema_warmup_by_name,
           "none, ramp: min(decay, (1 + k) / (10 + k)), or power: min(decay, 1 - (1 + k)^-0.75)");
  add_switch(app, "flip", train, "flip", "mirror half of the pictures, or none");
  add_seed_flag(app, "Settings");
  add_precision_flag(app, "Settings");
  add<int64_t>(app, "--micro-batches", train, "micro_batches",
               "equal parts of a batch, one after the other: less memory");
  add<int64_t>(app, "--checkpoint-every", train, "checkpoint_every",
               "updates between two checkpoints; 0: one at the end");
  add<int64_t>(app, "--keep", train, "keep", "newest checkpoints that are kept; 0: all");
  add<int64_t>(app, "--log-every", train, "log_every", "updates between two reports");
  add<int64_t>(app, "--eval-every", train, "eval_every",
               "updates between two evaluations (samples and their distance to the data); 0: none");
  add_switch(app, "tensorboard", train, "tensorboard", "write event files for TensorBoard, too, or not");
}

void SettingFlags::set_halving_steps(const std::vector<std::string>& pairs) {
  Json updates_of = Json::object();
  for (const std::string& pair : pairs) {
    const size_t equals = pair.find('=');
    int64_t num_steps = 0, updates = 0;
    require(equals != std::string::npos && CLI::detail::lexical_cast(pair.substr(0, equals), num_steps) &&
                CLI::detail::lexical_cast(pair.substr(equals + 1), updates) && num_steps >= 1 && updates >= 1,
            "distill", "expected N=K, the updates K of the student of N steps, got '{}'", pair);
    updates_of[std::to_string(num_steps)] = updates;
  }
  given_["--steps-of"] = {{"distill", "max_steps", updates_of}};
}

namespace {
constexpr const char* kPrecisionHelp =
    "f32, or bf16: activations and products in bf16, with sums, parameters and checkpoints in f32";
}

void SettingFlags::add_precision_flag(CLI::App& app, const std::string& group) {
  add_name(app, "--precision", "train", "precision", precision_by_name, kPrecisionHelp, group);
}

void add_precision_flag(CLI::App& app, Precision& precision) {
  app.add_option_function<std::string>(
         "--precision", [&precision](const std::string& name) { precision = precision_by_name(name); },
         fmt::format("{} (default {})", kPrecisionHelp, name_of(precision)))
      ->type_name("NAME")
      ->check(name_for([](const std::string& name) { precision_by_name(name); },
                       names_of_settings().at("train.precision")));
}

void SettingFlags::add_seed_flag(CLI::App& app, const std::string& group) {
  app.add_option_function<int64_t>(
         "--seed",
         [this](int64_t seed) {
           given_["--seed"] = {{"train", "seed", seed}};
         },
         help_with_default("of everything random", "train", "seed"))
      ->type_name("S")
      ->check(whole_number(0))
      ->group(group);
}

Json SettingFlags::given() const {
  Json json = Json::object();
  std::map<std::string, size_t> seen;
  for (const CLI::Option* option : app_->parse_order()) {
    const auto it = given_.find(option->get_name());
    if (it == given_.end()) continue;
    // A flag that holds one value has it wherever it stands; --set holds one for each time.
    const size_t k = std::min(seen[it->first]++, it->second.size() - 1);
    json[it->second[k].section][it->second[k].key] = it->second[k].value;
  }
  return json;
}

namespace {

namespace fs = std::filesystem;

/// The folders of the configurations that come with the program: beside an installed one, and in the source
/// tree.
std::vector<fs::path> config_folders() {
  std::error_code failed;
  const fs::path program = fs::read_symlink("/proc/self/exe", failed).parent_path();
  return {(program / ".." / HALFSTEP_DATADIR / "halfstep" / "configs").lexically_normal(),
          (program / ".." / ".." / "configs").lexically_normal()};
}

std::vector<std::string> files_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code failed;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder.empty() ? "." : folder, failed))
    if (!entry.is_directory(failed)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

/// What a person may have meant by the name of a file that is not there: "; did you mean '...'?" or nothing.
std::string near_file(const fs::path& path) {
  for (const fs::path& folder : config_folders())
    for (const std::string& name : files_in(folder))
      if (fs::path(name).stem() == path.stem() && fs::path(name).extension() == ".json")
        return fmt::format("; did you mean '{}'?", (folder / name).string());
  const std::vector<std::string> names = files_in(path.parent_path());
  const std::string name = path.filename().string(), nearest = nearest_name(name, names);
  return is_near(name, nearest) ? fmt::format("; did you mean '{}'?", (path.parent_path() / nearest).string())
                                : std::string();
}

}  // namespace

Config read_settings(const std::string& file, const Json& flags, const Config& base) {
  std::error_code failed;
  const fs::file_type type = file.empty() ? fs::file_type::none : fs::status(file, failed).type();
  require(type != fs::file_type::not_found && type != fs::file_type::directory, "config",
          "expected a file '{}', found {}{}", file, type == fs::file_type::directory ? "a folder" : "none",
          near_file(file));
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

size_t terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kWidth;
}

void print_message(const std::string& message) {
  std::string text;
  for (const std::string& line : CLI::detail::split(message, '\n'))
    text +=
        (isatty(STDERR_FILENO) && line.size() >= terminal_width() ? wrap(line, 0, terminal_width()) : line) +
        '\n';
  std::fputs(text.c_str(), stderr);
}

std::string format_seconds(double seconds) {
  if (!std::isfinite(seconds)) return "?";
  const auto total = static_cast<int64_t>(std::lround(seconds));
  const int64_t hours = total / 3600, minutes = total / 60 % 60, rest = total % 60;
  return hours ? fmt::format("{}:{:02}:{:02}", hours, minutes, rest) : fmt::format("{}:{:02}", minutes, rest);
}

}  // namespace halfstep
