// halfstep help SUBCOMMAND: what halfstep SUBCOMMAND --help shows.
#include <memory>

#include "apps/commands.h"

namespace halfstep {

Command add_help(CLI::App& program) {
  const auto subcommand = std::make_shared<std::string>();
  CLI::App& app =
      *program.add_subcommand("help",
                              "Shows the help of a subcommand.\n"
                              "As halfstep SUBCOMMAND --help does, and halfstep --help without one.");
  std::vector<std::string> names;
  for (const CLI::App* known : program.get_subcommands({})) names.push_back(known->get_name());
  app.add_option("SUBCOMMAND", *subcommand, "a name of the list in halfstep --help")->check(one_of(names));
  app.footer(example("halfstep help train"));
  return {&app, [&program, subcommand] {
            const CLI::App& chosen = subcommand->empty() ? program : *program.get_subcommand(*subcommand);
            // CLI::App::help() would show the subcommand that was parsed: this one.
            fmt::print("{}", program.get_formatter()->make_help(&chosen, program.get_name(),
                                                                CLI::AppFormatMode::Normal));
          }};
}

}  // namespace halfstep
