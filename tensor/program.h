// Other programs that draw what halfstep describes: Graphviz, gnuplot. Not a public header.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace halfstep {

/// Runs the program `name`, found in PATH, with `arguments` and with `input` as its standard input; returns
/// its standard output. No shell is involved, so nothing needs quoting. Throws Error by the name of `where`
/// if it does not start, followed by `hint` (how to install it), or ends with another status than 0, with its
/// messages.
std::string run_program(std::string_view where, const std::string& name,
                        const std::vector<std::string>& arguments, std::string_view input,
                        std::string_view hint);

}  // namespace halfstep
