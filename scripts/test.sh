#!/usr/bin/env bash
# Builds halfstep and runs its tests; installs what is missing on Debian 12. The last line counts single tests:
# 'N passed, N failed'.
#
#   scripts/test.sh [--unit] [-DOPTION=VALUE...]
#     --unit    only the unit tests, the quick part
#     -D...     options of the Meson build folder, build/
source "$(dirname "$0")/common.sh"

suite=()
options=()
for argument; do
  case $argument in
    --unit) suite=(--suite unit) ;;
    -D*) options+=("$argument") ;;
    -h | --help) usage; exit ;;
    *) usage_error "unknown argument $argument" ;;
  esac
done

if ! { scripts/install_dependencies.sh && configure build "${options[@]}" && ninja -C build; }; then
  echo "The build failed."
  echo "0 passed, 1 failed"
  exit 1
fi
scripts/run_tests.sh build "${suite[@]}"
