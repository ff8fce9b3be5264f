// What all subcommands share: the general flags, the flags for training settings, and help that fits 80
// columns.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "diffusion/idx.h"
#include "diffusion/internal/json.h"
#include "tensor/device.h"

namespace halfstep {

/// A subcommand and what it does once the command line is understood.
struct Command {
  CLI::App* app;
  std::function<void()> run;
};

/// Exit codes of the program.
enum ExitCode : int {
  kSuccess = 0,
  kFailure = 1,
  kUsageError = 2,
  kInterrupted = 130,  ///< 128 + SIGINT
  kTerminated = 143    ///< 128 + SIGTERM
};

/// What the user typed, quoted as a shell would need it; set once by main(). For manifests.
void set_command_line(int argc, char** argv);
const std::string& command_line();
/// "halfstep 0.1.0"
std::string program_version();

/// --device, --threads, --conv, --json.
struct GeneralFlags {
  std::string device = "auto";
  int threads = 0;   ///< 0: not given
  std::string conv;  ///< empty: not given
  std::string graphs = "on";
  bool json = false, stats = false, debug_sync = false;

  void add_to(CLI::App& app);
  /// Sets the number of threads and the method of convolutions, which must happen before the first
  /// computation, finds the device, and says whether it may record graphs.
  Device& apply() const;
};

/// For --stats: what the device of the command did, on stderr; nothing without the flag.
void print_device_statistics();

/// `base` with the values of the configuration file `file` (none if empty) and over them those of `flags`,
/// which has the same form. The number of output channels follows from the prediction unless the file or a
/// flag says it. Throws Error as config_from_json does, and for a file that is not there with the name of one
/// that is.
Config read_settings(const std::string& file, const Json& flags, const Config& base);

/// One value of a configuration: model.channels = 64.
struct Setting {
  std::string section, key;
  Json value;
};

/// How --set takes a setting; help and completion know it by this.
constexpr const char* kSettingForm = "SECTION.KEY=VALUE";
/// Reads that form; the value is JSON, or a text as it stands. Throws Error for another form, an unknown name
/// and a value of a wrong type.
Setting parse_setting(const std::string& text);
/// "model.channels", ...: all that parse_setting knows.
std::vector<std::string> setting_names();

/// `base` for pictures of the size that `data` has.
Config for_pictures_of(const Dataset& data, Config base);

/// Flags that override settings of a configuration file. They become one JSON object of the file's form, so
/// that "flag over file over default" is one merge; where flags give the same setting the last one counts.
class SettingFlags {
 public:
  /// --config and --set. `planned` are settings that --set cannot give, because something else decides them:
  /// "model.channels", and then why.
  void add_config_flags(CLI::App& app, std::map<std::string, std::string> planned = {});
  /// What only the training from data chooses: --prediction and --num-train-steps.
  void add_teacher_flags(CLI::App& app);
  /// --config, --set and what concerns the training. Help names the defaults of Config where they hold.
  void add_train_flags(CLI::App& app, bool show_defaults);
  /// --precision, which stands in `group` of the help.
  void add_precision_flag(CLI::App& app, const std::string& group);
  /// --seed, which stands in `group` of the help.
  void add_seed_flag(CLI::App& app, const std::string& group);

  /// Updates of single halvings, as "2=1000". Throws Error for another form.
  void set_halving_steps(const std::vector<std::string>& pairs);

  /// `base` with the values of the file and then of the flags.
  Config over(const Config& base) const { return read_settings(file_, given(), base); }
  /// Whether a file or any of the flags was given.
  bool any() const { return !file_.empty() || !given_.empty(); }

 private:
  template <class T>
  void add(CLI::App& app, const std::string& flag, const char* section, const char* key,
           const std::string& help);
  template <class ByName>
  void add_name(CLI::App& app, const std::string& flag, const char* section, const char* key, ByName by_name,
                const std::string& help, const std::string& group = "Settings");
  void add_switch(CLI::App& app, const std::string& name, const char* section, const char* key,
                  const std::string& help);

  Json given() const;
  std::string help_with_default(const std::string& help, const char* section, const char* key) const;

  std::string file_;
  std::map<std::string, std::vector<Setting>> given_;  ///< by flag, a value for each time it stands there
  const CLI::App* app_ = nullptr;                      ///< knows the order of the flags
  bool show_defaults_ = true;
};

/// --precision of a command without settings, into `precision`.
void add_precision_flag(CLI::App& app, Precision& precision);

/// The flag --data.
struct DataFlag {
  std::string folder;  ///< empty: Fashion-MNIST as Debian installs it

  void add_to(CLI::App& app);
  Dataset load() const;
};

/// Validators: whole numbers in low ... high, finite numbers, and those above 0.
CLI::Validator whole_number(int64_t low, int64_t high = INT64_MAX);
CLI::Validator number();
CLI::Validator positive_number();
/// One of the given words, which have no spaces.
CLI::Validator one_of(const std::vector<std::string>& words);
/// A name that `by_name` reads without an Error. The words are names to suggest.
CLI::Validator name_for(std::function<void(const std::string&)> by_name,
                        const std::vector<std::string>& words);
/// The words of the validators above; none for other options.
std::vector<std::string> words_of(CLI::Option& option);

/// Shows help within 80 columns.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_description(const CLI::App* app) const override;
  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override;
  std::string make_usage(const CLI::App* app, std::string name) const override;
  std::string make_option(const CLI::Option* option, bool is_positional) const override;
  std::string make_subcommand(const CLI::App* app) const override;
};

/// The footer of a subcommand's help.
std::string example(const std::string& command);

/// The columns of the terminal on stderr; 80 if there is none, or if it does not say.
size_t terminal_width();

/// Prints a message on stderr, broken at spaces where a line is longer than a terminal is wide. Gives no
/// error: there is nobody left to tell.
void print_message(const std::string& message);

/// "1:05:09" or "5:09".
std::string format_seconds(double seconds);

}  // namespace halfstep
