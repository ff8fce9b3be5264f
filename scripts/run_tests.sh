#!/usr/bin/env bash
# Runs the tests of a build folder and counts single tests; the last line is 'N passed, N failed'.
#
#   scripts/run_tests.sh BUILD_FOLDER [ARGUMENT OF MESON TEST...]
source "$(dirname "$0")/common.sh"

build=${1:?the build folder is missing}
shift
log=$build/meson-logs/testlog.json
rm -f "$log"
# Its exit status is not needed: the log names what failed, and a missing log is a failure.
meson test -C "$build" --no-rebuild --print-errorlogs "$@" </dev/null || true
python3 scripts/count_tests.py "$log"
