// halfstep completion SHELL: scripts that complete its command line, made of the description that CLI11
// parses with.
#include <algorithm>
#include <memory>

#include "apps/commands.h"

namespace halfstep {

namespace {

/// What may stand in the place of a value.
enum class Values { none, anything, words, files, folders, settings };

/// A flag with its names, or a positional argument without.
struct Argument {
  std::vector<std::string> names;
  Values values = Values::none;
  std::vector<std::string> words;
  std::string type, help;
};

struct Subcommand {
  std::string name, help;
  std::vector<Argument> flags;
  Argument positional;
};

/// The first clause of a help text: a completion has one line.
std::string clause(const std::string& text) {
  std::string first = text.substr(0, text.find_first_of("\n;:("));
  while (!first.empty() && (first.back() == ' ' || first.back() == '.')) first.pop_back();
  return first;
}

Argument describe(CLI::Option& option) {
  Argument argument{.names = {},
                    .values = Values::anything,
                    .words = words_of(option),
                    .type = option.get_type_name(),
                    .help = clause(option.get_description())};
  for (const std::string& name : option.get_lnames()) argument.names.push_back("--" + name);
  for (const std::string& name : option.get_snames()) argument.names.push_back("-" + name);
  if (option.get_positional()) argument.type = option.get_name(true, false);
  const auto is_any = [&](std::initializer_list<const char*> types) {
    return std::find(types.begin(), types.end(), argument.type) != types.end();
  };
  if (option.get_expected_max() == 0 || option.get_type_size() == 0)
    argument.values = Values::none;
  else if (!argument.words.empty())
    argument.values = Values::words;
  else if (argument.type == kSettingForm)
    argument.values = Values::settings;
  else if (is_any({"DIR", "RUN", "CKPT", "TEACHER"}))
    argument.values = Values::folders;
  else if (is_any({"FILE", "F", "G", "grid.png"}) || option.get_positional())
    argument.values = Values::files;
  if (argument.values == Values::settings)
    for (const std::string& name : setting_names()) argument.words.push_back(name + "=");
  return argument;
}

Subcommand describe(CLI::App& app) {
  Subcommand result{
      .name = app.get_name(), .help = clause(app.get_description()), .flags = {}, .positional = {}};
  for (CLI::Option* option : app.get_options({})) {
    if (!option->get_positional())
      result.flags.push_back(describe(*option));
    else if (result.positional.values == Values::none)
      result.positional = describe(*option);
  }
  return result;
}

std::string joined(const std::vector<std::string>& words, const char* separator = " ") {
  return CLI::detail::join(words, separator);
}

/// `text` with a backslash before each of `special`.
std::string escaped(const std::string& text, const std::string& special) {
  std::string result;
  for (const char c : text) {
    if (special.find(c) != std::string::npos) result += '\\';
    result += c;
  }
  return result;
}

// --- bash --------------------------------------------------------------------------------------------------

/// The statement that offers the values of an argument.
std::string bash_offer(const Argument& argument) {
  switch (argument.values) {
    case Values::words:
      return "words='" + joined(argument.words) + "'";
    case Values::settings:
      return "kind=settings words='" + joined(argument.words) + "'";
    case Values::files:
      return "kind=files";
    case Values::folders:
      return "kind=folders";
    case Values::none:
    case Values::anything:
      break;
  }
  return "kind=none";
}

std::string bash_script(const Subcommand& program, const std::vector<Subcommand>& subcommands) {
  std::string after_flag, otherwise, names;
  for (const Subcommand& sub : subcommands) {
    std::string flags;
    for (const Argument& flag : sub.flags) {
      flags += (flags.empty() ? "" : " ") + joined(flag.names);
      if (flag.values == Values::none) continue;
      std::vector<std::string> patterns;
      for (const std::string& name : flag.names) patterns.push_back("'" + sub.name + " " + name + "'");
      after_flag += "    " + joined(patterns, " | ") + ") " + bash_offer(flag) + " ;;\n";
    }
    otherwise += "      " + sub.name + ") flags='" + flags + "' " +
                 (sub.positional.values == Values::none ? "kind=none" : bash_offer(sub.positional)) + " ;;\n";
    names += (names.empty() ? "" : " ") + sub.name;
  }
  std::string own_flags;
  for (const Argument& flag : program.flags) own_flags += (own_flags.empty() ? "" : " ") + joined(flag.names);
  return R"(# Completion of halfstep for bash 4 and later: source <(halfstep completion bash)
_halfstep() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command='' flags='' kind='words' words='' i
  COMPREPLY=()
  # Bash splits --flag=value at the equals sign.
  if [[ $cur == '=' ]]; then
    cur=''
  elif [[ $prev == '=' ]] && ((COMP_CWORD > 2)); then
    prev=${COMP_WORDS[COMP_CWORD - 2]}
    [[ $prev == -* ]] || return 0 # the value of a setting
  fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [[ ${COMP_WORDS[i]} != -* ]]; then
      command=${COMP_WORDS[i]}
      break
    fi
  done
  case "$command $prev" in
)" + after_flag +
         R"(    *) case $command in
      '') flags=')" +
         own_flags + "' words='" + names + "' ;;\n" + otherwise +
         R"(    esac
    [[ $cur == -* ]] && kind='words' words=$flags ;;
  esac
  case $kind in
    words) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur") ;;
    settings)
      mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
      compopt -o nospace 2>/dev/null
      ;;
    files)
      mapfile -t COMPREPLY < <(compgen -f -- "$cur")
      compopt -o filenames 2>/dev/null
      ;;
    folders)
      mapfile -t COMPREPLY < <(compgen -d -- "$cur")
      compopt -o filenames 2>/dev/null
      ;;
  esac
  return 0
}
complete -F _halfstep halfstep
)";
}

