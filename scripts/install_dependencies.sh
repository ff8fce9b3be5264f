#!/usr/bin/env bash
# Installs what is missing to build and run halfstep, on Debian 12 as root or with sudo. Elsewhere it says what is
# missing. Does nothing, and needs no network, when everything is there.
#
#   scripts/install_dependencies.sh [--ci]
#     --ci    also what only continuous integration needs: clang and its sanitizers, and the programs of tests that
#             are skipped without them: Doxygen, Graphviz, Chromium and TensorBoard (scripts/python_tools.sh)
source "$(dirname "$0")/common.sh"

# cmake: Meson finds doctest through it.
packages=(meson ninja-build g++ pkg-config cmake libfmt-dev doctest-dev libstb-dev libcli11-dev nlohmann-json3-dev
  zlib1g-dev libssl-dev libeigen3-dev gnuplot-nox dataset-fashion-mnist)
ci=false
for argument; do
  case $argument in
    --ci)
      ci=true
      packages+=(clang libclang-rt-14-dev doxygen graphviz chromium python3-venv)
      ;;
    -h | --help) usage; exit ;;
    *) usage_error "unknown argument $argument" ;;
  esac
done

install_on_debian() {
  local missing=() package
  for package in "${packages[@]}"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  ((${#missing[@]} == 0)) && return
  local sudo=()
  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
      echo "Missing packages; as root, run: apt-get install ${missing[*]}" >&2
      return 1
    fi
    sudo=(sudo)
  fi
  echo "Installing ${missing[*]}"
  local log
  log=$(mktemp)
  if ! {
    "${sudo[@]}" apt-get update -qq -o Acquire::Retries=3 &&
      "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Acquire::Retries=3 \
        --no-install-recommends "${missing[@]}"
  } >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    echo "Cannot install ${missing[*]}; the messages of apt-get are above" >&2
    return 1
  fi
  rm -f "$log"
}

# report_missing: for other systems; looks for each tool and each header.
report_missing() {
  local missing=() tool compiler=${CXX:-c++} entry
  local tools=(meson ninja pkg-config "$compiler")
  $ci && tools+=(clang++ doxygen dot chromium)
  for tool in "${tools[@]}"; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  for entry in fmt/core.h:fmt nlohmann/json.hpp:nlohmann-json CLI/CLI.hpp:CLI11 doctest/doctest.h:doctest \
    stb/stb_image_write.h:stb zlib.h:zlib openssl/evp.h:openssl; do
    echo "#include <${entry%%:*}>" | "$compiler" -x c++ -std=c++20 -fsyntax-only - 2>/dev/null ||
      missing+=("${entry##*:} (header ${entry%%:*})")
  done
  ((${#missing[@]} == 0)) && return
  {
    echo "This system is not Debian 12, so nothing is installed automatically. Missing:"
    printf '  %s\n' "${missing[@]}"
    echo "Install them with the package manager of this system, with their development files, and try again."
    echo "The data set is Debian's package dataset-fashion-mnist; elsewhere, give its four IDX files with --data."
  } >&2
  return 1
}

# Another Debian than 12 has other versions, and another compiler runtime for the sanitizers.
if [[ $(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}") == "debian 12" ]]; then
  install_on_debian
else
  report_missing
fi
if $ci; then scripts/python_tools.sh; fi
