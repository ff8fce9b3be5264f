# shellcheck shell=bash
# Shared by the scripts; sourced, not run. Changes into the root of the project.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# configure DIR [OPTION...]: prepares a Meson build folder, or changes the options of the one that is there.
configure() {
  local dir=$1
  shift
  if [[ ! -f $dir/build.ninja ]]; then
    meson setup "$dir" "$@"
  elif (($# > 0)); then
    meson configure "$dir" "$@"
  fi
}

# usage_error MESSAGE: for a wrong command line.
usage_error() {
  echo "$(basename "$0"): $1 (see --help)" >&2
  exit 2
}

# usage: the comment at the head of the script.
usage() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
}
