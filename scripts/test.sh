#!/usr/bin/env bash
# Builds halfstep and runs its tests; installs what is missing on Debian 12. The last line counts single tests:
# 'N passed, N failed'.
#
#   scripts/test.sh [--unit] [-DOPTION=VALUE...]
#     --unit    only the unit tests, the quick part
#     -D...     options of the Meson build folder, build/; without -Dcuda the CUDA backend is built for the emulated
#               GPU (docs/cuda.md), with the toolkit that scripts/setup.sh --cuda finds or brings
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

# The emulated GPU is part of the tests wherever a toolkit can be had.
if [[ " ${options[*]}" != *" -Dcuda="* && ! -f build/build.ninja ]]; then
  if scripts/setup.sh --cuda --without-cublas-library; then
    options+=(-Dcuda=emulated)
  else
    echo "Skipped: the tests of the CUDA backend, for which there is no toolkit"
    options+=(-Dcuda=disabled)
  fi
fi

if ! { scripts/install_dependencies.sh && configure build "${options[@]}" && ninja -C build; }; then
  echo "The build failed."
  echo "0 passed, 1 failed"
  exit 1
fi
scripts/run_tests.sh build "${suite[@]}"
