#!/usr/bin/env bash
# Installs the Python packages that tests read halfstep's files with (scripts/python_tools.txt) in a virtual environment,
# build-tools/venv. Needs a network only when something is missing. Tests are skipped without it.
#
#   scripts/python_tools.sh
source "$(dirname "$0")/common.sh"

case ${1:-} in
  '') ;;
  -h | --help) usage; exit ;;
  *) usage_error "unknown argument $1" ;;
esac

venv=build-tools/venv
# Copied last: it stands for an environment that is complete.
installed=$venv/python_tools.txt
cmp -s scripts/python_tools.txt "$installed" && exit
echo "Installing Python packages in $venv"
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --retries 3 -r scripts/python_tools.txt
cp scripts/python_tools.txt "$installed"