// --- zsh ---------------------------------------------------------------------------------------------------

std::string zsh_text(const std::string& text) {
  std::string result;
  for (const char c : escaped(text, "[]:\\")) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result;
}

std::string zsh_values(const Argument& argument) {
  const std::string message = ":" + zsh_text(argument.type.empty() ? "value" : argument.type) + ":";
  switch (argument.values) {
    case Values::none:
      return "";
    case Values::words:
      return message + "(" + zsh_text(joined(argument.words)) + ")";
    case Values::settings:
      return message + "{compadd -S \"\" -- " + joined(argument.words) + "}";
    case Values::files:
      return message + "_files";
    case Values::folders:
      return message + "_files -/";
    case Values::anything:
      break;
  }
  return message;
}

std::string zsh_script(const std::vector<Subcommand>& subcommands) {
  std::string names, cases;
  for (const Subcommand& sub : subcommands) {
    names += "        '" + sub.name + ":" + zsh_text(sub.help) + "'\n";
    cases += "        " + sub.name + ")\n          _arguments";
    for (const Argument& flag : sub.flags)
      for (const std::string& name : flag.names) {
        const bool takes_value = flag.values != Values::none;
        cases += " \\\n            '" + std::string(flag.values == Values::settings ? "*" : "") + name +
                 (takes_value ? "=" : "") + "[" + zsh_text(flag.help) + "]" + zsh_values(flag) + "'";
      }
    if (sub.positional.values != Values::none)
      cases += " \\\n            '*" + zsh_values(sub.positional) + "'";
    cases += "\n          ;;\n";
  }
  return R"(#compdef halfstep
# Completion of halfstep for zsh: source <(halfstep completion zsh), after compinit.
_halfstep() {
  local context state state_descr line
  typeset -A opt_args
  _arguments -C '--help[show help]' '--version[show the version]' '1: :->command' '*:: :->rest'
  case $state in
    command)
      local -a commands
      commands=(
)" + names +
         R"(      )
      _describe -t commands subcommand commands
      ;;
    rest)
      case $words[1] in
)" + cases +
         R"(      esac
      ;;
  esac
}
# A file of $fpath is the function itself; a sourced one defines it.
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _halfstep "$@"
else
  compdef _halfstep halfstep
fi
)";
}

// --- fish --------------------------------------------------------------------------------------------------

std::string fish_text(const std::string& text) { return "'" + escaped(text, "'\\") + "'"; }

std::string fish_values(const Argument& argument) {
  switch (argument.values) {
    case Values::none:
      return "";
    case Values::words:
    case Values::settings:
      return " -x -a " + fish_text(joined(argument.words));
    case Values::files:
      return " -r -F";
    case Values::folders:
      return " -x -a '(__fish_complete_directories)'";
    case Values::anything:
      break;
  }
  return " -x";
}

std::string fish_script(const std::vector<Subcommand>& subcommands) {
  std::string script =
      "# Completion of halfstep for fish: halfstep completion fish | source\n"
      "complete -c halfstep -f\n"
      "complete -c halfstep -n __fish_use_subcommand -l help -d 'show help'\n"
      "complete -c halfstep -n __fish_use_subcommand -l version -d 'show the version'\n";
  for (const Subcommand& sub : subcommands) {
    script +=
        "complete -c halfstep -n __fish_use_subcommand -a " + sub.name + " -d " + fish_text(sub.help) + "\n";
    // The first word alone is the subcommand: a run may have the name of one.
    const std::string start =
        "complete -c halfstep -n 'set -l words (commandline -opc); test \"$words[2]\" = " + sub.name + "'";
    for (const Argument& flag : sub.flags)
      for (const std::string& name : flag.names)
        script += start + (name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1)) +
                  fish_values(flag) + " -d " + fish_text(flag.help) + "\n";
    if (sub.positional.values == Values::files)
      script += start + " -F\n";
    else if (sub.positional.values != Values::none)
      script += start + fish_values(sub.positional).replace(0, 3, "") + "\n";
  }
  return script;
}

}  // namespace

Command add_completion(CLI::App& program) {
  const auto shell = std::make_shared<std::string>();
  CLI::App& app =
      *program.add_subcommand("completion",
                              "Prints a script that completes halfstep's command lines.\n"
                              "The shell reads it at its start: bash from source <(halfstep completion "
                              "bash) in ~/.bashrc, zsh likewise in ~/.zshrc after compinit, fish from "
                              "~/.config/fish/completions/halfstep.fish.");
  app.add_option("SHELL", *shell, "bash, zsh or fish")->required()->check(one_of({"bash", "zsh", "fish"}));
  app.footer(example("halfstep completion bash"));
  return {&app, [&program, shell] {
            std::vector<Subcommand> subcommands;
            for (CLI::App* sub : program.get_subcommands({})) subcommands.push_back(describe(*sub));
            fmt::print("{}", *shell == "bash"  ? bash_script(describe(program), subcommands)
                             : *shell == "zsh" ? zsh_script(subcommands)
                                               : fish_script(subcommands));
          }};
}

}  // namespace halfstep
