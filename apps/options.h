// What all subcommands share: the general flags, the flags for training settings, and help that fits 80
// columns.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

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
enum ExitCode : int { kSuccess = 0, kFailure = 1, kUsageError = 2, kInterrupted = 130 };

/// What the user typed, quoted as a shell would need it; set once by main(). For manifests.
void set_command_line(int argc, char** argv);
const std::string& command_line();
/// "halfstep 0.1.0"
std::string program_version();

/// --device, --threads, --json.
struct GeneralFlags {
  std::string device = "auto";
  int threads = 0;  ///< 0: not given
  bool json = false;

  void add_to(CLI::App& app);
  /// Sets the number of threads, which must happen before the first computation, and finds the device.
  Device& apply() const;
};

/// `base` with the values of the configuration file `file` (none if empty) and over them those of `flags`,
/// which has the same form. The number of output channels follows from the prediction unless the file says
/// it. Throws Error as config_from_json does.
Config read_settings(const std::string& file, const Json& flags, const Config& base);

/// `base` for pictures of the size that `data` has.
Config for_pictures_of(const Dataset& data, Config base);

/// Flags that override settings of a configuration file. They are collected as a JSON object of the file's
/// form, so that "flag over file over default" is one merge.
class SettingFlags {
 public:
  /// What only the training from data chooses: --prediction and --num-train-steps.
  void add_teacher_flags(CLI::App& app);
  /// --config and what concerns the training. Help names the defaults of Config where they hold.
  void add_train_flags(CLI::App& app, bool show_defaults);

  /// Updates of single halvings, as "2=1000". Throws Error for another form.
  void set_halving_steps(const std::vector<std::string>& pairs);

  /// `base` with the values of the file and then of the flags.
  Config over(const Config& base) const { return read_settings(file_, given_, base); }

 private:
  template <class T>
  void add(CLI::App& app, const std::string& flag, const char* section, const char* key,
           const std::string& help);
  template <class ByName>
  void add_name(CLI::App& app, const std::string& flag, const char* section, const char* key, ByName by_name,
                const std::string& help);

  std::string help_with_default(const std::string& help, const char* section, const char* key) const;

  std::string file_;
  Json given_ = Json::object();
  bool show_defaults_ = true;
};

/// The flag --data.
struct DataFlag {
  std::string folder;  ///< empty: Fashion-MNIST as Debian installs it

  void add_to(CLI::App& app);
  Dataset load() const;
};

/// Validators: whole numbers in low ... high, and finite numbers above 0.
CLI::Validator whole_number(int64_t low, int64_t high = INT64_MAX);
CLI::Validator positive_number();

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

/// "1:05:09" or "5:09".
std::string format_seconds(double seconds);

}  // namespace halfstep
