// halfstep: diffusion models, distilled to few sampling steps.
#include <cstdio>
#include <vector>

#include "apps/commands.h"
#include "diffusion/run.h"
#include "tensor/error.h"
#include "tensor/nearest.h"

namespace halfstep {

namespace {

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
    "Exit codes: 0 done; 1 failed; 2 wrong command line; 130 stopped by Ctrl-C.\n"
    "\n"
    "halfstep SUBCOMMAND --help explains each.";

const CLI::App& chosen(const CLI::App& program) {
  const auto parsed = program.get_subcommands();
  return parsed.empty() ? program : *parsed.front();
}

/// What the command line holds and nobody knows, with the nearest known name; empty if there is nothing.
std::string explain_unknown(const CLI::App& program) {
  const CLI::App& command = chosen(program);
  for (const std::string& argument : program.remaining(true)) {
    if (argument == "--") continue;
    const bool flag = argument.starts_with("-");
    if (!flag && &command != &program) continue;  // flags first: this may be the value of one of them
    std::vector<std::string> known;
    if (flag) {
      for (const CLI::Option* option : command.get_options())
        for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    } else {
      for (const CLI::App* sub : program.get_subcommands({})) known.push_back(sub->get_name());
    }
    const std::string name = argument.substr(0, argument.find('='));
    return fmt::format("unknown {} '{}'; did you mean '{}'?", flag ? "flag" : "subcommand", name,
                       nearest_name(name, known));
  }
  return {};
}

int usage_error(const CLI::App& program, const std::string& message) {
  const CLI::App& command = chosen(program);
  const std::string name =
      &command == &program ? program.get_name() : program.get_name() + " " + command.get_name();
  fmt::print(stderr, "[{}] {}\nSee {} --help\n", name, message, name);
  return kUsageError;
}

int run(int argc, char** argv) {
  set_command_line(argc, argv);
  CLI::App program(kDescription, "halfstep");
  program.formatter(std::make_shared<HelpFormatter>());
  program.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  program.set_version_flag("--version", program_version(), "show the version");
  program.footer(kFooter);
  const std::vector<Command> commands{add_train(program),     add_distill(program), add_sample(program),
                                      add_predict(program),   add_info(program),    add_demo(program),
                                      add_gradcheck(program), add_plot(program),    add_report(program)};
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success))
      return program.exit(e);  // --help, --version
    const std::string unknown = explain_unknown(program);
    return usage_error(program, unknown.empty() ? e.what() : unknown);
  } catch (const Error& e) {  // a name that a flag does not know
    return usage_error(program, e.what());
  }
  for (const Command& command : commands) {
    if (!command.app->parsed()) continue;
    command.run();
    require(std::fflush(stdout) == 0, "halfstep", "cannot write the result to stdout; is the disk full?");
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
    fmt::print(stderr, "{}\n", e.what());
    return halfstep::kInterrupted;
  } catch (const halfstep::Error& e) {
    fmt::print(stderr, "{}\n", e.what());
  } catch (const std::exception& e) {
    fmt::print(stderr, "[halfstep] unexpected failure: {}\n", e.what());
  }
  return halfstep::kFailure;
}
