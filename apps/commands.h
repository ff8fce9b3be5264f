// The subcommands of `halfstep`, one file each. Every function adds its subcommand to the program.
#pragma once

#include "apps/options.h"

namespace halfstep {

Command add_train(CLI::App& program);
Command add_distill(CLI::App& program);
Command add_sample(CLI::App& program);
Command add_predict(CLI::App& program);
Command add_info(CLI::App& program);
Command add_demo(CLI::App& program);
Command add_gradcheck(CLI::App& program);
Command add_bench(CLI::App& program);
Command add_plot(CLI::App& program);
Command add_report(CLI::App& program);
Command add_completion(CLI::App& program);
/// Last: it knows the subcommands that were added before.
Command add_help(CLI::App& program);

}  // namespace halfstep
