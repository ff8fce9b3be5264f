// halfstep: diffusion models, distilled to few sampling steps.
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <vector>

#include "apps/commands.h"
#include "apps/progress.h"
#include "diffusion/run.h"
#include "tensor/error.h"
#include "tensor/nearest.h"

namespace halfstep {

namespace {

constexpr const char* kProgram = "halfstep";
constexpr const char* kNotWritten =
    "cannot write the result to stdout; is the disk full, or its reader gone?";

constexpr const char* kDescription =
    "Trains diffusion models and distils them to few sampling steps (Progressive Distillation, Salimans & Ho "
    "2022).";

constexpr const char* kFooter =
    "Example: a teacher, its students, a picture of what the last one draws\n"
    "  halfstep train --out runs/teacher --max-steps 2000\n"
    "  halfstep distill runs/teacher --out runs/students --max-steps 500\n"
    "  halfstep sample runs/students --num 64 --out grid.png\n"
    "\n"
    "Results go to stdout, progress and errors to stderr.\n"
    "Exit codes: 0 done; 1 failed; 2 wrong command line; 130 stopped by Ctrl-C;\n"
    "143 stopped by SIGTERM.\n"
    "\n"
    "halfstep SUBCOMMAND --help explains each.";

const CLI::App& chosen(const CLI::App& program) {
  const auto parsed = program.get_subcommands();
  return parsed.empty() ? program : *parsed.front();
}

std::vector<std::string> flags_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

/// Where a flag that `command` does not have would be right: "; halfstep sample has it", or a flag with a
/// similar name.
std::string place_of_flag(const CLI::App& program, const CLI::App& command, const std::string& flag) {
  const auto has = [&](const CLI::App& app) {
    const std::vector<std::string> flags = flags_of(app);
    return std::find(flags.begin(), flags.end(), flag) != flags.end();
  };
  if (has(command)) return fmt::format("; it stands behind the subcommand: {} {}", command.get_name(), flag);
  std::string having;
  for (const CLI::App* sub : program.get_subcommands({})) {
    if (has(*sub)) having += (having.empty() ? "" : ", ") + sub->get_name();
  }
  if (having.empty()) return did_you_mean(flag, flags_of(command));
  return fmt::format("; it is a flag of {}", having);
}

/// What the command line holds and nobody knows, with the nearest known name; empty if there is nothing.
std::string explain_unknown(const CLI::App& program) {
  const CLI::App& command = chosen(program);
  for (const std::string& argument : program.remaining(true)) {
    if (argument == "--") continue;
    const bool flag = argument.starts_with("-");
    if (!flag && &command != &program) continue;  // flags first: this may be the value of one of them
    const std::string name = argument.substr(0, argument.find('='));
    if (flag) return fmt::format("unknown flag '{}'{}", name, place_of_flag(program, command, name));
    std::vector<std::string> known;
    for (const CLI::App* sub : program.get_subcommands({})) known.push_back(sub->get_name());
    const std::string hint = did_you_mean(name, known);
    return fmt::format("unknown subcommand '{}'{}", name,
                       hint.empty() ? fmt::format("; there are {}", fmt::join(known, ", ")) : hint);
  }
  return {};
}

int usage_error(const CLI::App& program, const std::string& message) {
  const CLI::App& command = chosen(program);
  const std::string name =
      &command == &program ? program.get_name() : program.get_name() + " " + command.get_name();
  print_message(fmt::format("[{}] {}\nSee {} --help", name, message, name));
  return kUsageError;
}

/// CLI11's words for what is missing, in the form of all messages.
std::string explain(const CLI::ParseError& e, const CLI::App& program) {
  const std::string unknown = explain_unknown(program), message = e.what();
  if (!unknown.empty()) return unknown;
  if (dynamic_cast<const CLI::RequiredError*>(&e)) {
    const size_t end = message.find(" is required");
    if (end != std::string::npos) return fmt::format("expected {}, got none", message.substr(0, end));
  }
  if (dynamic_cast<const CLI::ExtrasError*>(&e))
    return fmt::format("expected no more arguments, got '{}'", program.remaining(true).front());
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&e)) {
    const size_t colon = message.find(':');
    if (colon != std::string::npos)
      return fmt::format("expected a value behind {}, got none", message.substr(0, colon));
  }
  return message;
}

int run(int argc, char** argv) {
  set_command_line(argc, argv);
  CLI::App program(kDescription, kProgram);
  program.formatter(std::make_shared<HelpFormatter>());
  program.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  program.set_version_flag("--version", program_version(), "show the version");
  program.footer(kFooter);
  program.require_subcommand(0, 1);  // a second word is an argument: a run may be called "train"
  const std::vector<Command> commands{add_train(program),   add_distill(program),    add_sample(program),
                                      add_predict(program), add_info(program),       add_demo(program),
                                      add_plot(program),    add_report(program),     add_gradcheck(program),
                                      add_bench(program),   add_completion(program), add_help(program)};
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {  // --help, --version
      program.exit(e);
      require(std::cout.flush().good(), kProgram, "{}", kNotWritten);
      return kSuccess;
    }
    return usage_error(program, explain(e, program));
  }
  for (const Command& command : commands) {
    if (!command.app->parsed()) continue;
    command.run();
    print_device_statistics();
    require(std::fflush(stdout) == 0, kProgram, "{}", kNotWritten);
    return kSuccess;
  }
  fmt::print(stderr, "{}", program.help());
  return kUsageError;
}

}  // namespace

}  // namespace halfstep

int main(int argc, char** argv) {
  try {
    return halfstep::run(argc, argv);
  } catch (const halfstep::Interrupted& e) {
    halfstep::print_message(e.what());
    return halfstep::interrupt_exit_code();
  } catch (const halfstep::Error& e) {
    halfstep::print_message(e.what());
  } catch (const std::exception& e) {
    halfstep::print_message(fmt::format("[halfstep] unexpected failure: {}", e.what()));
  }
  return halfstep::kFailure;
}
