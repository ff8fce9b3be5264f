#!/usr/bin/env bash
# Brings what a build with CUDA needs beyond scripts/install_dependencies.sh: a CUDA toolkit of version 12 or newer,
# with nvcc, the headers, and the libraries cudart and cuBLAS. Prints the toolkit's folder on the last line. A GPU or
# a driver is not needed to build.
#
#   scripts/setup.sh --cuda [DIR] [--without-cublas-library]
#     --cuda    without DIR, a toolkit on PATH or in /usr/local/cuda is taken as it is; where there is none, and always
#               with DIR, the parts are installed from PyPI into DIR (default build-tools/cuda), of which
#               DIR/bin/nvcc is the compiler. Does nothing when they are there already. Needs python3-venv, a network,
#               and 1.5 GB of disk, most of them for cuBLAS
#     --without-cublas-library
#               of cuBLAS the headers only, which is enough for a build on the emulated GPU
source "$(dirname "$0")/common.sh"

# The parts of CUDA 13.0. crt and nvvm belong to nvcc; cccl has headers that those of the others include.
packages=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85 nvidia-cublas==13.1.0.3)
default_folder=build-tools/cuda

cuda=false
cublas_library=true
folder=
while (($# > 0)); do
  case $1 in
    --cuda)
      cuda=true
      if [[ -n ${2:-} && $2 != -* ]]; then
        folder=$2
        shift
      fi
      ;;
    --without-cublas-library) cublas_library=false ;;
    -h | --help) usage; exit ;;
    *) usage_error "unknown argument $1" ;;
  esac
  shift
done
if ! $cuda; then
  usage
  exit
fi

# is_toolkit FOLDER: whether it has an nvcc of version 12 or newer, and what is compiled and linked with it.
is_toolkit() {
  local version
  [[ -x $1/bin/nvcc && -f $1/include/cuda_runtime.h && -f $1/include/cublasLt.h ]] || return
  # In lib64, in lib, or in Debian's lib/x86_64-linux-gnu.
  ! $cublas_library || compgen -G "$1/lib*/libcublasLt.so" >/dev/null ||
    compgen -G "$1/lib/*/libcublasLt.so" >/dev/null || return
  version=$("$1/bin/nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\..*/\1/p') || return
  ((${version:-0} >= 12))
}

# find_toolkit: prints the folder of the system's toolkit, if there is one.
find_toolkit() {
  local nvcc candidate
  nvcc=$(command -v nvcc) || nvcc=/usr/local/cuda/bin/nvcc
  for candidate in "$nvcc" "$(realpath -m "$nvcc")" /usr/local/cuda/bin/nvcc; do
    candidate=$(dirname "$(dirname "$candidate")")
    if is_toolkit "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# contents: what the file $installed of a complete folder says. One with the library of cuBLAS serves without it, too.
installed=packages.txt
contents() {
  printf '%s\n' "${packages[@]}"
  if $cublas_library; then echo "with the library of cuBLAS"; fi
}

# is_complete FOLDER: whether an earlier run has installed all that this one is asked for.
is_complete() {
  local missing
  [[ -f $1/$installed ]] || return
  missing=$(contents | grep -vxFf "$1/$installed") || true
  [[ -z $missing ]]
}

# The wheels lay the toolkit out as nvcc expects it, with two exceptions: nvcc's profile looks for libraries in lib64,
# and the linker for names without a version.
arrange() {
  local library name
  ln -sfn lib "$1/lib64"
  for library in "$1"/lib/lib*.so.*; do
    name=${library##*/}
    ln -sfn "$name" "$1/lib/${name%%.so.*}.so"
  done
}

# install_toolkit FOLDER: beside it first, so that a FOLDER that is there is complete.
install_toolkit() {
  partial=$1.partial
  trap 'rm -rf "$partial"' EXIT
  rm -rf "$partial"
  mkdir -p "$partial"
  if ! python3 -m venv "$partial/venv"; then
    echo "$(basename "$0"): cannot make a virtual environment to run pip in; on Debian, install python3-venv" >&2
    return 1
  fi
  "$partial/venv/bin/python" -m pip install --quiet --disable-pip-version-check --retries 3 --no-deps \
    --only-binary :all: --target "$partial/wheels" "${packages[@]}"
  local toolkit=$partial/wheels/nvidia/cu13
  $cublas_library || rm -f "$toolkit"/lib/libcublas* "$toolkit"/lib/libnvblas*
  arrange "$toolkit"
  if ! is_toolkit "$toolkit"; then
    echo "$(basename "$0"): the packages ${packages[*]} do not make a toolkit in $toolkit" >&2
    return 1
  fi
  contents >"$toolkit/$installed"
  rm -rf "$1"
  mv "$toolkit" "$1"
}

if [[ -z $folder ]] && toolkit=$(find_toolkit); then
  echo "A CUDA toolkit is there:"
  echo "$toolkit"
  exit
fi

folder=$(realpath -m "${folder:-$default_folder}")
if is_complete "$folder"; then
  echo "The CUDA toolkit is there already:"
elif [[ -e $folder && ! -f $folder/$installed && -n $(ls -A "$folder") ]]; then
  echo "$(basename "$0"): $folder holds other files; name a new or an empty folder" >&2
  exit 1
else
  echo "Installing the CUDA toolkit in $folder"
  install_toolkit "$folder"
fi
echo "$folder"
